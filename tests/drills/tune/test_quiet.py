"""How noisy a machine is."""

from __future__ import annotations

import itertools
from pathlib import Path

from drills.tune.profile import NoiseBounds
from drills.tune.quiet import Quiet, listen
from tests.drills.tune.surface import LOUD, QUIET


def test_each_bound_that_is_passed_is_told_with_what_was_measured() -> None:
    assert QUIET.too_loud(NoiseBounds()) == []
    told = LOUD.too_loud(NoiseBounds())
    assert len(told) == 4
    assert "80 ms (p99), the bound is 15" in told[1]


def test_what_cannot_be_told_here_passes_no_bound() -> None:
    assert Quiet(None, 1.0, 2.0, None).too_loud(NoiseBounds()) == []


def test_waits_are_what_a_sleeper_wakes_late_by(tmp_path: Path) -> None:
    late_s = itertools.chain([0.05], itertools.repeat(0.0))
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds + next(late_s)

    heard = listen(tmp_path / "new", seconds=0.5, clock=lambda: now[0], sleep=sleep)
    assert heard.wait_max_ms == 50.0 and heard.wait_p99_ms == 0.0
    assert heard.fsync_p99_ms is not None
