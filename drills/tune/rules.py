"""The point to start from: rules of thumb, filled in with what was measured on this machine.

Where they come from: a lease must outlast every pause that is no death; a standby must look often enough that
looking is not what a death costs; work may wait as long as there is time left to do it; a read that is later
than nineteen of twenty is worth a second sending.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from drills.tune.space import BACKLOG, BY_NAME, CHECK, GAIN, HEDGE, TTL, WORKERS, Point, sound

RENEWALS = 3.0
"""A lease is renewed every third of its life."""
PAUSES = 2.0
CHECKS = 8.0
ROUNDING_MS = 50


@dataclass(frozen=True)
class Calibration:
    """Measured on the starting configuration without a fault.

    write_p999_ms: of acknowledged writes, as callers see them, which bounds what a renewal takes: both are
    one commit. writes: how many that is over. pause_ms: the longest that a ready thread was kept waiting.
    overhead_p99_ms: of a read beyond its ranking. service_ms: ranking, median. read_p95_ms: of reads.
    capacity_per_s: full answers of the best plan. run_s: what a run takes.
    """

    write_p999_ms: float
    writes: int
    pause_ms: float
    overhead_p99_ms: float
    service_ms: float
    read_p95_ms: float
    reads: int
    capacity_per_s: float
    cross_encoder: bool
    run_s: float = 0.0

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Ruled:
    """A point and, for each value that a rule gave, the sentence that says how."""

    point: dict[str, float]
    reasons: dict[str, str]


def starting_rules(
    start: Point,
    measured: Calibration,
    ranges: Mapping[str, tuple[float, float]],
    *,
    harmless_pause_ms: float,
    flood_deadline_ms: float,
) -> Ruled:
    """The starting configuration with what the rules say of the settings that are searched, within their
    ranges."""
    pause_ms = max(measured.pause_ms, harmless_pause_ms)
    ttl_ms = math.ceil(max(RENEWALS * measured.write_p999_ms, PAUSES * pause_ms) / ROUNDING_MS) * ROUNDING_MS
    backlog_ms = max(1.0, flood_deadline_ms - measured.overhead_p99_ms - measured.service_ms)
    ruled = {
        TTL: (
            ttl_ms,
            f"the greater of 3 x a renewal's p99.9 ({measured.write_p999_ms:.0f} ms, of"
            f" {measured.writes} writes) and 2 x the longest harmless pause ({pause_ms:.0f} ms)",
        ),
        CHECK: (ttl_ms / CHECKS, "an eighth of the lease's life"),
        BACKLOG: (
            backlog_ms,
            f"deadline {flood_deadline_ms:.0f} ms - overhead p99 {measured.overhead_p99_ms:.1f} ms - one"
            f" service time {measured.service_ms:.1f} ms",
        ),
        GAIN: (1.0, "the pace that the price was made for"),
        HEDGE: (
            max(1.0, measured.read_p95_ms),
            f"healthy p95 of a read: {measured.read_p95_ms:.1f} ms, of {measured.reads}",
        ),
    }
    if WORKERS in ranges:
        ruled[WORKERS] = (ranges[WORKERS][1], "one for each core")
    point, reasons = dict(start), {}
    for name, (value, reason) in ruled.items():
        if name in ranges:
            low, high = ranges[name]
            bounded = min(max(value, low), high)
            point[name] = BY_NAME[name].value(bounded)
            reasons[name] = reason if bounded == value else f"{reason}, kept within {low:g} to {high:g}"
    return Ruled(sound(point), reasons)
