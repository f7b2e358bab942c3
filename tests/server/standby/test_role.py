"""Real processes on a real file: who writes, before and after each way of losing a primary."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.catalogue.errors import NotPrimary, StoreUnavailable
from server.catalogue.log import LogWriter
from server.catalogue.opening import open_store
from server.catalogue.store import Store
from server.standby.lease import LeaseConfig, LeaseKeeper
from server.standby.role import RoleAnnouncer, keep_role
from tests.server.catalogue.conftest import OTHER, event
from tests.server.standby.replicas import LONG_S, Cluster, until


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

    def keeper(self, store: Store, **arguments: object) -> LeaseKeeper:
        return keep_role(
            store,
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
    keeper = roles.keeper(store)
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
    keeper = roles.keeper(store, eligible=eligible)
    keeper.start()
    for _ in range(3):
        assert asked.acquire(timeout=LONG_S)
    assert store.lease() is None
    ready.set()
    until(lambda: roles.seen == [1], "the role")
    keeper.stop()


def test_a_fenced_primary_stops_writing_at_once(store: Store, tmp_path: Path) -> None:
    roles = Roles()
    keeper = roles.keeper(store)
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
    keeper = roles.keeper(store, config=LeaseConfig(ttl_ms=200))
    keeper.start()
    until(lambda: roles.seen[:3] == [1, None, 2], "stepping down and trying again")
    keeper.stop()


def test_a_lock_file_deleted_under_the_primary_ends_its_reign(store: Store, tmp_path: Path) -> None:
    roles = Roles()
    keeper = roles.keeper(store)
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
        replica="me",
        on_primary=on_primary,
        on_standby=lambda: None,
        config=LeaseConfig(ttl_ms=200),
    )
    keeper.start()
    until(lambda: epochs == [1, 2], "a second reign")
    until(lambda: keeper.writing_epoch() == 2, "that reign to last")
    keeper.stop()
