"""What people did beside what they do at its positions puts a pair into the queue."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from muster.insight.errors import InsightError
from muster.insight.events import Events, with_sessions
from muster.labelling import queue as queues
from muster.labelling.queue import COMMENTED, CONTRADICTED, PASSED_OVER, SOUGHT_OUT, Pair, queue
from tests.muster.insight.event_rows import events, row

PEOPLE = 60
SEEN = {1: 0.6, 2: 0.3, 3: 0.1}
"""Chance of a click by position, of ordinary products."""


def shop(*more: dict[str, Any], unwanted: str = "", wanted: str = "", seed: int = 5) -> Events:
    """People who ask for mice and lamps, three products each; one of them nobody clicks, another one nearly
    all.
    """
    draw = np.random.default_rng(seed)
    rows = []
    for query, names in (("Mouse", ("m1", "m2", "m3")), ("lamp", ("l1", "l2", "l3"))):
        for person in range(PEOPLE):
            answer = {"query": query, "receipt_id": f"{query}{person}"}
            for position, product in enumerate(names, start=1):
                rows.append(row("view", person, product_id=product, position=position, **answer))
                chance = {unwanted: 0.0, wanted: 0.95}.get(product, SEEN[position])
                if draw.random() < chance:
                    rows.append(row("click", person, product_id=product, position=position, **answer))
    return with_sessions(events([*rows, *more]))


def reasons(found: list[Pair]) -> dict[tuple[str, str], tuple[str, ...]]:
    return {(pair.query, pair.product_id): pair.reasons for pair in found}


def test_ordinary_clicks_give_nothing_to_judge() -> None:
    assert sum(len(queue(shop(seed=seed))) for seed in range(20)) <= 2


def test_what_is_passed_over_in_the_first_place_and_sought_out_in_the_third_is_found() -> None:
    found = reasons(queue(shop(unwanted="m1", wanted="l3")))
    assert found[("mouse", "m1")] == (PASSED_OVER,)
    assert found[("lamp", "l3")] == (SOUGHT_OUT,)
    first = queue(shop(unwanted="m1"))[0]
    assert (first.product_id, first.people, first.clicked) == ("m1", PEOPLE, 0)
    # A rate of its position that it takes part in itself.
    assert first.expected == pytest.approx(PEOPLE * SEEN[1] / 2, rel=0.3)


def test_a_person_who_looks_every_day_is_one_opinion() -> None:
    again = [
        row("view", 0, product_id="m2", position=1, query="mouse", receipt_id=f"again{number}")
        for number in range(300)
    ]
    assert reasons(queue(shop(*again))) == {}


def test_a_comment_puts_a_pair_into_the_queue_uncounted_and_unquoted() -> None:
    told = row(
        "comment", 3, product_id="m2", query="mouse", receipt_id="Mouse3", comment="not a mouse, says Anna"
    )
    [pair] = queue(shop(told))
    assert (pair.query, pair.product_id, pair.reasons) == ("mouse", "m2", (COMMENTED,))
    assert "anna" not in repr(pair).casefold()


def test_a_query_of_few_people_is_not_named_and_one_with_personal_data_is_scrubbed() -> None:
    few = [
        row("comment", person, product_id="m2", query="gift for bert", receipt_id=f"b{person}")
        for person in range(9)
    ]
    assert ("gift for bert", "m2") not in reasons(queue(shop(*few)))
    many = [
        row("comment", person, product_id="m2", query="write to anna@example.org", receipt_id=f"a{person}")
        for person in range(10)
    ]
    [found] = queue(shop(*many))
    assert "anna@example.org" not in found.query


def test_pairs_that_are_judged_come_back_only_where_people_contradict_it() -> None:
    shoppers = shop(unwanted="m1", wanted="l3")
    agreed = {"mouse": {"m1": 0.0, "m2": 1.0}, "lamp": {"l3": 1.0}}
    assert reasons(queue(shoppers, judged=agreed)).keys().isdisjoint({("mouse", "m1"), ("lamp", "l3")})
    wrong = {"mouse": {"m1": 1.0}, "lamp": {"l3": 0.0, "l1": 1.0}}
    found = reasons(queue(shoppers, judged=wrong))
    assert found[("mouse", "m1")] == (PASSED_OVER, CONTRADICTED)
    assert found[("lamp", "l3")] == (SOUGHT_OUT, CONTRADICTED)


def test_the_limit_keeps_what_concerns_most_people() -> None:
    whole = queue(shop(unwanted="m1", wanted="l3"))
    assert queue(shop(unwanted="m1", wanted="l3"), limit=1) == whole[:1]
    assert [pair.weight for pair in whole] == sorted((pair.weight for pair in whole), reverse=True)


def test_events_that_tell_nothing_of_what_was_shown_are_refused() -> None:
    with pytest.raises(InsightError, match="record views"):
        queue(
            with_sessions(
                events([row("click", person, product_id="m1", query="mouse") for person in range(20)])
            )
        )


@pytest.mark.parametrize(
    ("count", "mean"), [(0, 0.0), (0, 8.0), (3, 8.0), (8, 8.0), (20, 8.0), (2, 1e-9), (900, 500.0)]
)
def test_a_tail_is_that_of_the_poisson_distribution(count: int, mean: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    true = stats.poisson.cdf(count, mean) if count < mean else stats.poisson.sf(count - 1, mean)
    assert math.isclose(queues._tail(count, mean), true, rel_tol=1e-6, abs_tol=1e-9)
