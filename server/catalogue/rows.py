"""The rows of the store as values: their fields are the columns of `schema`, in that order."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from google.protobuf.message import DecodeError

from muster.v1.catalogue_pb2 import Event, Patch, Product, SequencedEvent
from server.catalogue import checksum

EMPTY_CHECKSUM = bytes(checksum.CHECKSUM_BYTES)
"""Checksum of no rows at all."""

_MISMATCH = "does not match its checksum"


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event. payload: the serialised `Event`. checksum: None in a row of an older version."""

    sequence: int
    epoch: int
    event_id: str
    committed_unix_us: int
    payload: bytes
    checksum: bytes | None

    def true_checksum(self) -> bytes:
        """What the checksum must be."""
        return checksum.log_checksum(
            self.sequence, self.epoch, self.event_id, self.committed_unix_us, self.payload
        )

    def seal_fault(self) -> str:
        """What the checksum says against the row, in words that follow its name; empty: nothing.

        A row without a checksum is as good as its content.
        """
        if self.checksum is None:
            return self.content_fault()
        return "" if self.checksum == self.true_checksum() else _MISMATCH

    def fault(self) -> str:
        """What is wrong with the row, in words that follow its name; empty: nothing."""
        return self.seal_fault() or self.content_fault()

    def content_fault(self) -> str:
        """As `fault`, whatever the checksum says: the payload must be the event that the row names."""
        try:
            event = Event.FromString(self.payload)
        except (DecodeError, TypeError):
            return "holds bytes that are no event"
        if event.event_id != self.event_id:
            return f"holds another event ({event.event_id!r} instead of {self.event_id!r})"
        return ""

    def sequenced(self) -> bytes:
        """The serialised `SequencedEvent`."""
        return sequenced(self.sequence, self.epoch, self.committed_unix_us, self.payload)


@dataclass(frozen=True, slots=True)
class LogRow(EventRow):
    """One event of the log."""


@dataclass(frozen=True, slots=True)
class FeedbackRow(EventRow):
    """Feedback that was folded: its row of the log as it was."""

    def content_fault(self) -> str:
        """As for every event; it must also be feedback."""
        # Not super(): a class with slots is another one than the one that it was written in.
        if fault := EventRow.content_fault(self):
            return fault
        return "" if Event.FromString(self.payload).HasField("feedback") else "is no feedback"


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """One product of the snapshot, as the upsert that all its folded events come to.

    sequence: of its last upsert, which orders the products as the log would. changed_sequence: of its last
    event. payload: the serialised `Event`, an upsert. epoch, committed_unix_us: of the last upsert.
    """

    sequence: int
    changed_sequence: int
    epoch: int
    product_id: str
    committed_unix_us: int
    payload: bytes
    checksum: bytes = b""

    def sealed(self) -> SnapshotRow:
        """The row with the checksum that it must have."""
        return replace(self, checksum=self.true_checksum())

    def true_checksum(self) -> bytes:
        """What the checksum must be."""
        return checksum.snapshot_checksum(
            self.sequence,
            self.changed_sequence,
            self.epoch,
            self.product_id,
            self.committed_unix_us,
            self.payload,
        )

    def seal_fault(self) -> str:
        """What the checksum says against the row, in words that follow its name; empty: nothing."""
        return "" if self.checksum == self.true_checksum() else _MISMATCH

    def fault(self) -> str:
        """What is wrong with the row, in words that follow its name; empty: nothing."""
        if mismatch := self.seal_fault():
            return mismatch
        try:
            event = Event.FromString(self.payload)
        except (DecodeError, TypeError):
            return "holds bytes that are no event"
        if event.WhichOneof("change") != "upsert" or event.upsert.product_id != self.product_id:
            return "is not the upsert of its product"
        return ""

    def sequenced(self) -> bytes:
        """The serialised `SequencedEvent`."""
        return sequenced(self.sequence, self.epoch, self.committed_unix_us, self.payload)


@dataclass(frozen=True, slots=True)
class SnapshotState:
    """Every event up to `sequence` is in the snapshot; 0: there is none.

    epoch: of the event at `sequence`. products: rows of the snapshot. rows_checksum: of all of them together.
    """

    sequence: int = 0
    epoch: int = 0
    products: int = 0
    rows_checksum: bytes = EMPTY_CHECKSUM

    def seal(self) -> bytes:
        """The checksum of the state itself."""
        return checksum.state_checksum(self.sequence, self.epoch, self.products, self.rows_checksum)


@dataclass(frozen=True, slots=True)
class FoldedId:
    """The id of a folded event, by which a late retry is recognised."""

    sequence: int
    event_id: str
    committed_unix_us: int


def as_values(row: EventRow | FoldedId | SnapshotRow) -> dict[str, Any]:
    """The columns of a row by name."""
    return {field.name: getattr(row, field.name) for field in fields(row)}


def changed_product(event: Event) -> str:
    """The product that an event changes; empty: none."""
    change = event.WhichOneof("change")
    return str(getattr(event, change).product_id) if change in ("upsert", "patch", "delete") else ""


def patch_product(product: Product, patch: Patch) -> None:
    """Give the product the columns that the patch has, as the ranking core does."""
    for column in ("price", "stock", "rating", "rating_count", "popularity"):
        if patch.HasField(column):
            setattr(product, column, getattr(patch, column))


def sequenced(sequence: int, epoch: int, committed_unix_us: int, payload: bytes) -> bytes:
    """Serialise a SequencedEvent around a serialised Event, without parsing the event.

    Field 4 (`event`, length-delimited, tag 0x22) is appended by hand: protobuf messages concatenate.
    """
    front = SequencedEvent(sequence=sequence, epoch=epoch, committed_unix_us=committed_unix_us)
    length, size = bytearray(), len(payload)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return front.SerializeToString() + b"\x22" + bytes(length) + payload
