"""How much a machine disturbs a measurement: its disk, its cores, and what its own load generator felt."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drills.experiment import quantile
from drills.journal import History

_SYNCS = 40
_PRESSURE = Path("/proc/pressure/cpu")


@dataclass(frozen=True)
class Noise:
    """None: could not be told here.

    fsync_p99_ms: of short durable writes in the drill's folder, after the drill. cpu_pressure: share of the
    last minute in which something waited for a core, 0 to 1 (Linux pressure stall information). load_1m: as
    the kernel says it. base_read_p99_ms: of the answered reads before the fault. generator_stall_p99_ms: from
    the moment a request was meant to leave until it left.
    """

    fsync_p99_ms: float | None = None
    cpu_pressure: float | None = None
    load_1m: float | None = None
    base_read_p99_ms: float | None = None
    generator_stall_p99_ms: float | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def machine_noise(folder: Path, history: History | None) -> Noise:
    """What this machine and a run's history tell now. folder: on the disk that the drill wrote to."""
    try:
        load_1m = round(os.getloadavg()[0], 2)
    except OSError:
        load_1m = None
    base, stall = (None, None) if history is None else (base_read_p99_ms(history), stall_p99_ms(history))
    return Noise(fsync_p99_ms(folder), cpu_pressure(), load_1m, base, stall)


def fsync_p99_ms(folder: Path, *, clock: Callable[[], float] = time.perf_counter) -> float | None:
    """The 99th percentile of forty durable writes of 4 KiB; None where the folder cannot be written."""
    path = folder / ".fsync"
    took_ms: list[float] = []
    try:
        with path.open("wb", buffering=0) as file:
            for _ in range(_SYNCS):
                began_s = clock()
                file.write(b"\0" * 4096)
                os.fsync(file.fileno())
                took_ms.append((clock() - began_s) * 1000.0)
    except OSError:
        return None
    finally:
        path.unlink(missing_ok=True)
    return round(quantile(took_ms, 0.99), 2)


def cpu_pressure(path: Path = _PRESSURE) -> float | None:
    """The share of the last minute in which some process waited for a core."""
    try:
        match = re.search(r"^some .*avg60=([0-9.]+)", path.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return round(float(match[1]) / 100.0, 4) if match else None


def base_read_p99_ms(history: History) -> float | None:
    """Of the answered reads that ended before the fault; None without any."""
    fault = history.first("fault")
    until_s = float("inf") if fault is None else fault["at_s"]
    took_ms = [
        (read["done_s"] - read["intended_s"]) * 1000.0
        for read in history.of("read")
        if read["status"] == "OK" and read["done_s"] < until_s
    ]
    return round(quantile(took_ms, 0.99), 2) if took_ms else None


def stall_p99_ms(history: History) -> float | None:
    """Of all requests; None without any."""
    waited_ms = [
        (one["sent_s"] - one["intended_s"]) * 1000.0
        for kind in ("read", "write")
        for one in history.of(kind)
        if one.get("sent_s") is not None
    ]
    return round(quantile(waited_ms, 0.99), 2) if waited_ms else None
