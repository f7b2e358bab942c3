"""The failover drill on the real server, five kills, with a bundle that needs no training."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from drills.experiment import Verdict
from drills.failover import POSTGRESQL, SQLITE, Traffic, run
from drills.journal import read_history
from drills.judges.checks import FailoverLimits
from drills.rig.cluster import ClusterPlan
from drills.rig.postgres import missing
from drills.rig.shop import synthetic_shop
from tests.fixtures.tiny_bundle import build

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("rankcore._native") is None,
    reason="the ranking core is not built; run `make build`",
)

KILLS = 3


@pytest.mark.timeout(600)
@pytest.mark.parametrize("store", [SQLITE, pytest.param(POSTGRESQL, marks=pytest.mark.postgresql)])
def test_kills_lose_nothing_double_nothing_and_fail_no_read(tmp_path: Path, store: str) -> None:
    if store == POSTGRESQL and (reason := missing()) is not None:
        pytest.skip(reason)
    bundle = tmp_path / "tiny"
    build(bundle)
    judgement, details = run(
        folder=tmp_path / "journal",
        shop=synthetic_shop(60, 1, queries=20),
        # A lease that a machine busy with other things does not end: the fault here is death, not hanging.
        plan=ClusterPlan(bundle=bundle, replicas=3, settings={"lease": {"ttl_ms": 2000}}),
        runs=KILLS,
        seed=1,
        # What must hold on any machine is judged here; how fast writes are back is the drill's own question.
        traffic=Traffic(reads_per_s=50, writes_per_s=20, read_deadline_ms=2000),
        limits=FailoverLimits(rto_ms=5000),
        store=store,
    )
    assert details["store"] == store
    assert judgement.verdict is Verdict.HELD, (judgement.reasons, details["each"])
    figures = judgement.figures
    assert (figures["writes_lost"], figures["writes_doubled"], figures["read_errors"]) == (0, 0, 0)
    assert figures["epochs_monotone"]
    killed = {
        record["pid"]
        for number in range(1, KILLS + 1)
        for record in read_history(tmp_path / "journal" / f"run-{number:04d}.jsonl").of("fault")
    }
    assert len(killed) == KILLS
