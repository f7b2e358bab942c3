from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from drills.faults.tail import DELIVER, FREEZE_TAIL, LOOK, FreezeTailer, freezable
from drills.rig.cluster import ClusterPlan
from server.catalogue import failpoint


def test_the_drill_names_the_variable_that_the_tailer_reads() -> None:
    assert FREEZE_TAIL == failpoint.FREEZE_TAIL


def test_each_replica_gets_a_folder_of_its_own_and_one_standby_is_frozen(tmp_path: Path) -> None:
    plan = freezable(
        ClusterPlan(bundle=tmp_path, replicas=2, own_environment={"b": {"OTHER": "1"}}), tmp_path
    )
    assert plan.own_environment["a"] == {FREEZE_TAIL: str(tmp_path / "a")}
    assert plan.own_environment["b"] == {"OTHER": "1", FREEZE_TAIL: str(tmp_path / "b")}
    primary, standby = (SimpleNamespace(name=name, running=True) for name in "ab")
    cluster = SimpleNamespace(replicas=[primary, standby], primary=lambda: primary)
    subject: Any = SimpleNamespace(cluster=cluster)
    for place in (LOOK, DELIVER):
        fault = FreezeTailer(place, tmp_path)
        told = fault.inject(subject)
        assert (told["replica"], told["place"]) == ("b", place)
        assert (tmp_path / "b" / place).exists()
        assert not list((tmp_path / "a").iterdir())
        fault.rollback(subject)
        assert not list((tmp_path / "b").iterdir())
