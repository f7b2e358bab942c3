"""What runs of a point do around the replicas."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drills.rig.cluster import ClusterError, ClusterPlan
from drills.rig.load import Sample
from drills.rig.shop import synthetic_shop
from drills.tune.bench import Bench, UntilWritesAreBack
from drills.tune.profile import load_profile
from drills.tune.space import HEDGE, shipped
from muster.client import ClientSettings
from tests.drills.tune.surface import MadeUp


def bench(folder: Path) -> Bench:
    plan = ClusterPlan(bundle=folder)
    return Bench(folder, plan, synthetic_shop(20, 1, queries=5), load_profile("quick"), ClientSettings())


def test_replicas_that_cannot_be_drilled_spoil_the_rest_of_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = next(MadeUp().measure(shipped(), [1]))

    def run(self: Bench, rehearsal: Any, seed: int) -> Any:
        if seed > 1:
            raise ClusterError("replica b ended with code 1:\nits log")
        return good

    @contextlib.contextmanager
    def cluster(self: Bench, point: Any, **changes: Any) -> Iterator[None]:
        yield None

    monkeypatch.setattr(Bench, "_run", run)
    monkeypatch.setattr(Bench, "_cluster", cluster)
    first, second, third = bench(tmp_path).measure(shipped(), [1, 2, 3])
    assert first == good
    assert second == third
    assert second.disturbed == "the replicas could not be drilled: replica b ended with code 1:"
    assert second.violations == (second.disturbed,), "not taken for a good run where it is taken at all"


def test_the_load_of_a_point_goes_through_a_client_with_its_settings(tmp_path: Path) -> None:
    made = bench(tmp_path)
    made.client = ClientSettings(attempts_max=3)
    traffic = made._traffic({HEDGE.partition(".")[2]: 7.0})
    assert traffic.client == ClientSettings(attempts_max=3, hedge_after_ms=7.0)
    assert traffic.read_deadline_ms == made.profile.read_deadline_ms


@dataclass
class Broken:
    """A fault that does nothing but tell when it was."""

    name: str = "broken"
    undone: list[Any] = field(default_factory=list)

    def inject(self, subject: Any) -> dict[str, Any]:
        return {"replica": "a", "instant_s": time.monotonic()}

    def rollback(self, subject: Any) -> None:
        self.undone.append(subject)


def test_a_fault_lasts_until_a_write_that_was_due_after_it_is_acknowledged() -> None:
    asked: list[int] = []

    class Samples:
        @property
        def samples(self) -> list[Sample]:
            asked.append(1)
            now_s = time.monotonic()
            before = Sample("write", 1, now_s - 100.0, now_s - 100.0, now_s, "OK")
            after = Sample("write", 2, now_s, now_s, now_s, "OK" if len(asked) > 2 else "Unavailable")
            return [before, after]

    inner = Broken()
    fault = UntilWritesAreBack(inner, limit_s=60.0)
    rehearsal: Any = SimpleNamespace(load=Samples())
    assert fault.name == "broken" and fault.inject(rehearsal)["replica"] == "a"
    assert len(asked) == 3
    fault.rollback(rehearsal)
    assert inner.undone == [rehearsal]


def test_a_fault_without_an_end_is_left_after_its_limit() -> None:
    fault = UntilWritesAreBack(Broken(), limit_s=0.05)
    rehearsal: Any = SimpleNamespace(load=SimpleNamespace(samples=[]))
    assert fault.inject(rehearsal)["replica"] == "a"
