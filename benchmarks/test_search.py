"""Whole path: a search from the client's call to its parsed answer, over a real replica on loopback.

Question: how long does a search take, by plan, by catalogue size, by deadline, alone and among 16 callers?
Excluded: process start, loading and building (their time is stored beside), connecting (the warm-up round).
Each round is 64 searches; the figure of one search is the round's time / 64, percentiles are in `extra_info`.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.rounds import CALLS, ROUNDS, UNHURRIED_MS, measure, searching
from benchmarks.service import Services

DEADLINES_MS = (5, 20, 50, 200)

pytestmark = pytest.mark.timeout(3600)  # the largest catalogue is encoded first


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
    ask = searching(serving, UNHURRIED_MS)
    rounds = measure(benchmark, serving, ask, callers=callers, seed=seed, deadline_ms=UNHURRIED_MS)
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
    ask = searching(serving, deadline_ms)
    rounds = measure(benchmark, serving, ask, callers=callers, seed=seed, deadline_ms=deadline_ms)
    assert sum(len(one.latencies_ms) + one.failures.total() for one in rounds) == ROUNDS * CALLS
