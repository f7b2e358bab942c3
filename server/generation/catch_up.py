"""Bring a generation to the snapshot of the log, when the events between the two are folded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from muster.v1.catalogue_pb2 import Delete, Event, Product, SequencedEvent
from server.catalogue.errors import StoreDamaged
from server.catalogue.rows import sequenced
from server.catalogue.store import Store, View

_AT_ONCE = 500


class Behind(Protocol):
    """The part of ``rankcore.Generation`` that catches up."""

    def apply(self, events: list[bytes]) -> int:
        """Apply serialised ``SequencedEvent``s, ascending."""

    def applied_sequence(self) -> int:
        """Highest sequence applied."""

    def snapshot(self) -> Iterator[bytes]:
        """All live products, serialised."""


def load_snapshot(store: Store, generation: Behind) -> None:
    """Make ``generation`` what the catalogue was at the snapshot; nothing where it is as far already.

    What it holds and the snapshot does not was deleted meanwhile; what the snapshot holds with a later event
    is written. Do not serve it before this returns: the sequences on the way say nothing. Raises: StoreError.
    """
    with store.view() as view:
        applied = generation.applied_sequence()
        if applied >= view.snapshot.sequence:
            return
        # Each event delivered stands for at least one of those between, so there are sequences for all.
        sequence = applied
        for events in _changes(view, generation, applied):
            numbered = [sequenced(at, 0, 0, event) for at, event in enumerate(events, start=sequence + 1)]
            sequence += len(events)
            if sequence > view.snapshot.sequence:
                raise StoreDamaged(
                    f"the snapshot at event {view.snapshot.sequence} changes more than the events after"
                    f" {applied} can have; generation and log belong to different catalogues"
                )
            generation.apply(numbered)
        if sequence < view.snapshot.sequence:
            arrived = SequencedEvent(sequence=view.snapshot.sequence, epoch=view.snapshot.epoch)
            generation.apply([arrived.SerializeToString()])


def _changes(view: View, generation: Behind, applied: int) -> Iterator[list[bytes]]:
    """Serialised ``Event``s, in portions: first what goes, then what comes."""
    # Found first and applied then: a generation is not changed while it is read.
    gone: list[str] = []
    some: list[str] = []
    for product in generation.snapshot():
        some.append(Product.FromString(product).product_id)
        if len(some) == _AT_ONCE:
            gone += _gone(view, some)
            some = []
    gone += _gone(view, some)
    for start in range(0, len(gone), _AT_ONCE):
        yield [
            Event(delete=Delete(product_id=product_id)).SerializeToString()
            for product_id in gone[start : start + _AT_ONCE]
        ]
    events: list[bytes] = []
    for row in view.snapshot_rows(changed_after=applied):
        events.append(row.payload)
        if len(events) == _AT_ONCE:
            yield events
            events = []
    yield events


def _gone(view: View, product_ids: list[str]) -> list[str]:
    present = view.products_present(product_ids)
    return [product_id for product_id in product_ids if product_id not in present]
