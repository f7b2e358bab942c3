from __future__ import annotations

import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from server.catalogue.errors import (
    AppendTimeout,
    DiskFull,
    Fenced,
    LogOverloaded,
    NotPrimary,
    StoreIOFailed,
    StoreUnavailable,
)
from server.catalogue.log import EXIT_BROKEN, EXIT_IO_ERROR, LogWriter, LogWriterConfig
from server.catalogue.opening import open_store
from server.catalogue.store import Appended, Head, Store
from tests.server.catalogue.conftest import (
    OTHER,
    TTL_NS,
    SetReign,
    event,
    event_ids,
    frozen_transaction,
    new_events,
    sequences,
)

ROOT = Path(__file__).parents[3]
# Long enough for a busy machine; no test waits for it to pass.
LONG_S = 30.0

MakeWriter = Callable[..., LogWriter]


@pytest.fixture
def reign() -> SetReign:
    return SetReign()


@pytest.fixture
def make_writer(store: Store, reign: SetReign) -> Iterator[MakeWriter]:
    writers = []

    def make(**arguments: object) -> LogWriter:
        writer = LogWriter(store, reign, **arguments)  # type: ignore[arg-type]
        writers.append(writer)
        return writer

    yield make
    for writer in writers:
        assert writer.close()


def test_an_append_is_durable_when_it_returns(make_writer: MakeWriter, store: Store) -> None:
    writer = make_writer()
    writer.start()
    assert writer.append([event("a"), event("b").SerializeToString(), *new_events("c")], LONG_S) == Appended(
        3, 1, 0
    )
    assert event_ids(store.read_range(1)) == ["a", "b", "c"]


def test_appends_that_wait_together_are_committed_together(make_writer: MakeWriter) -> None:
    heads: list[int] = []
    writer = make_writer(config=LogWriterConfig(group_events_max=64), on_commit=heads.append)
    futures = [writer.submit([event(f"{i}-{j}") for j in range(10)], LONG_S) for i in range(13)]
    writer.start()
    assert [future.result(LONG_S).sequence for future in futures] == list(range(10, 140, 10))
    assert heads == [60, 120, 130]
    assert writer.stats().commits == 3
    assert writer.stats().events == 130


def test_a_batch_larger_than_a_group_goes_alone_and_whole(make_writer: MakeWriter) -> None:
    heads: list[int] = []
    writer = make_writer(config=LogWriterConfig(group_events_max=4), on_commit=heads.append)
    small = writer.submit([event("small")], LONG_S)
    large = writer.submit([event(f"{i}") for i in range(50)], LONG_S)
    writer.start()
    assert small.result(LONG_S) == Appended(1, 1, 0)
    assert large.result(LONG_S) == Appended(51, 1, 0)
    assert heads == [1, 51]


def test_many_producers_lose_and_double_nothing(make_writer: MakeWriter, store: Store) -> None:
    writer = make_writer()
    writer.start()
    names = [f"e{i}" for i in range(200)]

    def produce(seed: int) -> dict[str, int]:
        draw = random.Random(seed)
        known = {}
        for _ in range(20):
            batch = draw.sample(names, 5)
            writer.append([event(name) for name in batch], LONG_S)
            known.update(dict.fromkeys(batch, 0))
        return known

    with ThreadPoolExecutor(16) as pool:
        acknowledged = {name for known in pool.map(produce, range(16)) for name in known}
    events = store.read_range(1)
    assert sequences(events) == list(range(1, len(events) + 1))
    assert sorted(event_ids(events)) == sorted(acknowledged)
    stats = writer.stats()
    assert stats.events == 16 * 20 * 5
    assert stats.duplicates == stats.events - len(events)


def test_sending_again_after_an_unknown_outcome_tells_what_happened(
    make_writer: MakeWriter, store: Store, location: str
) -> None:
    writer = make_writer()
    writer.start()
    with frozen_transaction(location), pytest.raises(AppendTimeout) as caught:
        writer.append([event("a")], 0.05)
    assert caught.value.outcome_unknown
    # Whether the blocked commit was still made or gave up, the event is there exactly once now.
    assert writer.append([event("a")], LONG_S).sequence == 1
    assert event_ids(store.read_range(1)) == ["a"]


def test_a_deadline_that_passes_in_the_queue_leaves_nothing_behind(
    make_writer: MakeWriter, store: Store
) -> None:
    now_s = 100.0
    writer = make_writer(clock=lambda: now_s)
    late = writer.submit([event("late")], 1.0)
    patient = writer.submit([event("patient")], 10.0)
    now_s += 1.0
    writer.start()
    assert patient.result(LONG_S) == Appended(1, 1, 0)
    with pytest.raises(AppendTimeout, match="nothing was written") as caught:
        late.result(LONG_S)
    assert not caught.value.outcome_unknown
    assert writer.stats().shed == 1
    assert event_ids(store.read_range(1)) == ["patient"]


def test_a_caller_that_gives_up_in_the_queue_leaves_nothing_behind(
    make_writer: MakeWriter, store: Store
) -> None:
    writer = make_writer()
    with pytest.raises(AppendTimeout) as caught:
        writer.append([event("impatient")], 0.02)
    assert not caught.value.outcome_unknown
    cancelled = writer.submit([event("cancelled")], LONG_S)
    assert cancelled.cancel()
    writer.start()
    assert writer.append([event("next")], LONG_S) == Appended(1, 1, 0)
    with pytest.raises(CancelledError):
        cancelled.result()
    assert event_ids(store.read_range(1)) == ["next"]


def test_a_deadline_that_passed_on_arrival_is_refused(make_writer: MakeWriter) -> None:
    with pytest.raises(AppendTimeout, match="on arrival"):
        make_writer().append([event("a")], 0.0)


def test_a_full_queue_sheds(make_writer: MakeWriter) -> None:
    writer = make_writer(config=LogWriterConfig(queue_events_max=10))
    waiting = writer.submit([event(f"{i}") for i in range(8)], LONG_S)
    with pytest.raises(LogOverloaded) as caught:
        writer.submit([event("x"), event("y"), event("z")], LONG_S)
    assert caught.value.retry_after_ms > 0
    writer.start()
    assert waiting.result(LONG_S) == Appended(8, 1, 0)
    assert writer.stats().shed == 1


def test_an_append_that_cannot_make_it_behind_the_queue_is_shed_at_once(make_writer: MakeWriter) -> None:
    config = LogWriterConfig(group_events_max=10, commit_guess_ms=50)
    writer = make_writer(config=config, clock=lambda: 0.0)
    for i in range(3):
        writer.submit([event(f"{i}-{j}") for j in range(10)], LONG_S)
    with pytest.raises(LogOverloaded, match="about 150 ms"):
        writer.submit([event("x")], 0.19)
    writer.submit([event("y")], 0.21)
    writer.start()


def test_a_slow_spell_does_not_keep_an_idle_log_from_trying(make_writer: MakeWriter) -> None:
    writer = make_writer(config=LogWriterConfig(commit_guess_ms=5000), clock=lambda: 0.0)
    writer.start()
    assert writer.append([event("a")], 1.0).sequence == 1


def test_a_standby_refuses_at_once(make_writer: MakeWriter, reign: SetReign, store: Store) -> None:
    reign.epoch = None
    with pytest.raises(NotPrimary):
        make_writer().append([event("a")], LONG_S)
    assert store.head() == Head(0, 0)


def test_what_is_queued_when_the_reign_ends_is_refused(
    make_writer: MakeWriter, reign: SetReign, store: Store
) -> None:
    writer = make_writer()
    future = writer.submit([event("a")], LONG_S)
    reign.epoch = None
    writer.start()
    with pytest.raises(NotPrimary, match="stopped being the primary"):
        future.result(LONG_S)
    assert store.head() == Head(0, 0)


def test_a_fenced_append_ends_the_reign(make_writer: MakeWriter, reign: SetReign, store: Store) -> None:
    writer = make_writer()
    writer.start()
    store.claim_lease(OTHER, expected_epoch=1, ttl_ns=TTL_NS)
    with pytest.raises(Fenced):
        writer.append([event("a")], LONG_S)
    assert reign.fenced_epochs == [1]
    with pytest.raises(NotPrimary):
        writer.append([event("a")], LONG_S)
    assert store.head() == Head(0, 0)


def test_each_commit_reports_the_lease_it_extended(
    make_writer: MakeWriter, reign: SetReign, store: Store
) -> None:
    writer = make_writer()
    writer.start()
    writer.append([event("a")], LONG_S)
    lease = store.lease()
    assert lease is not None
    # The holder counts no longer than others; on a server by as much as it took to ask.
    [(epoch, expires_ns)] = reign.extensions
    assert epoch == 1
    assert lease.expires_monotonic_ns - 10**10 < expires_ns <= lease.expires_monotonic_ns


def test_an_empty_batch_and_a_nameless_event_are_refused(make_writer: MakeWriter) -> None:
    writer = make_writer()
    with pytest.raises(ValueError, match="at least one event"):
        writer.submit([], LONG_S)
    with pytest.raises(ValueError, match="event_id"):
        writer.submit([event("a"), event("")], LONG_S)
    assert writer.stats().queued_events == 0


def test_a_full_disk_fails_the_append_and_the_next_one_works(
    make_writer: MakeWriter, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise DiskFull("the disk is full; nothing was written")

    writer = make_writer()
    writer.start()
    with monkeypatch.context() as patch:
        patch.setattr(store, "append", full)
        with pytest.raises(DiskFull):
            writer.append([event("a")], LONG_S)
    assert writer.append([event("a")], LONG_S) == Appended(1, 1, 0)


def test_closing_writes_what_waits_and_takes_no_more(make_writer: MakeWriter, store: Store) -> None:
    writer = make_writer()
    futures = [writer.submit([event(f"{i}")], LONG_S) for i in range(300)]
    writer.start()
    assert writer.close()
    assert all(future.done() and future.exception() is None for future in futures)
    assert store.head() == Head(300, 1)
    with pytest.raises(StoreUnavailable, match="closed"):
        writer.append([event("x")], LONG_S)


def test_closing_a_writer_that_never_ran_fails_what_waits(make_writer: MakeWriter) -> None:
    writer = make_writer()
    future = writer.submit([event("a")], LONG_S)
    assert writer.close()
    with pytest.raises(StoreUnavailable):
        future.result(LONG_S)


# --- the process ends rather than guess --------------------------------------------------------------------

PROGRAM = """
import logging, sys
from server.catalogue.errors import StoreIOFailed
from server.catalogue.log import LogWriter
from server.catalogue.opening import open_store
from tests.server.catalogue.conftest import HOLDER, SetReign, event
logging.basicConfig()
store = open_store(sys.argv[1])
store.claim_lease(HOLDER, expected_epoch=0, ttl_ns=10**9)
"""


def run_program(path: Path, program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM + program, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        ("StoreIOFailed('the disk is gone')", EXIT_IO_ERROR, "ending this replica: the disk is gone"),
        ("ZeroDivisionError('a bug')", EXIT_BROKEN, "ZeroDivisionError: a bug"),
    ],
)
def test_the_process_ends_without_an_answer_when_a_commit_breaks(
    path: Path, error: str, code: int, reason: str
) -> None:
    ended = run_program(
        path,
        f"""
def broken(*_, **__):
    raise {error}
store.append = broken
writer = LogWriter(store, SetReign())
writer.start()
writer.append([event("a")], 20)
print("acknowledged")
""",
    )
    assert ended.returncode == code, ended.stderr
    assert ended.stdout == ""
    assert reason in ended.stderr


@pytest.mark.privileged
def test_a_failed_fsync_ends_the_process_and_the_acknowledged_events_are_there(path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed, so no fsync can be made to fail")
    program = """
import os, subprocess, threading
writer = LogWriter(store, SetReign())
writer.start()
for i in range(5):
    print(writer.append([event(f"e{i}")], 20).sequence, flush=True)
tracer = subprocess.Popen(
    ["strace", "-f", "-qq", "-o", os.devnull, "-p", str(os.getpid()),
     "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO"])
while "TracerPid:\\t0" in open("/proc/self/status").read():
    pass
for i in range(5, 50):
    print(writer.append([event(f"e{i}")], 20).sequence, flush=True)
    if i == 49: tracer.kill()
"""
    ended = run_program(path, program)
    if "Operation not permitted" in ended.stderr:
        pytest.skip("this machine does not let a process be traced")
    assert ended.returncode == EXIT_IO_ERROR, ended.stderr
    assert "ending this replica" in ended.stderr
    acknowledged = [int(line) for line in ended.stdout.split()]
    assert len(acknowledged) < 50
    store = open_store(path)
    assert sequences(store.read_range(1, acknowledged[-1])) == acknowledged
    store.close()


def test_the_callback_of_an_io_error_gets_its_cause(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[BaseException] = []
    ended = threading.Event()

    def end(error: BaseException) -> NoReturn:
        seen.append(error)
        ended.set()
        threading.Event().wait()
        raise AssertionError

    def broken(*_: object, **__: object) -> NoReturn:
        raise StoreIOFailed("fsync")

    monkeypatch.setattr(store, "append", broken)
    writer = LogWriter(store, SetReign(), end_process=end)
    writer.start()
    future = writer.submit([event("a")], LONG_S)
    assert ended.wait(LONG_S)
    assert str(seen[0]) == "fsync"
    assert not future.done()
