"""Rounds of calls, and the simulated shoppers that some of them ask for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from benchmarks.rounds import call_round
from benchmarks.shoppers import histories
from muster.client import DeadlineExceeded
from muster.v1 import ranking_pb2


def test_each_call_is_made_once_and_failures_are_no_fast_answers() -> None:
    asked: list[int] = []

    def ask(client: Any, index: int) -> Any:
        asked.append(index)
        if index % 4 == 0:
            raise DeadlineExceeded("late")
        return SimpleNamespace(
            receipt=ranking_pb2.Receipt(tier=ranking_pb2.TIER_HYBRID, depth=10, expected_ndcg=0.5)
        )

    for callers in (1, 3):
        asked.clear()
        found = call_round(None, ask, callers=callers, calls=10)  # type: ignore[arg-type]
        assert sorted(asked) == list(range(10))
        assert (len(found.latencies_ms), found.failures, found.quality) == (
            7,
            {"DeadlineExceeded": 3},
            [0.5] * 7,
        )
        assert found.plans == {"hybrid@10": 7}


def test_a_seed_draws_the_same_shoppers_who_take_nothing_twice() -> None:
    shoppers = histories(300, 50, 7)
    assert shoppers == histories(300, 50, 7) != histories(300, 50, 8)
    assert all(len(set(items)) == len(items) > 2 for items in shoppers)
