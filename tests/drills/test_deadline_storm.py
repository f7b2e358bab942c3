from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from drills.deadline_storm import Phase, flooded, main, phased_arrivals, run
from drills.experiment import Judgement, Verdict
from drills.journal import History, read_history
from drills.judges.checks import StormLimits
from drills.rig.cluster import ClusterPlan
from drills.rig.shop import synthetic_shop

Scripted = Callable[..., ClusterPlan]


def storm(plan: ClusterPlan, folder: Path, *, factor: float = 3.0) -> Judgement:
    judgement, _ = run(
        folder=folder,
        shop=synthetic_shop(20, 1, queries=5),
        plan=plan,
        factor=factor,
        deadline_ms=200,
        duration_s=2.0,
        concurrency=1,
        seed=1,
        limits=StormLimits(in_time_share=0.9, late_share=0.9),
        progress=False,
    )
    return judgement


def test_phases_follow_each_other_at_their_own_rates() -> None:
    times = np.array(list(phased_arrivals([Phase(10, 10), Phase(10, 100), Phase(10, 10)], 1)))
    assert (np.diff(times) >= 0).all()
    counts = np.histogram(times, bins=[0, 10, 20, 30])[0]
    np.testing.assert_allclose(counts, [100, 1000, 100], rtol=0.3)
    assert times[-1] < 30


def test_only_what_was_intended_during_the_flood_is_judged() -> None:
    schedule = {"kind": "schedule", "flood_from_s": 2.0, "flood_to_s": 4.0}
    reads = [{"kind": "read", "intended_s": moment} for moment in (1.9, 2.0, 3.9, 4.0)]
    kept = flooded(History((schedule, *reads))).of("read")
    assert [record["intended_s"] for record in kept] == [2.0, 3.9]
    assert flooded(History(tuple(reads))).of("read") == []


def test_a_ladder_of_tiers_holds_in_a_storm(scripted: Scripted, tmp_path: Path) -> None:
    judgement = storm(scripted(1, service_ms=20), tmp_path)
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert set(judgement.figures["tiers"]) == {"late", "lexical"}
    history = read_history(tmp_path / "run-0001.jsonl")
    assert len(flooded(history).of("read")) == judgement.figures["offered"]
    beside = judgement.figures["recommendations"]
    assert beside["offered"] == len(flooded(history).of("recommendation"))
    # A fifth of all calls, on top of the searches; nothing tells what they are worth.
    assert 0.1 < beside["offered"] / (beside["offered"] + judgement.figures["offered"]) < 0.3
    assert (set(beside["tiers"]), beside["quality_in_time"]) == ({"similar"}, None)
    assert (tmp_path / "timeline.png").stat().st_size > 0


def test_a_service_that_queues_everything_deviates(scripted: Scripted, tmp_path: Path) -> None:
    judgement = storm(scripted(1, service_ms=20, shed=False), tmp_path, factor=5.0)
    assert judgement.verdict is Verdict.DEVIATED, judgement.reasons
    assert judgement.figures["in_time_share"] < 0.9


def test_a_missing_bundle_is_inconclusive_with_exit_code_20(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["--json", "--bundle", str(tmp_path / "none"), "--journal", str(tmp_path / "journal")])
    assert code == 20
    assert '"verdict": "inconclusive"' in capsys.readouterr().out
