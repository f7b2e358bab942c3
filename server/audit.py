"""Writes the audit of a replica (`muster.audit` has its form).

What operators do, and are refused, is on the disk before the next record is taken. Writes to the catalogue
are summed up for a second, by caller: the log of the catalogue has the events themselves, so a crash loses
who sent those of its last second, and nothing else. A disk that fails stops nobody: records wait in memory,
up to a bound, and the log says so.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from muster.audit import FIRST, Anchor, AuditError, files, follow, parse

logger = logging.getLogger(__name__)

CALLER_KEY = "muster-caller"
ADDRESS_KEY = "muster-caller-address"
"""Set by the front; it takes these keys off the calls of clients."""

FILE_BYTES_MAX = 16 << 20
FLUSH_S = 1.0
_PENDING_MAX = 10_000
_CALLERS_MAX = 1_000
_REFUSALS_A_SECOND = 20

READS = frozenset(f"/muster.v1.AdminService/{name}" for name in ("Status", "BundleStatus", "DrillStatus"))
"""Calls of the operator's service that change nothing."""


def caller_of(context: grpc.ServicerContext) -> tuple[str, str]:
    """Who calls, as the front says: subject, empty where nobody is asked, and address."""
    told = dict(context.invocation_metadata())
    return str(told.get(CALLER_KEY, "")), str(told.get(ADDRESS_KEY, ""))


@dataclass
class _Writes:
    calls: int = 0
    events: int = 0
    duplicates: int = 0
    first_sequence: int = 0
    last_sequence: int = 0


@dataclass(frozen=True)
class _Pending:
    unix_us: int
    kind: str
    subject: str
    address: str
    detail: Mapping[str, Any]


class Audit:
    """One replica's audit. Thread-safe.

    folder: made where it is missing; None: nothing is kept.
    """

    def __init__(self, folder: Path | None, replica: str, *, file_bytes_max: int = FILE_BYTES_MAX) -> None:
        self._folder = folder
        self._file_bytes_max = file_bytes_max
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._pending: deque[_Pending] = deque()
        self._writes: dict[tuple[str, str], _Writes] = {}
        self._lost = 0
        self._failing = False
        self._damaged = False
        self._refusals: deque[float] = deque(maxlen=_REFUSALS_A_SECOND)
        self._unheard = 0
        self._head = Anchor(0, FIRST)
        self._number = 1
        self._descriptor = -1
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        if folder is None:
            return
        self._note("opened", "", "", {"replica": replica, "pid": os.getpid()})
        self.flush()
        self._thread = threading.Thread(target=self._flush_now_and_then, name="audit", daemon=True)
        self._thread.start()

    @property
    def head(self) -> Anchor:
        """The newest record on the disk."""
        return self._head

    @property
    def damaged(self) -> bool | None:
        """Whether the newest records were found damaged at the start, so that what is written now cannot
        follow from them; None: nothing is kept."""
        return None if self._folder is None else self._damaged

    def wrote(self, caller: tuple[str, str], events: int, duplicates: int, sequence: int) -> None:
        """An Apply was acknowledged: its events end at the sequence."""
        if self._folder is None:
            return
        with self._lock:
            if caller not in self._writes and len(self._writes) >= _CALLERS_MAX:
                caller = ("(others)", "")
            writes = self._writes.setdefault(caller, _Writes())
            writes.calls += 1
            writes.events += events
            writes.duplicates += duplicates
            if events > duplicates:
                first = sequence - (events - duplicates) + 1
                writes.first_sequence = min(writes.first_sequence or first, first)
                writes.last_sequence = max(writes.last_sequence, sequence)

    def call(self, caller: tuple[str, str], path: str, outcome: str, detail: Mapping[str, Any]) -> None:
        """An operator's call has ended; on the disk when this returns, if the disk does its part."""
        self._note("call", *caller, {"path": path, "outcome": outcome, **detail})
        self.flush()

    def refused(self, path: str, address: str, subject: str, reason: str) -> None:
        """An operator's call was refused by the front. A flood of them is counted, not written one by one."""
        now_s = time.monotonic()
        with self._lock:
            full = len(self._refusals) == _REFUSALS_A_SECOND
            if full and now_s - self._refusals[0] < 1.0:
                self._unheard += 1
                return
            self._refusals.append(now_s)
            unheard, self._unheard = self._unheard, 0
        detail = {"path": path, "reason": reason, **({"others_before": unheard} if unheard else {})}
        self._note("refused", subject, address, detail)
        self.flush()

    def gate(self, detail: Mapping[str, Any]) -> None:
        """Drills were asked for before a bundle was let in: what they said, or why they were overridden."""
        self._note("gate", "", "", detail)
        self.flush()

    def close(self) -> None:
        """Write what waits. Idempotent."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self.flush()
            logger.info("audit ends at %s", self._head)
        with self._writing:
            self._folder = None
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    # --- to the disk -------------------------------------------------------------------------------------

    def _note(self, kind: str, subject: str, address: str, detail: Mapping[str, Any]) -> None:
        if self._folder is None:
            return
        with self._lock:
            if len(self._pending) >= _PENDING_MAX:
                self._lost += 1
                return
            self._pending.append(_Pending(time.time_ns() // 1000, kind, subject, address, detail))

    def flush(self) -> None:
        """Write and sync what waits."""
        with self._writing:
            taken = self._take() if self._folder is not None else []
            if not taken:
                return
            size = -1
            try:
                if self._descriptor < 0:
                    taken[:0] = self._open_last()
                head, lines = self._head, []
                for one in taken:
                    record = follow(head, one.unix_us, one.kind, one.subject, one.address, one.detail)
                    head = Anchor(record.number, record.hash)
                    lines.append(record.line())
                data = b"".join(lines)
                size = os.fstat(self._descriptor).st_size
                _write_all(self._descriptor, data)
                os.fsync(self._descriptor)
            except OSError as error:
                self._put_back(taken, size, error)
                return
            self._head = head
            if self._failing:
                self._failing = False
                logger.info("the audit is written again")
            if size + len(data) >= self._file_bytes_max:
                self._rotate()

    def _take(self) -> list[_Pending]:
        now_us = time.time_ns() // 1000
        with self._lock:
            taken = list(self._pending)
            self._pending.clear()
            for (subject, address), writes in self._writes.items():
                taken.append(_Pending(now_us, "apply", subject, address, vars(writes)))
            self._writes.clear()
            if self._lost:
                taken.append(_Pending(now_us, "recovered", "", "", {"lost_records": self._lost}))
                self._lost = 0
        return taken

    def _put_back(self, taken: list[_Pending], size: int, error: OSError) -> None:
        """What was half written is taken away, and all of it tried again later. size: bytes of the file
        before; below 0: it was not open.
        """
        if size >= 0:
            try:
                os.ftruncate(self._descriptor, size)
            except OSError:
                logger.exception("the audit could not be cut back")
        with self._lock:
            room = _PENDING_MAX - len(self._pending)
            self._lost += max(0, len(taken) - room)
            self._pending.extendleft(reversed(taken[:room]))
        if not self._failing:
            self._failing = True
            logger.error("the audit cannot be written, its records wait in memory: %s", error.strerror)

    def _flush_now_and_then(self) -> None:
        while not self._closing.wait(FLUSH_S):
            try:
                self.flush()
            except OSError:
                logger.exception("the audit cannot be written")

    def _open_last(self) -> list[_Pending]:
        """Go on at the end of the newest file. Returns: a record of what a crash has torn, if anything."""
        assert self._folder is not None
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        try:
            last = files(self._folder)[-1]
        except AuditError:
            self._open_file()
            return []
        self._number = int(last.stem)
        data = last.read_bytes()
        whole_bytes = data.rfind(b"\n") + 1
        try:
            self._head = self._newest(last)
        except ValueError as error:
            # It stays as evidence; what comes now cannot follow from it, which a look at the chain will tell.
            logger.error("%s is damaged (%s); run `muster audit verify`", last, error)
            self._damaged = True
            self._number += 1
        self._open_file()
        if whole_bytes == len(data) or int(last.stem) != self._number:
            return []
        os.ftruncate(self._descriptor, whole_bytes)
        cut = {"cut_bytes": len(data) - whole_bytes}
        return [_Pending(time.time_ns() // 1000, "recovered", "", "", cut)]

    def _newest(self, last: Path) -> Anchor:
        """The newest whole record, of this file or one before. Raises: ValueError where it is damaged."""
        assert self._folder is not None
        for path in reversed([path for path in files(self._folder) if path <= last]):
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
            if whole:
                record = parse(whole[-1])
                return Anchor(record.number, record.hash)
        return Anchor(0, FIRST)

    def _open_file(self) -> None:
        assert self._folder is not None
        path = self._folder / f"{self._number:06d}.jsonl"
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _rotate(self) -> None:
        before = self._descriptor
        self._number += 1
        try:
            self._open_file()
        except OSError as error:
            self._number -= 1
            self._descriptor = before
            logger.error("the audit goes on in its old file: %s", error.strerror)
            return
        os.close(before)
        logger.info("audit at %s", self._head)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def audited(
    methods: Mapping[str, grpc.RpcMethodHandler], audit: Audit
) -> Mapping[str, grpc.RpcMethodHandler]:
    """The same handlers; those of operators leave a record of who called, with which outcome."""
    return {
        path: handler if path in READS or handler.unary_unary is None else _audited(path, handler, audit)
        for path, handler in methods.items()
    }


def _audited(path: str, handler: grpc.RpcMethodHandler, audit: Audit) -> grpc.RpcMethodHandler:
    def handle(request: Any, context: grpc.ServicerContext) -> Any:
        outcome = "OK"
        try:
            return handler.unary_unary(request, context)
        except BaseException:
            code = context.code()
            outcome = code.name if isinstance(code, grpc.StatusCode) else "FAILED"
            raise
        finally:
            audit.call(caller_of(context), path, outcome, _what(request))

    return grpc.unary_unary_rpc_method_handler(
        handle, handler.request_deserializer, handler.response_serializer
    )


def _what(request: Any) -> dict[str, Any]:
    """The plain fields of an operator's request, cut: bundles, shares, folders. None of them is a secret."""
    told: dict[str, Any] = {}
    for field, value in request.ListFields() if hasattr(request, "ListFields") else ():
        told[field.name] = value if isinstance(value, bool | int | float) else str(value)[:500]
    return told
