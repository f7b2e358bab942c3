"""Exploring on scripted replicas: sound ones hold, a planted mistake is found and its schedule shrinks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drills import explore
from drills.failover import Setup, Traffic
from drills.judges.explored import ExploreLimits
from drills.rig.cluster import ClusterPlan
from drills.rig.shop import synthetic_shop
from drills.schedule import CUT, KILL, PRIMARY, STANDBY, Limits, Schedule, Step

LIMITS = ExploreLimits(back_s=6.0, read_error_share_max=0.5)


def setup(plan: ClusterPlan, folder: Path) -> Setup:
    traffic = Traffic(reads_per_s=30.0, writes_per_s=30.0, read_deadline_ms=2_000.0)
    return Setup(
        folder=folder, shop=synthetic_shop(20, 1), plan=plan, runs=1, seed=1, traffic=traffic, proxied=True
    )


@pytest.mark.rehearsal
def test_sound_replicas_hold_under_a_schedule_from_a_file(
    scripted: Callable[..., ClusterPlan], tmp_path: Path
) -> None:
    schedule = Schedule(3, (Step(0.1, KILL, PRIMARY, 0.6), Step(0.4, CUT, STANDBY, 0.4)))
    path = tmp_path / "schedule.json"
    path.write_text(schedule.to_json())
    assert explore.read_schedule(path) == schedule
    judgement, details = explore.replay(setup(scripted(), tmp_path / "run"), schedule, LIMITS)
    assert str(judgement.verdict) == "held", judgement.reasons
    assert judgement.figures["faults"] == 2
    assert judgement.figures["writes_lost"] == 0
    assert details["each"][0]["seed"] == 3


def test_a_planted_mistake_is_found_and_its_schedule_made_smaller(
    scripted: Callable[..., ClusterPlan], tmp_path: Path
) -> None:
    hasty = ExploreLimits(back_s=0.5, read_error_share_max=0.5)
    drawn = Limits(kinds=(KILL,), steps_max=2, at_once_max=1, lasts_s=(0.2, 0.4), length_s=1.2)
    judgement, details = explore.explore(
        setup(scripted(lose_every=5), tmp_path / "run"), drawn, hasty, seed=2, minutes=0.01
    )
    assert str(judgement.verdict) == "deviated"
    assert judgement.figures["writes_lost"] > 0
    (path,) = judgement.figures["failing"]
    small = explore.read_schedule(Path(path))
    # The mistake needs no fault at all, so no more than one is left.
    assert len(small.steps) == 1
    assert "not in the log" in " ".join(json.loads(Path(path).read_text())["reasons"])
    assert details["limits"]["kinds"] == (KILL,)


@pytest.mark.parametrize("arguments", [["--kinds", "melt"], ["--minutes", "0"], ["--replicas", "1"]])
def test_bad_usage_ends_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        explore.main(arguments)
    assert ended.value.code == 2


def test_a_file_that_is_no_schedule_is_inconclusive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scripted: Callable[..., ClusterPlan]
) -> None:
    path = tmp_path / "schedule.json"
    path.write_text("{}")
    bundle: Any = scripted().bundle
    arguments = ["--replay", str(path), "--json", "--journal", str(tmp_path / "run"), "--bundle", str(bundle)]
    assert explore.main(arguments) == 20
    assert "no schedule" in json.loads(capsys.readouterr().out)["reason"]
