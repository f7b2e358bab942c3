"""The record of a run: one JSON object per line as it happens, and a result file at the end.

Every record has `kind` and `at_s`, seconds since the run began. Kinds that the judges read:

    run       header: drill, seed, settings, machine
    revived   a replica that had ended by itself before the run, and was started: replica, code
    phase     before | during | after | end
    fault     what was broken: fault, replica, pid; stopped, stopped_pid, where another was stopped with it
    rollback  it was undone; of a primary that was stopped: replica, ended (woken, or killed by another one),
    late: the writes that waited in it, event_id, status, sequence, epoch, outcome
    probe     phase, probe, held, detail
    read      one Search: intended_s, sent_s, done_s, status, tier, depth, expected_ndcg, replica, epoch,
    reason, applied_sequence, session where it was in one
    write     one Apply: event_id, intended_s, sent_s, done_s, status, sequence, epoch, duplicates, session;
    of one that failed: outcome and reason, as the client tells them; detail
    direct    one Search of one replica alone: asked (which), and what a read has
    tampered  calls: system calls of the replicas that a fault changed, by its own count
    exit      replica, code: what the victim of a fault had ended with; null: it had not ended
    oom       kills: processes that the kernel ended for want of memory
    throttled ms: how long the victim of a fault stood still for want of its core
    log       one committed event as Watch told it: sequence, epoch, event_id
    log_end   the log was read up to `head`; without it the log is not known
    reign     replica, epoch: as the replica itself has told
    alert     an alert that began to fire, or ended: alert, status, labels, at_unix_s
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Record = dict[str, Any]


@dataclass(frozen=True)
class History:
    """The records of one run, in the order in which they were written."""

    records: tuple[Record, ...]

    def of(self, kind: str) -> list[Record]:
        """The records of one kind."""
        return [record for record in self.records if record["kind"] == kind]

    def first(self, kind: str) -> Record | None:
        """The first record of a kind, or None."""
        return next((record for record in self.records if record["kind"] == kind), None)


class Journal:
    """Writes one run's history. Safe to use from several threads.

    clock: seconds, monotonic; `at_s` counts from the journal's creation.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic, **header: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._clock = clock
        self.start_s = clock()
        self._lock = threading.Lock()
        self._file = path.open("w", encoding="utf-8")
        self._records: list[Record] = []
        self.started_unix_s = round(time.time(), 3)
        self.write("run", started_unix_s=self.started_unix_s, machine=machine(), **header)

    def elapsed_s(self, instant_s: float) -> float:
        """An instant of the journal's clock as seconds since the run began."""
        return round(instant_s - self.start_s, 6)

    def write(self, kind: str, **fields: Any) -> None:
        """Appends one record, stamped now, and hands it to the operating system at once."""
        with self._lock:
            self._append({"kind": kind, "at_s": self.elapsed_s(self._clock()), **fields})
            self._file.flush()

    def extend(self, records: Iterable[Record]) -> None:
        """Appends records that carry their own times, such as the samples of a load, in one go."""
        with self._lock:
            for record in records:
                self._append(record)
            self._file.flush()

    def _append(self, record: Record) -> None:
        self._records.append(record)
        self._file.write(json.dumps(record, separators=(",", ":")) + "\n")

    def history(self) -> History:
        """Everything written so far."""
        with self._lock:
            return History(tuple(self._records))

    def close(self) -> None:
        """Closes the file. Safe to call twice."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_history(path: Path) -> History:
    """Reads a journal file back.

    Raises: ValueError, naming the line, for anything that is not a record. A last line without its end, as a
    killed drill leaves it, is dropped.
    """
    records: list[Record] = []
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    complete, rest = lines[:-1], lines[-1]
    del rest  # empty after a proper end; half a record otherwise
    for number, line in enumerate(complete, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON: {error.msg}") from error
        if not isinstance(record, dict) or "kind" not in record:
            raise ValueError(f"{path}, line {number}: not a record with a kind")
        records.append(record)
    return History(tuple(records))


def write_result(folder: Path, result: Record) -> Path:
    """Writes `result.json` by rename, so that a reader finds the old one, the new one or none."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "result.json"
    half = folder / "result.json.part"
    half.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    half.replace(path)
    return path


def machine() -> Record:
    """A fingerprint of this machine: enough to tell runs apart, nothing about its user."""
    model = platform.processor()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    try:
        load_1m = round(os.getloadavg()[0], 2)
    except OSError:
        load_1m = None
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_1m": load_1m,
    }
