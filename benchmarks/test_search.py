"""Whole path: a search from the client's call to its parsed answer, over a real replica on loopback.

Question: how long does a search take, by plan, by catalogue size, by deadline, alone and among 16 callers?
Excluded: process start, loading and building (their time is stored beside), connecting (the warm-up round).
Each round is 64 searches; the figure of one search is the round's time / 64, percentiles are in `extra_info`.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.service import Round, Services, Serving, describe, search_round
from muster.client import Client

SEARCHES = 64
ROUNDS = 8
DEADLINES_MS = (5, 20, 50, 200)
UNHURRIED_MS = 5000.0

pytestmark = pytest.mark.timeout(3600)  # the largest catalogue is encoded first


def measure(benchmark: Any, serving: Serving, *, callers: int, deadline_ms: float, seed: int) -> list[Round]:
    """Runs the rounds and stores what they brought."""
    rounds: list[Round] = []
    with Client(serving.cluster.addresses) as client:

        def one() -> None:
            rounds.append(
                search_round(
                    client, serving.queries, callers=callers, searches=SEARCHES, deadline_ms=deadline_ms
                )
            )

        benchmark.pedantic(one, rounds=ROUNDS, warmup_rounds=2)
    measured = rounds[-ROUNDS:]
    benchmark.extra_info.update(describe(serving, measured, seed=seed))
    benchmark.extra_info.update(
        {"searches_a_round": SEARCHES, "callers": callers, "deadline_ms": deadline_ms}
    )
    seconds = sum(benchmark.stats.stats.data)
    answered = sum(len(one.latencies_ms) for one in measured)
    benchmark.extra_info["answered_per_s"] = round(answered / seconds, 1)
    return measured


@pytest.mark.benchmark(group="plan")
def test_each_plan(
    benchmark: Any,
    services: Services,
    plan: dict[str, Any],
    callers: int,
    request: pytest.FixtureRequest,
) -> None:
    """A bundle with one plan and a long deadline: what this tier at this depth costs."""
    serving = services.serve(request.config.getoption("--plan-size"), plan)
    seed = request.config.getoption("--seed")
    rounds = measure(benchmark, serving, callers=callers, deadline_ms=UNHURRIED_MS, seed=seed)
    executed = {name.partition("@")[0] for one in rounds for name in one.plans}
    # Where others wait, a request that lags behind its prediction stops with the order it has.
    assert plan["tier"] in executed if callers > 1 else executed == {plan["tier"]}


@pytest.mark.benchmark(group="size")
@pytest.mark.parametrize("deadline_ms", DEADLINES_MS)
def test_each_size_and_deadline(
    benchmark: Any,
    services: Services,
    size: int,
    callers: int,
    deadline_ms: int,
    request: pytest.FixtureRequest,
) -> None:
    """The whole ladder: the deadline picks the plan, the catalogue grows."""
    serving = services.serve(size)
    seed = request.config.getoption("--seed")
    rounds = measure(benchmark, serving, callers=callers, deadline_ms=deadline_ms, seed=seed)
    assert sum(len(one.latencies_ms) + one.failures.total() for one in rounds) == ROUNDS * SEARCHES
