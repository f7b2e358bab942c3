"""A catalogue with a snapshot, a log and known ids, for the tests of what operators do with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from pysqlite3 import dbapi2 as sqlite

from muster.v1.catalogue_pb2 import Event, Patch, Product
from server.catalogue.location import is_postgresql
from server.catalogue.opening import open_store
from server.catalogue.store import NewEvent
from server.standby.lease import Holder

EVENTS = 60
FOLDED = 40


def make(location: str | Path) -> None:
    """Sixty events of ten products, forty of them folded, in epochs 1 and 2."""
    with closing(open_store(location)) as store:
        for epoch in (1, 2):
            store.claim_lease(Holder("a", 1, 1, "boot"), expected_epoch=epoch - 1, ttl_ns=10**15)
            store.append([[new_event(30 * (epoch - 1) + number) for number in range(30)]], epoch=epoch)
        store.fold(epoch=2, wanted=lambda row: row.sequence <= FOLDED, events_max=1000)


def new_event(number: int) -> NewEvent:
    """Every third one a patch; of the upserts each product's last stays unpatched."""
    product_id = f"p{number % 10}"
    if number % 3 == 2:
        return NewEvent.of(Event(event_id=f"e{number}", patch=Patch(product_id=product_id, stock=number)))
    product = Product(
        product_id=product_id, title=f"a title {number}", attributes={"size": "1", "sole": "2", "sort": "3"}
    )
    return NewEvent.of(Event(event_id=f"e{number}", upsert=product))


FLIP = "payload = CAST(substr(payload, 1, 12) || x'7e' || substr(payload, 14) AS BLOB)"
_FLIP_ON_SERVER = "payload = set_byte(payload, 12, 126)"


def damage(location: str | Path, *statements: str) -> None:
    """Run SQL, as SQLite has it, behind the store's back."""
    with raw(location) as connection:
        for statement in statements:
            if is_postgresql(str(location)):
                statement = statement.replace(FLIP, _FLIP_ON_SERVER)
                statement = re.sub("x('[0-9a-f]+')", r"decode(\1, 'hex')", statement)
            connection.execute(statement)


def content(location: str | Path) -> list[list[tuple[Any, ...]]]:
    """Every row that a backup holds."""
    tables = {"log": "sequence", "snapshot": "sequence", "snapshot_state": "name", "folded_event": "sequence"}
    with raw(location) as connection:
        return [
            [tuple(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY {key}").fetchall()]
            for table, key in tables.items()
        ]


@contextmanager
def raw(location: str | Path) -> Iterator[Any]:
    """A connection of its own."""
    if is_postgresql(str(location)):
        connection = psycopg.connect(str(location).replace("+psycopg", ""), autocommit=True)
    else:
        connection = sqlite.connect(str(location), isolation_level=None)
    with closing(connection):
        yield connection
