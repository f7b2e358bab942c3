"""A catalogue with a snapshot, a log and known ids, for the tests of what operators do with its file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pysqlite3 import dbapi2 as sqlite

from muster.v1.catalogue_pb2 import Event, Patch, Product
from server.catalogue.store import NewEvent, open_store
from server.standby.lease import Holder

EVENTS = 60
FOLDED = 40


def make(path: Path) -> None:
    """Sixty events of ten products, forty of them folded, in epochs 1 and 2."""
    store = open_store(path)
    for epoch in (1, 2):
        store.claim_lease(Holder("a", 1, 1, "boot"), expected_epoch=epoch - 1, ttl_ns=10**15)
        store.append([[new_event(30 * (epoch - 1) + number) for number in range(30)]], epoch=epoch)
    store.fold(epoch=2, wanted=lambda row: row.sequence <= FOLDED, events_max=1000)
    store.close()


def new_event(number: int) -> NewEvent:
    """Every third one a patch; of the upserts each product's last stays unpatched."""
    product_id = f"p{number % 10}"
    if number % 3 == 2:
        return NewEvent.of(Event(event_id=f"e{number}", patch=Patch(product_id=product_id, stock=number)))
    product = Product(
        product_id=product_id, title=f"a title {number}", attributes={"size": "1", "sole": "2", "sort": "3"}
    )
    return NewEvent.of(Event(event_id=f"e{number}", upsert=product))


def damage(path: Path, *statements: str) -> None:
    """Run SQL on the file behind the store's back."""
    with raw(path) as connection:
        for statement in statements:
            connection.execute(statement)


@contextmanager
def raw(path: Path) -> Iterator[sqlite.Connection]:
    """A connection of its own."""
    connection = sqlite.connect(str(path), isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


FLIP = "payload = CAST(substr(payload, 1, 12) || x'7e' || substr(payload, 14) AS BLOB)"
