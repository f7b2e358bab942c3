from __future__ import annotations

import pytest

from server.standby.lease import LeaseConfig
from tests.simulation.clock import MS
from tests.simulation.conftest import CASES
from tests.simulation.invariants import InvariantBroken
from tests.simulation.regressions import REGRESSIONS, Regression
from tests.simulation.simulation import Case, Simulation


def test_no_trouble_breaks_an_invariant(case: Case) -> None:
    simulation = Simulation(case).run()
    witness = simulation.world.witness
    if case.steps >= 10_000:
        assert len(witness.epochs) > 2, "the run was too calm to show anything"
        assert len(witness.acknowledged) > 50, "the run was too rough to show anything"
        assert witness.reads > 20


def test_the_runs_are_a_million_steps() -> None:
    assert sum(case.steps for case in CASES) >= 1_000_000


def test_a_run_is_a_function_of_its_case() -> None:
    case = Case("one", "rough", 3, 4000)
    first, second = (Simulation(case).run() for _ in range(2))
    assert first.steps == second.steps
    assert first.world.tables.log == second.world.tables.log
    assert list(first.world.witness.trail) == list(second.world.witness.trail)


def test_the_troubles_reach_what_they_are_meant_for() -> None:
    """Late appends are fenced, hung holders killed, unknown outcomes sent again."""
    lawless = [Simulation(Case("one", "lawless", seed, 8000)).run().world.witness for seed in range(4)]
    assert sum(witness.fenced for witness in lawless) > 0
    assert sum(witness.killed for witness in lawless) > 0
    assert sum(witness.resent for witness in lawless) > 10
    assert sum(len(witness.refused) for witness in lawless) > 0


@pytest.mark.parametrize("world", ["one", "several"])
def test_without_trouble_the_first_primary_stays_and_every_write_is_acknowledged(world: str) -> None:
    witness = Simulation(Case(world, "none", 1, 6000)).run().world.witness
    assert list(witness.epochs) == [1]
    assert len(witness.acknowledged) > 50
    assert not witness.killed


@pytest.mark.parametrize("seed", range(3))
def test_a_store_that_takes_no_writes_ends_the_reign_but_nobody_is_killed_for_it(seed: int) -> None:
    simulation = Simulation(Case("one", "none", seed, 2000))
    world = simulation.world
    run_for(simulation, 2000)
    assert len(world.witness.epochs) == 1
    world.store.full = True
    run_for(simulation, 30 * LeaseConfig().ttl_ms)
    assert world.writers() == []
    world.store.full = False
    run_for(simulation, 3 * LeaseConfig().ttl_ms)
    assert len(world.writers()) == 1
    assert not world.witness.killed


def run_for(simulation: Simulation, for_ms: int) -> None:
    ends_ns = simulation.world.clock.now_ns + for_ms * MS
    while simulation.world.clock.now_ns < ends_ns:
        simulation.world.clock.step()


def test_a_breach_names_its_replay_and_what_came_before() -> None:
    simulation = Simulation(Case("one", "rough", 5, 3000))
    simulation.world.witness.acknowledged["never-written"] = 1
    with pytest.raises(InvariantBroken) as caught:
        simulation.run()
    notes = "\n".join(caught.value.__notes__)
    assert "replay: pytest tests/simulation --world one --faults rough --seed 5 --steps 3000" in notes
    assert "primary of 1" in notes


@pytest.mark.parametrize("regression", REGRESSIONS, ids=lambda one: str(one.case.seed))
def test_what_a_run_has_found_stays_mended(regression: Regression) -> None:
    Simulation(regression.case).run()
    with pytest.raises(InvariantBroken):
        Simulation(regression.case, regression.as_it_was).run()
