"""Whole path of recommendations: from the client's call to its parsed answer, over a real replica.

Question: how long does a recommendation take beside a search of the same replica, by the length of the
history and by the tier that the deadline leaves, alone and among 16 callers?
Excluded: process start, loading and building, training the section (on simulated shoppers), connecting.
Each round is 64 calls; the figure of one call is the round's time / 64, percentiles are in `extra_info`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.rounds import CALLS, ROUNDS, UNHURRIED_MS, Ask, measure, searching
from benchmarks.service import Services
from benchmarks.shoppers import histories, trained
from drills.experiment import Inconclusive
from drills.rig.cluster import find_bundle

SHOPPERS = 3000
PRODUCTS = 5000
TAKEN = (1, 5, 50)
DEADLINES_MS = (2, 5, 50)

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="session")
def taught(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that recommends products of the synthetic catalogue."""
    try:
        base = find_bundle(request.config.getoption("--bundle"))
    except Inconclusive as reason:
        pytest.skip(str(reason))
    seed = request.config.getoption("--seed")
    folder = tmp_path_factory.mktemp("shoppers") / "taught"
    return trained(base, folder, products=PRODUCTS, shoppers=SHOPPERS, seed=seed)


def recommending(seed: int, taken: int, deadline_ms: float) -> Ask:
    """Asks for each of 64 shoppers in turn, each with a history of `taken` products."""
    shoppers = histories(PRODUCTS, 40 * CALLS, seed + 1)
    joined = [
        list(dict.fromkeys(item for items in shoppers[number::CALLS] for item in items))[:taken]
        for number in range(CALLS)
    ]
    return lambda client, index: client.recommend(joined[index % CALLS], deadline_ms=deadline_ms)


@pytest.mark.benchmark(group="recommend")
@pytest.mark.parametrize("taken", TAKEN)
def test_each_length_of_history(
    benchmark: Any, services: Services, taught: Path, taken: int, callers: int, request: pytest.FixtureRequest
) -> None:
    """A long deadline: the best tier that the history allows."""
    seed = request.config.getoption("--seed")
    serving = services.serve(PRODUCTS, bundle=taught)
    ask = recommending(seed, taken, UNHURRIED_MS)
    rounds = measure(
        benchmark, serving, ask, callers=callers, seed=seed, taken=taken, deadline_ms=UNHURRIED_MS
    )
    # A history of one product that nobody had taken is answered by texts.
    assert "ordered" in {name.partition("@")[0] for one in rounds for name in one.plans}


@pytest.mark.benchmark(group="recommend")
@pytest.mark.parametrize("deadline_ms", DEADLINES_MS)
def test_each_deadline(
    benchmark: Any,
    services: Services,
    taught: Path,
    deadline_ms: int,
    callers: int,
    request: pytest.FixtureRequest,
) -> None:
    """The deadline picks the tier."""
    seed = request.config.getoption("--seed")
    serving = services.serve(PRODUCTS, bundle=taught)
    ask = recommending(seed, TAKEN[1], deadline_ms)
    rounds = measure(
        benchmark, serving, ask, callers=callers, seed=seed, taken=TAKEN[1], deadline_ms=deadline_ms
    )
    assert sum(len(one.latencies_ms) + one.failures.total() for one in rounds) == ROUNDS * CALLS


@pytest.mark.benchmark(group="recommend")
def test_a_search_of_the_same_replica(
    benchmark: Any, services: Services, taught: Path, callers: int, request: pytest.FixtureRequest
) -> None:
    """What the figures of the group are to be held against."""
    seed = request.config.getoption("--seed")
    serving = services.serve(PRODUCTS, bundle=taught)
    ask = searching(serving, UNHURRIED_MS)
    measure(benchmark, serving, ask, callers=callers, seed=seed, deadline_ms=UNHURRIED_MS)
