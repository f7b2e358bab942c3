"""Whether this machine is quiet enough for a measurement to mean anything: asked while no replica runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drills.experiment import quantile
from drills.report.noise import fsync_p99_ms
from drills.tune.profile import NoiseBounds

PROBE_S = 1.0
_STEP_S = 0.001
_PRESSURE = Path("/proc/pressure/cpu")


@dataclass(frozen=True)
class Quiet:
    """None: could not be told here. wait_p99_ms, wait_max_ms: how much later than asked a thread woke that
    sleeps a millisecond at a time. cpu_pressure: share of that time in which something waited for a core.
    """

    fsync_p99_ms: float | None
    wait_p99_ms: float
    wait_max_ms: float
    cpu_pressure: float | None

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def too_loud(self, bounds: NoiseBounds) -> list[str]:
        """A sentence for each bound that is passed; empty: quiet enough."""
        told = (
            ("a durable write takes", self.fsync_p99_ms, bounds.fsync_p99_ms, "ms (p99)"),
            ("a ready thread waits for a core for", self.wait_p99_ms, bounds.wait_p99_ms, "ms (p99)"),
            ("a ready thread waits for a core for up to", self.wait_max_ms, bounds.wait_max_ms, "ms"),
            (
                "something waits for a core for a share of",
                self.cpu_pressure,
                bounds.cpu_pressure_max,
                "of all time",
            ),
        )
        return [
            f"{what} {value:.3g} {unit}, the bound is {bound:g}"
            for what, value, bound, unit in told
            if value is not None and value > bound
        ]


def listen(
    folder: Path,
    *,
    seconds: float = PROBE_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Quiet:
    """Measures for a moment. folder: on the disk that is drilled on; made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    durable_ms = fsync_p99_ms(folder)
    stalled_us, began_s = _stalled_us(), clock()
    waited_ms = []
    while clock() - began_s < seconds:
        asked_s = clock()
        sleep(_STEP_S)
        waited_ms.append(max(0.0, (clock() - asked_s - _STEP_S) * 1000.0))
    took_s, after_us = clock() - began_s, _stalled_us()
    pressure = None
    if stalled_us is not None and after_us is not None:
        pressure = round(min(1.0, (after_us - stalled_us) / 1e6 / took_s), 4)
    return Quiet(durable_ms, round(quantile(waited_ms, 0.99), 2), round(max(waited_ms), 2), pressure)


def _stalled_us(path: Path = _PRESSURE) -> int | None:
    """Microseconds since the start in which something waited for a core (pressure stall information)."""
    try:
        for line in path.read_text(encoding="ascii").splitlines():
            if line.startswith("some "):
                return int(line.rpartition("total=")[2])
    except (OSError, ValueError):
        pass
    return None
