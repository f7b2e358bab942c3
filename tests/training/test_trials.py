"""What a student of a trial is made of, and when it is given up."""

from __future__ import annotations

import pytest

from tests.training.conftest import Workplace
from training.recipe import Recipe
from training.trials import Rival, beaten, chosen_layers, layer_choices, settings_of

QUERIES = [str(number) for number in range(30)]


def quality(mean: float, *, spread: float = 0.0, queries: list[str] = QUERIES) -> dict[str, dict[str, float]]:
    return {"shop": {query: mean + (spread if int(query) % 2 else -spread) for query in queries}}


def test_a_trial_that_a_cheaper_one_betters_is_given_up() -> None:
    rivals = [Rival("the rival", 10.0, quality(0.8))]
    why = beaten(quality(0.7, queries=QUERIES[:15]), 10.0, rivals, seed=1)
    assert why is not None and why.startswith("the rival is 0.1000")


@pytest.mark.parametrize(
    ("own", "ms", "rivals"),
    [
        (quality(0.7), 10.0, []),
        (quality(0.7), 10.0, [Rival("dearer", 10.1, quality(0.9))]),
        (quality(0.8), 10.0, [Rival("worse", 5.0, quality(0.7))]),
        (quality(0.79, spread=0.3), 10.0, [Rival("luckier", 5.0, quality(0.8))]),
    ],
    ids=["alone", "only a dearer one is better", "better itself", "chance may hold it back"],
)
def test_a_trial_that_can_still_win_goes_on(
    own: dict[str, dict[str, float]], ms: float, rivals: list[Rival]
) -> None:
    assert beaten(own, ms, rivals, seed=1) is None


def test_only_the_queries_that_both_were_asked_are_compared() -> None:
    # The rival is better over all, and only on queries of a fold that is still to come.
    rival = {"shop": {query: 0.5 if int(query) < 15 else 1.0 for query in QUERIES}}
    assert beaten(quality(0.6, queries=QUERIES[:15]), 10.0, [Rival("later", 5.0, rival)], seed=1) is None


def test_layers_are_all_the_first_or_spread(workplace: Workplace) -> None:
    recipe: Recipe = workplace.recipe
    assert layer_choices(recipe, 6) == [
        "all",
        "4 spread",
        "first 4",
        "3 spread",
        "first 3",
        "2 spread",
        "first 2",
    ]
    assert layer_choices(recipe, 2) == ["all"]
    assert [chosen_layers(name, 6) for name in ("all", "first 2", "2 spread", "3 spread")] == [
        [0, 1, 2, 3, 4, 5],
        [0, 1],
        [2, 5],
        [1, 3, 5],
    ]


def test_what_is_not_searched_is_as_in_the_recipes_first_student(workplace: Workplace) -> None:
    params = {"layers": "first 1", "inner": 0.5, "training": "labels", "learning_rate": 3e-5, "dropout": 0.1}
    made = settings_of(workplace.recipe, params, 2)
    own = workplace.recipe.cross_small
    assert own is not None
    assert (made.group, made.bce_weight, made.warm_up) == (own.group, own.bce_weight, own.warm_up)
    assert (made.start, made.layers, made.inner, made.learning_rate) == ("teacher", [0], 0.5, 3e-5)
    assert made.steps == workplace.recipe.search.steps and not made.augmented and made.trains()
    whole = settings_of(workplace.recipe, {"layers": "all", "inner": 1.0, "training": "none"}, 2)
    assert whole.layers == [0, 1] and not whole.trains()
