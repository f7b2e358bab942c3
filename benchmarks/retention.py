"""What folding costs appends: ``python -m benchmarks.retention [--json]``.

Appends of 1 KB by several callers to a log in SQLite, first alone, then while a backlog of old events is
folded into the snapshot beside them. Read the ratio: both depend on the disk.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from muster.v1.catalogue_pb2 import Event, Patch, Product
from server.catalogue.log import LogWriter
from server.catalogue.opening import open_store
from server.catalogue.retention import Retention, RetentionPolicy
from server.catalogue.store import NewEvent, Store
from server.standby.lease import Holder

_EPOCH = 1
_BATCH = 500


class _Reign:
    """Always the primary."""

    lease_ttl_ns = 10**15

    def writing_epoch(self) -> int | None:
        return _EPOCH

    def extended(self, epoch: int, expires_monotonic_ns: int) -> None:
        """Nothing to note."""

    def fenced(self, epoch: int) -> None:
        raise AssertionError("nobody else writes here")


def event(number: int, products: int) -> Event:
    """Half upserts of about 1 KB, half patches, spread over the products."""
    product_id = f"p{number * 7919 % products}"
    if number % 2:
        return Event(event_id=f"e{number}", patch=Patch(product_id=product_id, stock=number))
    product = Product(product_id=product_id, title=f"a title {number}", description="word " * 190)
    return Event(event_id=f"e{number}", upsert=product)


def fill(store: Store, events: int, products: int) -> None:
    """Write the backlog."""
    for start in range(0, events, _BATCH):
        batch = [NewEvent.of(event(number, products)) for number in range(start, start + _BATCH)]
        store.append([batch], epoch=_EPOCH)


def append_for(writer: LogWriter, seconds: float, callers: int, first: int, products: int) -> list[float]:
    """Milliseconds of each append of one event, by callers that send one after the other."""
    took_ms: list[float] = []
    end_s = time.monotonic() + seconds

    def call(caller: int) -> None:
        number = first + caller
        while time.monotonic() < end_s:
            started_s = time.monotonic()
            writer.append([event(number, products)], 10.0)
            took_ms.append((time.monotonic() - started_s) * 1000)
            number += callers

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took_ms


def measure(folder: Path, *, backlog: int, products: int, callers: int, seconds: float) -> dict[str, Any]:
    """Appends alone and beside folding; what folding did; how large the file was and is."""
    path = folder / "catalogue.sqlite3"
    with closing(open_store(path)) as store:
        store.claim_lease(Holder("bench", 1, 1, "boot"), expected_epoch=0, ttl_ns=10**15)
        fill(store, backlog, products)
        full_bytes = path.stat().st_size
        writer = LogWriter(store, _Reign())
        writer.start()
        alone = append_for(writer, seconds, callers, backlog, products)
        policy = RetentionPolicy(events_max=1000, hours=0, ids_max=10**7, id_hours=24, poll_s=0.01)
        retention = Retention(store, policy, lambda: _EPOCH)
        started_s = time.monotonic()
        retention.start()
        beside = append_for(writer, seconds, callers, backlog + 10**6, products)
        folded_beside, folded_s = retention.stats().folded_events, time.monotonic() - started_s
        while retention.stats().folded_events < store.head().sequence - policy.events_max:
            time.sleep(0.1)
        stats = retention.stats()
        retention.stop()
        while store.reclaim(bytes_max=2**20):
            pass
        writer.close()
    return {
        "backlog": backlog,
        "callers": callers,
        "alone": _summary(alone, seconds),
        "beside": _summary(beside, seconds),
        "folded_per_s": round(folded_beside / folded_s),
        "held_ms_max": round(stats.held_ms_max, 1),
        "file_mib_before": round(full_bytes / 2**20, 1),
        "file_mib_after": round(path.stat().st_size / 2**20, 1),
    }


def _summary(took_ms: list[float], seconds: float) -> dict[str, float]:
    p50, p99 = np.percentile(took_ms, [50, 99])
    return {
        "appends_per_s": round(len(took_ms) / seconds),
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "max_ms": round(max(took_ms), 1),
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retention", description=__doc__)
    parser.add_argument("--backlog", type=int, default=100_000, help="events to be folded")
    parser.add_argument("--products", type=int, default=20_000, help="products they are about")
    parser.add_argument("--callers", type=int, default=8, help="callers that append")
    parser.add_argument("--seconds", type=float, default=15.0, help="time for each of the two measurements")
    parser.add_argument("--folder", type=Path, help="where the log lies; default: the temporary folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parsed = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=parsed.folder) as folder:
        found = measure(
            Path(folder),
            backlog=parsed.backlog,
            products=parsed.products,
            callers=parsed.callers,
            seconds=parsed.seconds,
        )
    if parsed.json:
        print(json.dumps(found, indent=2))
        return 0
    for name in ("alone", "beside"):
        row = found[name]
        print(
            f"{name:<7} {row['appends_per_s']:>6} appends/s"
            f"  p50 {row['p50_ms']:>7} ms  p99 {row['p99_ms']:>7} ms  max {row['max_ms']:>7} ms"
        )
    print(
        f"folded  {found['folded_per_s']:>6} events/s, the write lock held {found['held_ms_max']} ms at most"
    )
    print(f"file    {found['file_mib_before']} MiB before, {found['file_mib_after']} MiB after")
    return 0


if __name__ == "__main__":
    sys.exit(main())
