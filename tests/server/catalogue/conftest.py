"""A store on a file or a server, and the events and lease holders to use it with."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psycopg
import pytest
from pysqlite3 import dbapi2 as sqlite

from muster.v1.catalogue_pb2 import Event, Product, SequencedEvent
from server.catalogue.location import is_postgresql
from server.catalogue.opening import open_store
from server.catalogue.postgres import PostgresStore
from server.catalogue.sqlite import SqliteStore
from server.catalogue.store import NewEvent, Store, StoreConfig
from server.standby.lease import Holder

TTL_NS = 500_000_000
HOLDER = Holder("a/1", 100, 200, "boot")
OTHER = Holder("b/2", 101, 201, "boot")


def event(event_id: str, title: str = "a title") -> Event:
    return Event(event_id=event_id, upsert=Product(product_id=f"p-{event_id}", title=title))


def new_events(*event_ids: str) -> list[NewEvent]:
    return [NewEvent.of(event(event_id)) for event_id in event_ids]


def event_ids(events: list[bytes]) -> list[str]:
    return [SequencedEvent.FromString(data).event.event_id for data in events]


def sequences(events: list[bytes]) -> list[int]:
    return [SequencedEvent.FromString(data).sequence for data in events]


@dataclass
class SetClock:
    """A monotonic clock that stands still until told otherwise."""

    now_ns: int = 1_000_000_000

    def __call__(self) -> int:
        return self.now_ns


@dataclass
class SetReign:
    """The right to write, as the test says."""

    epoch: int | None = 1
    lease_ttl_ns: int = TTL_NS
    extensions: list[tuple[int, int]] = field(default_factory=list)
    fenced_epochs: list[int] = field(default_factory=list)

    def writing_epoch(self) -> int | None:
        return self.epoch

    def extended(self, epoch: int, expires_monotonic_ns: int) -> None:
        self.extensions.append((epoch, expires_monotonic_ns))

    def fenced(self, epoch: int) -> None:
        self.fenced_epochs.append(epoch)
        self.epoch = None


@contextmanager
def raw_connection(path: Path) -> Iterator[sqlite.Connection]:
    connection = sqlite.connect(str(path), isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def frozen_transaction(location: str) -> Iterator[None]:
    """A writer that has begun and does not go on, as a process that hangs there."""
    if not is_postgresql(location):
        with raw_connection(Path(location)) as file:
            file.execute("BEGIN IMMEDIATE")
            yield
            file.execute("ROLLBACK")
        return
    with psycopg.connect(location.replace("+psycopg", "")) as session:
        session.execute("SELECT epoch FROM lease FOR NO KEY UPDATE")
        yield
        session.rollback()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that names the file's `path` is about a file: not for a server."""

    def wanted(item: pytest.Item) -> bool:
        if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            return True
        on_a_server = item.callspec.params.get("location") == "postgresql"
        return not (on_a_server and "path" in inspect.signature(item.function).parameters)

    items[:] = [item for item in items if wanted(item)]


class Passing(Protocol):
    """Time as the leases of a store see it."""

    def pass_ns(self, duration_ns: int) -> None:
        """So much later."""

    def now_ns(self) -> int:
        """On the clock that LeaseRow uses."""


class FilePassing:
    """SQLite's leases expire by a clock that the test sets."""

    def __init__(self, clock_ns: SetClock) -> None:
        self._clock_ns = clock_ns

    def pass_ns(self, duration_ns: int) -> None:
        self._clock_ns.now_ns += duration_ns

    def now_ns(self) -> int:
        return self._clock_ns()


class ServerPassing:
    """A server's clock cannot be set, so the lease is made older."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    def pass_ns(self, duration_ns: int) -> None:
        with self._store._writes.begin() as transaction:
            transaction.exec_driver_sql(
                f"UPDATE lease SET expires_monotonic_ns = expires_monotonic_ns - {duration_ns}"
            )

    def now_ns(self) -> int:
        return time.monotonic_ns()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalogue.sqlite3"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def location(request: pytest.FixtureRequest) -> str:
    """What `open_store` takes; nothing is there yet. A module about one kind of store has its own."""
    return str(request.getfixturevalue("path" if request.param == "sqlite" else "database"))


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest, location: str, tmp_path: Path) -> str:
    """Another place of the same kind; nothing is there yet."""
    if is_postgresql(location):
        return str(request.getfixturevalue("other_database"))
    return str(tmp_path / "elsewhere" / "catalogue.sqlite3")


@pytest.fixture
def clock_ns() -> SetClock:
    return SetClock()


@pytest.fixture
def store(location: str, clock_ns: SetClock) -> Iterator[Store]:
    """Open, at epoch 1, held by HOLDER."""
    config = StoreConfig(busy_timeout_ms=200)
    store: Store
    if is_postgresql(location):
        store = open_store(location, StoreConfig(busy_timeout_ms=2000))
    else:
        store = SqliteStore.open(location, config, clock_ns=clock_ns)
    assert store.claim_lease(HOLDER, expected_epoch=0, ttl_ns=TTL_NS) is not None
    yield store
    store.close()


@pytest.fixture
def passing(store: Store, clock_ns: SetClock) -> Passing:
    return ServerPassing(store) if isinstance(store, PostgresStore) else FilePassing(clock_ns)
