"""Real processes on a real PostgreSQL server: who writes, before and after each way of losing a primary."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from drills.rig.postgres import ThrowawayPostgres
from server.catalogue.opening import open_store
from server.catalogue.store import Store, StoreConfig
from server.standby.lease import LeaseConfig
from server.standby.role import keep_role
from server.standby.sessions import session_name
from server.standby.takeover import Takeover
from tests.server.standby.replicas import LONG_S, Cluster, until

pytestmark = pytest.mark.postgresql

TTL_NS = LeaseConfig().ttl_ns


@pytest.fixture
def cluster(tmp_path: Path, database: str) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, database)
    yield cluster
    cluster.close()


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_standby_takes_over_from_a_primary_that_dies_or_hangs(
    cluster: Cluster, fault: signal.Signals
) -> None:
    reign = cluster.start_and_wait("a", "b", "c")
    for _ in range(2):
        lost = reign.holder.replica
        cluster.processes[lost].send_signal(fault)
        until(lambda epoch=reign.epoch + 1: cluster.writes_in(epoch), "writes of the next primary")  # type: ignore[misc]
        reign = cluster.lease()
        assert reign.holder.replica != lost
        if fault is signal.SIGKILL:
            assert cluster.processes[lost].wait(LONG_S) == -signal.SIGKILL
            cluster.start(lost)
        else:
            # It may be on another machine, so it lives; when it wakes up it finds its reign over.
            assert cluster.processes[lost].poll() is None
            cluster.processes[lost].send_signal(signal.SIGCONT)
            until(lambda name=lost: "the reign of epoch" in cluster.log(name), "the end of its reign")  # type: ignore[misc]
    cluster.check_history()


def test_a_primary_that_hangs_inside_a_transaction_does_not_block_its_successor(cluster: Cluster) -> None:
    cluster.start("a", "--hang-in-transaction")
    until(lambda: cluster.writes_in(1), "the first primary")
    cluster.start("b")
    until(lambda: cluster.writes_in(2), "writes of the next primary")
    assert cluster.lease().holder.replica == "b"
    cluster.processes["a"].send_signal(signal.SIGCONT)
    until(lambda: "the reign of epoch 1 is over" in cluster.log("a"), "the end of the first reign")
    before = cluster.store.head().sequence
    until(lambda: cluster.store.head().sequence > before, "more writes of the second")
    cluster.check_history()


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_writes_come_back_by_themselves_after_the_server_does(
    tmp_path: Path, own_server: ThrowawayPostgres, fault: str
) -> None:
    cluster = Cluster(tmp_path, own_server.create_database("muster"))
    try:
        reign = cluster.start_and_wait("a", "b")
        primary = reign.holder.replica
        breaks, mends = {
            "killed": (own_server.kill, own_server.start),
            "frozen": (own_server.freeze, own_server.thaw),
        }[fault]
        breaks()
        until(lambda: f"the reign of epoch {reign.epoch} is over" in cluster.log(primary), "its end")
        mends()
        until(lambda: cluster.writes_in(reign.epoch + 1), "writes of the next reign")
        assert all(process.poll() is None for process in cluster.processes.values())
        cluster.store.close()
        cluster.store = open_store(cluster.location)
        cluster.check_history()
    finally:
        cluster.close()


# --- in this process ---------------------------------------------------------------------------------------


Pair = tuple[Takeover, Takeover]


@pytest.fixture
def stores(database: str) -> Iterator[tuple[Store, Store]]:
    pair = open_store(database, StoreConfig(client="a")), open_store(database, StoreConfig(client="b"))
    yield pair
    for store in pair:
        store.close()


@pytest.fixture
def pair(stores: tuple[Store, Store]) -> Iterator[Pair]:
    """The takeovers of two replicas."""
    first, second = (store.takeover("x", ttl_ns=TTL_NS) for store in stores)
    yield first, second
    first.lock.drop()
    second.lock.drop()


def test_the_lock_is_exclusive_and_goes_with_its_session(pair: Pair) -> None:
    first, second = pair
    assert first.lock.take()
    assert first.lock.take()
    assert not second.lock.take()
    assert first.lock.intact()
    assert not second.lock.intact()
    first.lock.drop()
    assert not first.lock.intact()
    assert second.lock.take()


def test_the_sessions_of_a_hung_holder_are_ended_and_its_lock_is_free(
    stores: tuple[Store, Store], pair: Pair
) -> None:
    hung, successor = pair
    assert hung.lock.take()
    assert stores[0].claim_lease(hung.me, expected_epoch=0, ttl_ns=TTL_NS) is not None
    asked: list[bool] = []

    def still_hung() -> bool:
        asked.append(True)
        return True

    assert successor.executioner.kill_holder(hung.me, still_hung)
    assert asked
    assert successor.lock.take()
    assert not hung.lock.intact()
    assert not hung.lock.take()


def test_a_holder_that_renewed_in_time_is_left_alone(pair: Pair) -> None:
    holder, other = pair
    assert holder.lock.take()
    assert not other.executioner.kill_holder(holder.me, lambda: False)
    assert not other.executioner.kill_lock_holders(lambda: False)
    assert holder.lock.intact()


def test_whoever_keeps_the_lock_without_a_lease_is_ended_but_never_oneself(pair: Pair) -> None:
    holder, other = pair
    assert holder.lock.take()
    assert holder.executioner.kill_lock_holders(lambda: True)
    assert holder.lock.intact()
    assert other.executioner.kill_lock_holders(lambda: True)
    assert not holder.lock.intact()


def test_the_lock_is_asked_for_again_after_the_server_was_away(own_server: ThrowawayPostgres) -> None:
    store = open_store(own_server.create_database("muster"))
    lock = store.takeover("x", ttl_ns=TTL_NS).lock
    assert lock.take()
    own_server.kill()
    assert not lock.intact()
    assert not lock.take()
    own_server.start()
    until(lock.take, "the lock")
    lock.drop()
    store.close()


def test_a_lone_replica_reigns_and_gives_the_lease_back(stores: tuple[Store, Store]) -> None:
    roles: list[int | None] = []
    keeper = keep_role(
        stores[0], replica="me", on_primary=roles.append, on_standby=lambda: roles.append(None)
    )
    keeper.start()
    until(lambda: keeper.writing_epoch() == 1, "the role")
    assert keeper.stop()
    until(lambda: roles == [1, None], "the end of the role")
    row = stores[1].lease()
    assert row is not None
    assert (row.epoch, row.expires_monotonic_ns, row.holder.replica) == (1, 0, "me")


def test_sessions_carry_the_replica_name_where_people_look(
    database: str, stores: tuple[Store, Store]
) -> None:
    with psycopg.connect(database.replace("+psycopg", "")) as connection:
        names = [row[0] for row in connection.execute("SELECT application_name FROM pg_stat_activity")]
    assert any(name.startswith("muster read ") and name.endswith(" a") for name in names)
    assert len(session_name("write", "0" * 8, "ü" * 64).encode()) <= 63
