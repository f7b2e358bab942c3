"""A made-up deployment: how it answers to its settings is known, but for noise."""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from drills.tune.outcome import Outcome
from drills.tune.quiet import Quiet
from drills.tune.rules import Calibration
from drills.tune.space import BACKLOG, CHECK, GAIN, HEDGE, REPLICAS, TTL, WORKERS, Point, key, shipped

QUIET = Quiet(fsync_p99_ms=2.0, wait_p99_ms=1.0, wait_max_ms=4.0, cpu_pressure=0.01)
LOUD = Quiet(fsync_p99_ms=500.0, wait_p99_ms=80.0, wait_max_ms=300.0, cpu_pressure=0.9)
FALSE_TAKEOVER_BELOW_MS = 320.0
MEASURED = Calibration(
    write_p999_ms=60.0,
    writes=300,
    pause_ms=20.0,
    overhead_p99_ms=3.0,
    service_ms=3.0,
    read_p95_ms=12.0,
    reads=300,
    capacity_per_s=500.0,
    cross_encoder=False,
    run_s=10.0,
)
GOOD: Mapping[str, float] = {
    **shipped(),
    TTL: 340,
    CHECK: 40,
    WORKERS: 2,
    BACKLOG: 8.0,
    GAIN: 1.0,
    HEDGE: 12.0,
}
POOR: Mapping[str, float] = {
    **shipped(),
    TTL: 3000,
    CHECK: 500,
    WORKERS: 1,
    BACKLOG: 100.0,
    GAIN: 1.0,
    HEDGE: 200.0,
}


def invalid(point: Point) -> list[str]:
    """What a point breaks, whatever the noise."""
    found = []
    if point[TTL] < FALSE_TAKEOVER_BELOW_MS:
        found.append("1 false takeover(s): 1 reigns began beside a pause that is no fault")
    if point[HEDGE] < 8.0:
        found.append("extra load")
    return found


def truth(point: Point) -> dict[str, float]:
    """What the outcomes of a point are without noise."""
    check_ms = point[CHECK] or point[TTL] / 8
    backlog_ms = point[BACKLOG] or 3.0
    return {
        "unavailable_s": 0.5 * (0.6 * check_ms + 30.0 + point[TTL] + 40.0) / 1000.0,
        "read_missed_share": 0.0005 * max(0.0, point[HEDGE] - 12.0),
        "flood_missed_share": 0.01
        + 0.02 * (math.log(backlog_ms / 8.0)) ** 2
        + 0.01 * (math.log(point[GAIN])) ** 2
        + 0.02 * (point[WORKERS] == 1),
        "quality_lost_share": 0.01,
        "extra_load_share": 0.01 if point[HEDGE] >= 8.0 else 0.3,
    }


@dataclass
class MadeUp:
    """Runs points by the truth and a noise that is partly of the seed, which both sides of a pair share; the
    same run comes out the same again.

    noise: as a share of each outcome. enough: replicas that hold their drills. disturbed: of how many first
    runs the machine spoils one.
    """

    noise: float = 0.1
    seed: int = 1
    enough: int = 3
    disturbed: int = 0
    runs: list[tuple[str, int]] = field(default_factory=list)
    stop_after: int = 1_000_000

    def measure(self, point: Point, seeds: Sequence[int]) -> Generator[Outcome]:
        for seed in seeds:
            if len(self.runs) >= self.stop_after:
                raise KeyboardInterrupt
            self.runs.append((key(point), seed))
            shared = random.Random(f"{self.seed} {seed}")
            own = random.Random(f"{self.seed} {seed} {key(point)}")
            values = {
                name: max(0.0, value * (1.0 + self.noise * (shared.gauss(0, 1) + own.gauss(0, 1))))
                for name, value in truth(point).items()
            }
            spoilt = self.disturbed > 0
            self.disturbed -= spoilt
            yield Outcome(
                **dict[str, Any](values),
                replicas=int(point[REPLICAS]),
                violations=tuple(one for one in invalid(point) if "takeover" in one),
                disturbed="the load's own generator was kept waiting for 900 ms" if spoilt else "",
                took_s=10.0,
            )

    def survives(self, point: Point, replicas: int, seed: int) -> tuple[bool, str]:
        held = replicas >= self.enough
        return held, f"{replicas} replicas held" if held else "double_fault deviated: no primary"
