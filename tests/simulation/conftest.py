"""Options to replay a run: pytest tests/simulation --world one --faults rough --seed 7 --steps 20000."""

from __future__ import annotations

import pytest

from tests.simulation.faults import MIXES
from tests.simulation.simulation import WORLDS, Case

SEEDS = 12
STEPS = 28_000
MIXES_RUN = (("one", "rough"), ("one", "lawless"), ("several", "remote"))
CASES = [Case(world, faults, seed, STEPS) for world, faults in MIXES_RUN for seed in range(SEEDS)]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("simulation")
    group.addoption("--seed", type=int, help="replay the run of this seed alone")
    group.addoption("--steps", type=int, default=STEPS, help="of a replayed run")
    group.addoption("--world", choices=sorted(WORLDS), default="one", help="of a replayed run")
    group.addoption("--faults", choices=sorted(MIXES), default="rough", help="of a replayed run")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    # Without this folder in the arguments pytest has not read the options.
    seed = metafunc.config.getoption("--seed", default=None)
    cases = CASES
    if seed is not None:
        option = metafunc.config.getoption
        cases = [Case(option("--world"), option("--faults"), seed, option("--steps"))]
    metafunc.parametrize("case", cases, ids=lambda case: f"{case.world}-{case.faults}-{case.seed}")
