"""A store on a temporary folder, and the events and lease holders to use it with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from muster.v1.catalogue_pb2 import Event, Product, SequencedEvent
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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalogue.sqlite3"


@pytest.fixture
def clock_ns() -> SetClock:
    return SetClock()


@pytest.fixture
def store(path: Path, clock_ns: SetClock) -> Iterator[Store]:
    """Open, at epoch 1, held by HOLDER."""
    store = SqliteStore.open(path, StoreConfig(busy_timeout_ms=200), clock_ns=clock_ns)
    assert store.claim_lease(HOLDER, expected_epoch=0, ttl_ns=TTL_NS) is not None
    yield store
    store.close()
