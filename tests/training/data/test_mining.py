"""Mined examples hold the right product, wrong ones that are near, and nothing that was held out."""

from __future__ import annotations

import numpy as np
import pytest

from muster.v1 import catalogue_pb2
from tests.training.conftest import Workplace
from training.data.mining import (
    Example,
    Pool,
    labelled_example,
    negatives_allowed,
    structure_example,
    synthetic_example,
    title_query,
)
from training.data.overlap import words_of
from training.prepare import JudgedQuery, load_prepared
from training.recipe import RecipeError


@pytest.fixture(scope="module")
def pool(workplace: Workplace) -> Pool:
    return Pool(workplace.recipe, load_prepared(workplace.run), held_out=0.2)


def drawn(pool: Pool, make: object, held_out: bool = False) -> list[Example]:
    chooser = np.random.default_rng(1)
    found = [make(pool, chooser, negatives=2, held_out=held_out) for _ in range(40)]  # type: ignore[operator]
    return [one for one in found if one is not None]


def test_a_synthetic_query_is_answered_by_its_first_product_and_graded_for_the_others(pool: Pool) -> None:
    examples = drawn(pool, synthetic_example)
    assert len(examples) > 10
    grades = set()
    for one in examples:
        assert one.targets[0] == 1.0
        assert len(set(one.keys)) == len(one.keys) == len(one.targets)
        grades |= set(one.targets)
    assert grades >= {0.0, 1.0}


def test_the_hard_negatives_of_a_synthetic_query_share_words_and_lack_one(pool: Pool) -> None:
    examples = drawn(pool, synthetic_example)
    negatives = 0
    for one in examples:
        for key, target in zip(one.keys, one.targets, strict=True):
            if target == 0.0:
                negatives += 1
                words = pool.overlap.words[pool.overlap.at[key]]
                assert one.asked & words
                assert not one.asked <= words
    assert negatives >= len(examples)


def test_a_title_query_is_a_run_of_words_near_the_start_of_the_title(pool: Pool) -> None:
    chooser = np.random.default_rng(2)
    for product in list(pool.products.values())[:60]:
        text = title_query(product, chooser)
        assert text is not None
        assert set(words_of(text)) <= set(words_of(product.title))


def test_a_title_is_asked_against_the_rest_of_its_product(pool: Pool) -> None:
    examples = drawn(pool, structure_example)
    assert examples
    for one in examples:
        assert one.targets[0] == 1.0 and not any(one.targets[1:])
        assert one.query == pool.asked(pool.products[one.keys[0]].title)
        assert len(set(one.keys)) == len(one.keys)
        for other in one.keys[1:]:
            assert pool.products[other].title != pool.products[one.keys[0]].title


@pytest.mark.parametrize("make", [structure_example, synthetic_example])
def test_training_never_meets_what_was_held_out(pool: Pool, make: object) -> None:
    for held_out in (False, True):
        for one in drawn(pool, make, held_out):
            assert {pool.is_held_out(key) for key in one.keys} == {held_out}
    share = np.mean([pool.is_held_out(key) for key in pool.products])
    assert 0.1 < share < 0.3


def test_titles_without_spaces_can_be_asked_for() -> None:
    title = "红色透气跑步运动鞋男款"
    text = title_query(catalogue_pb2.Product(title=title), np.random.default_rng(3))
    assert text and text in title
    assert title_query(catalogue_pb2.Product(title="-- !"), np.random.default_rng(3)) is None


def example(pool: Pool, keys: list[str], asked: str, *, open: bool = True) -> Example:
    rows = [pool.rows[key] for key in keys]
    return Example(pool.asked(asked), frozenset(words_of(asked)), keys, rows, [1.0] * len(keys), open)


def test_an_unlabelled_answer_is_no_negative(pool: Pool) -> None:
    key, other = list(pool.products)[:2]
    title = pool.products[other].title
    first = example(pool, [key], title)
    allowed = negatives_allowed(pool, [first, example(pool, [other], "zzz"), example(pool, [key], "zzz")])
    # The second product holds all that the first query asks for; the third is the first's own.
    assert allowed[0] == [True, False, False]
    assert allowed[1] == [True, True, True]
    closed = example(pool, [key], "zzz", open=False)
    assert negatives_allowed(pool, [closed, first])[0] == [True, False]


def test_a_labelled_example_keeps_the_best_and_grades_them_by_the_recipe(
    workplace: Workplace, pool: Pool
) -> None:
    query = next(one for one in load_prepared(workplace.run).of("shop", "train") if len(one.gains) > 6)
    one = labelled_example(pool, query, np.random.default_rng(4), candidates=4)
    assert one is not None
    wanted = {f"shop/{key}": workplace.recipe.data[0].targets[str(gain)] for key, gain in query.gains.items()}
    assert len(one.keys) == 4
    assert one.targets == [wanted[key] for key in one.keys]
    assert one.targets[0] == max(wanted.values())
    assert one.open == (len(set(one.targets)) == 1)
    single = labelled_example(
        pool,
        JudgedQuery("shop", "q", "train", query.text, {next(iter(query.gains)): 3.0}),
        np.random.default_rng(4),
        candidates=4,
    )
    assert single is not None and single.open


def test_a_gain_without_a_target_is_named(pool: Pool) -> None:
    key = next(iter(pool.products)).removeprefix("shop/")
    query = JudgedQuery("shop", "q", "train", "shoes", {key: 7.0})
    with pytest.raises(RecipeError, match=r"data\.shop\.targets says nothing of the gain 7\.0"):
        labelled_example(pool, query, np.random.default_rng(5), candidates=4)
