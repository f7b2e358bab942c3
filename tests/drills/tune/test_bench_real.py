"""Runs of a point on real replicas, with a bundle that needs no training."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from drills.rig.cluster import ClusterPlan
from drills.rig.shop import synthetic_shop
from drills.tune.bench import Bench
from drills.tune.outcome import Outcome
from drills.tune.profile import Profile, load_profile
from drills.tune.space import CHECK, TTL, shipped
from muster.client import ClientSettings
from tests.fixtures.tiny_bundle import build

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("rankcore._native") is None,
    reason="the ranking core is not built; run `make build`",
)


def bench(folder: Path, **changes: object) -> Bench:
    bundle = folder / "tiny"
    build(bundle)
    quick = load_profile("quick").model_dump()
    profile = Profile.model_validate({**quick, "products": 60, "flood_s": 0.5, **changes})
    plan = ClusterPlan(bundle=bundle, settings={"generation": {"rebuild": False}})
    made = Bench(folder / "run", plan, synthetic_shop(60, 1, queries=20), profile, ClientSettings())
    made.capacity_per_s = 50.0
    made.prepare()
    return made


@pytest.mark.timeout(300)
def test_a_run_tells_what_a_kill_and_a_flood_cost_and_that_nothing_was_lost(tmp_path: Path) -> None:
    # A lease that a machine busy with other things does not end, and no hang that waits for its end.
    point = {**shipped(), TTL: 4000, CHECK: 60, "replicas": 2}
    made = bench(tmp_path, hangs=0, read_deadline_ms=2000.0)
    (outcome,) = made.measure(point, [1])
    assert outcome.violations == ()
    assert 0 < outcome.unavailable_s < made.profile.hang_max_s + 6.0
    assert outcome.figures["unavailable_by_fault_s"]["kill"] == [outcome.unavailable_s]
    assert outcome.figures["flood_offered"] > 20
    assert 0 <= outcome.flood_missed_share <= 1 and 0 <= outcome.quality_lost_share <= 1
    assert outcome.replicas == 2
    assert Outcome.from_plain(outcome.plain()) == replace(outcome, figures=dict(outcome.figures))
    assert not list((tmp_path / "run" / "clusters").glob("*/data")), "its data are gone"


@pytest.mark.rehearsal
@pytest.mark.timeout(300)
def test_a_lease_shorter_than_a_harmless_pause_is_found_to_be_invalid(tmp_path: Path) -> None:
    made = bench(tmp_path, hangs=0, pauses=3, harmless_pause_ms=400.0)
    (outcome,) = made.measure({**shipped(), TTL: 200}, [1])
    assert any("false takeover" in one for one in outcome.violations)
    (sound,) = made.measure({**shipped(), TTL: 3000, CHECK: 60}, [1])
    assert not sound.violations
