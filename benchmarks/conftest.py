"""Options of the benchmarks, and the services that they share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.service import Services
from drills.experiment import Inconclusive
from drills.rig.cluster import find_bundle

SIZES = "5000,26000,100000"
CONCURRENCY = "1,16"


def pytest_addoption(parser: pytest.Parser) -> None:
    """A short run: `pytest benchmarks --sizes 5000 --concurrency 1`."""
    group = parser.getgroup("muster")
    group.addoption("--sizes", default=SIZES, help=f"catalogue sizes, joined by commas (default {SIZES})")
    group.addoption(
        "--concurrency",
        default=CONCURRENCY,
        help=f"callers at once, joined by commas (default {CONCURRENCY})",
    )
    group.addoption(
        "--plan-size", type=int, default=5000, help="catalogue of the benchmark over single plans"
    )
    group.addoption("--bundle", type=Path, default=None, help="model bundle (default models/muster-base)")
    group.addoption("--seed", type=int, default=1, help="of the synthetic catalogues")


def numbers(text: str) -> list[int]:
    """ "1,16" as [1, 16]. Raises: pytest.UsageError."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise pytest.UsageError(f"not a list of numbers: {text!r}") from error
    if not all(number > 0 for number in found):
        raise pytest.UsageError(f"must be above 0: {text!r}")
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Sizes, callers and plans become parameters; services are started once for all that share one."""
    if "size" in metafunc.fixturenames:
        metafunc.parametrize("size", numbers(metafunc.config.getoption("--sizes")), scope="session")
    if "callers" in metafunc.fixturenames:
        metafunc.parametrize("callers", numbers(metafunc.config.getoption("--concurrency")))
    if "plan" in metafunc.fixturenames:
        try:
            plans = Services.plans_of(find_bundle(metafunc.config.getoption("--bundle")))
        except Inconclusive:
            plans = []
        names = [f"{plan['tier']}@{plan['depth']}" for plan in plans]
        metafunc.parametrize("plan", plans, ids=names, scope="session")


@pytest.fixture(scope="session")
def services(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Starts replicas on demand, one service at a time; skips where there is no bundle to serve."""
    try:
        bundle = find_bundle(request.config.getoption("--bundle"))
    except Inconclusive as reason:
        pytest.skip(str(reason))
    with Services(
        bundle, tmp_path_factory.mktemp("services"), seed=request.config.getoption("--seed")
    ) as running:
        yield running
