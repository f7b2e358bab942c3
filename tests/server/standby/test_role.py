"""Real processes on a real file: who writes, before and after each way of losing a primary."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from muster.v1.catalogue_pb2 import SequencedEvent
from server.catalogue.errors import NotPrimary, StoreUnavailable
from server.catalogue.log import LogWriter
from server.catalogue.store import Store, open_store
from server.standby.lease import LeaseConfig, LeaseKeeper, LeaseRow
from server.standby.role import RoleAnnouncer, keep_role
from tests.server.catalogue.conftest import OTHER, event

ROOT = Path(__file__).parents[3]
LONG_S = 60.0


def until(condition: Callable[[], bool], what: str) -> None:
    gives_up_at_s = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < gives_up_at_s, f"waited in vain for {what}"
        time.sleep(0.01)


class Cluster:
    """Replica processes on one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = open_store(folder / "catalogue.sqlite3")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *options: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.server.standby.replica_process",
                    str(self.folder),
                    name,
                    *options,
                ],
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    def start_and_wait(self, *names: str) -> LeaseRow:
        """Start the replicas; the lease once the first has it and all of them run."""
        for name in names:
            self.start(name)
        until(lambda: self.writes_in(1), "the first primary")
        until(lambda: all((self.folder / f"{n}.acknowledged").exists() for n in names), "every replica")
        return self.lease()

    def lease(self) -> LeaseRow:
        row = self.store.lease()
        assert row is not None
        return row

    def writes_in(self, epoch: int) -> bool:
        return any(acknowledged_epoch >= epoch for _, acknowledged_epoch, _ in self.acknowledged())

    def acknowledged(self) -> list[tuple[int, int, str]]:
        """(sequence, epoch, event_id) of every append a replica was told is durable."""
        lines = []
        for path in self.folder.glob("*.acknowledged"):
            whole = path.read_text().rpartition("\n")[0]
            lines += [line.split() for line in whole.splitlines()]
        return [(int(sequence), int(epoch), event_id) for sequence, epoch, event_id in lines]

    def check_history(self) -> None:
        """No acknowledged event is missing or moved, none is doubled, epochs only rise."""
        # Read first: writes go on, and the log must hold whatever was acknowledged before.
        acknowledged = self.acknowledged()
        log: list[SequencedEvent] = []
        while events := self.store.read_range(len(log) + 1):
            log += [SequencedEvent.FromString(data) for data in events]
        event_ids = [entry.event.event_id for entry in log]
        epochs = [entry.epoch for entry in log]
        assert len(set(event_ids)) == len(event_ids)
        assert epochs == sorted(epochs)
        for sequence, epoch, event_id in acknowledged:
            assert (event_ids[sequence - 1], epochs[sequence - 1]) == (event_id, epoch)

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.store.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_standby_takes_over_from_a_primary_that_dies_or_hangs(
    cluster: Cluster, fault: signal.Signals
) -> None:
    reign = cluster.start_and_wait("a", "b", "c")
    for _ in range(2):
        cluster.processes[reign.holder.replica].send_signal(fault)
        until(lambda epoch=reign.epoch + 1: cluster.writes_in(epoch), "writes of the next primary")  # type: ignore[misc]
        lost, reign = reign.holder.replica, cluster.lease()
        assert reign.holder.replica != lost
        # A hung one was killed on the way, so it can never wake up and write.
        assert cluster.processes[lost].wait(LONG_S) == -signal.SIGKILL
        cluster.start(lost)
    cluster.check_history()


def test_a_primary_that_hangs_inside_a_transaction_does_not_block_its_successor(cluster: Cluster) -> None:
    cluster.start("a", "--hang-in-transaction")
    until(lambda: cluster.writes_in(1), "the first primary")
    cluster.start("b")
    until(lambda: cluster.writes_in(2), "writes of the next primary")
    assert cluster.processes["a"].wait(LONG_S) == -signal.SIGKILL
    assert cluster.lease().holder.replica == "b"
    cluster.check_history()


def test_a_hung_standby_changes_nothing(cluster: Cluster) -> None:
    reign = cluster.start_and_wait("a", "b")
    standby = next(name for name in "ab" if name != reign.holder.replica)
    cluster.processes[standby].send_signal(signal.SIGSTOP)
    before = cluster.store.head().sequence
    until(lambda: cluster.store.head().sequence > before + 100, "more writes")
    assert cluster.lease().epoch == reign.epoch
    assert cluster.processes[standby].poll() is None


@pytest.mark.parametrize("request_", [signal.SIGTERM, signal.SIGUSR1])
def test_a_primary_that_leaves_on_purpose_hands_over_alive(
    cluster: Cluster, request_: signal.Signals
) -> None:
    reign = cluster.start_and_wait("a", "b")
    leaving = cluster.processes[reign.holder.replica]
    leaving.send_signal(request_)
    until(lambda: cluster.writes_in(reign.epoch + 1), "writes of the next primary")
    assert cluster.lease().holder.replica != reign.holder.replica
    if request_ is signal.SIGTERM:
        assert leaving.wait(LONG_S) == 0
    else:
        assert leaving.poll() is None
    cluster.check_history()


# --- one keeper in this process ----------------------------------------------------------------------------


class Roles:
    """Callbacks that remember."""

    def __init__(self) -> None:
        self.seen: list[int | None] = []

    def keeper(self, store: Store, lock_path: Path, **arguments: object) -> LeaseKeeper:
        return keep_role(
            store,
            lock_path,
            replica="me",
            on_primary=self.seen.append,
            on_standby=lambda: self.seen.append(None),
            **arguments,  # type: ignore[arg-type]
        )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path / "catalogue.sqlite3")
    yield store
    store.close()


def test_a_lone_replica_becomes_primary_and_gives_the_lease_back(store: Store, tmp_path: Path) -> None:
    roles = Roles()
    keeper = roles.keeper(store, tmp_path / "primary.lock")
    assert keeper.writing_epoch() is None
    keeper.start()
    until(lambda: roles.seen == [1], "the role")
    assert keeper.writing_epoch() == 1
    assert keeper.stop()
    assert keeper.writing_epoch() is None
    until(lambda: roles.seen == [1, None], "the end of the role")
    row = store.lease()
    assert row is not None
    assert (row.epoch, row.holder.pid, row.expires_monotonic_ns) == (1, os.getpid(), 0)


def test_a_replica_that_has_not_caught_up_does_not_claim(store: Store, tmp_path: Path) -> None:
    asked = threading.Semaphore(0)
    ready = threading.Event()

    def eligible() -> bool:
        asked.release()
        return ready.is_set()

    roles = Roles()
    keeper = roles.keeper(store, tmp_path / "primary.lock", eligible=eligible)
    keeper.start()
    for _ in range(3):
        assert asked.acquire(timeout=LONG_S)
    assert store.lease() is None
    ready.set()
    until(lambda: roles.seen == [1], "the role")
    keeper.stop()


def test_a_fenced_primary_stops_writing_at_once(store: Store, tmp_path: Path) -> None:
    roles = Roles()
    keeper = roles.keeper(store, tmp_path / "primary.lock")
    keeper.start()
    until(lambda: keeper.is_primary(), "the role")
    # Another process has taken the lease without asking the lock, say because its file was deleted.
    assert store.claim_lease(OTHER, expected_epoch=1, ttl_ns=10**12) is not None
    keeper.fenced(1)
    assert keeper.writing_epoch() is None
    writer = LogWriter(store, keeper)
    with pytest.raises(NotPrimary):
        writer.append([event("late")], LONG_S)
    until(lambda: None in roles.seen, "the end of the role")
    keeper.stop()


def test_a_primary_whose_renewals_fail_stops_before_its_lease_ends(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(**_: object) -> int | None:
        raise StoreUnavailable("the disk is slow")

    monkeypatch.setattr(store, "renew_lease", unavailable)
    roles = Roles()
    keeper = roles.keeper(store, tmp_path / "primary.lock", config=LeaseConfig(ttl_ms=200))
    keeper.start()
    until(lambda: roles.seen[:3] == [1, None, 2], "stepping down and trying again")
    keeper.stop()


def test_a_lock_file_deleted_under_the_primary_ends_its_reign(store: Store, tmp_path: Path) -> None:
    roles = Roles()
    keeper = roles.keeper(store, tmp_path / "primary.lock")
    keeper.start()
    until(lambda: roles.seen == [1], "the role")
    (tmp_path / "primary.lock").unlink()
    until(lambda: roles.seen[:3] == [1, None, 2], "a reign under the new file")
    keeper.stop()


def test_a_callback_that_fails_gives_up_and_does_not_silence_the_next() -> None:
    seen: list[int | str] = []

    def on_primary(epoch: int) -> None:
        seen.append(epoch)
        raise RuntimeError("not ready")

    def on_standby() -> None:
        seen.append("standby")
        raise RuntimeError("not ready either")

    announcer = RoleAnnouncer(on_primary, on_standby, lambda: seen.append("gave up"))
    announcer.primary(1)
    announcer.standby("over")
    announcer.primary(2)
    until(lambda: seen == [1, "gave up", "standby", 2, "gave up"], "all of them")


def test_a_replica_that_cannot_act_as_primary_steps_down_and_tries_again_later(
    store: Store, tmp_path: Path
) -> None:
    epochs: list[int] = []

    def on_primary(epoch: int) -> None:
        epochs.append(epoch)
        if len(epochs) == 1:
            raise RuntimeError("cannot read the log")

    keeper = keep_role(
        store,
        tmp_path / "primary.lock",
        replica="me",
        on_primary=on_primary,
        on_standby=lambda: None,
        config=LeaseConfig(ttl_ms=200),
    )
    keeper.start()
    until(lambda: epochs == [1, 2], "a second reign")
    until(lambda: keeper.writing_epoch() == 2, "that reign to last")
    keeper.stop()
