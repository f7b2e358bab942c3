"""What can go wrong with the log, one class for each thing a caller should do next.

    StoreError
    ├── NotPrimary         ask the primary: this replica may not write now
    ├── Fenced             a later epoch holds the lease: nothing was written, ask the new primary
    ├── LogOverloaded      shed before it was queued: back off, then try again
    ├── AppendTimeout      the deadline passed; `outcome_unknown` says whether it may have been written
    ├── DiskFull           nothing was written: make room, then try again
    ├── OutcomeUnknown     the store was lost during the commit: send the same events again to learn
    ├── StoreUnavailable   locked, unreachable or not writable: try again, or look at the machine
    ├── StoreOccupied      a catalogue is there where one was to be made: name another place
    ├── SchemaMismatch     the file is not a Muster catalogue, or a newer one: an operator must act
    ├── CatalogueEncrypted the keys to the catalogue are missing: name them
    ├── EventsFolded       the events asked for are in the snapshot: load it, or begin with a later one
    ├── StoreDamaged       the file is a catalogue, but parts are missing: restore it
    └── StoreIOFailed      the disk failed: the process ends, callers never see this one

Sending an event again is always safe: its `event_id` keeps it from being applied twice.
"""

from __future__ import annotations


class StoreError(Exception):
    """Base of all errors of the catalogue's log. `str(error)` is one sentence for a person."""


class NotPrimary(StoreError):
    """This replica holds no valid lease, so it may not write. Nothing was written."""


class Fenced(StoreError):
    """The lease has moved on to a later epoch. Nothing was written and this replica must step down."""

    def __init__(self, epoch: int, current_epoch: int | None) -> None:
        self.epoch = epoch
        self.current_epoch = current_epoch
        now = "nobody holds it" if current_epoch is None else f"it is at epoch {current_epoch} now"
        super().__init__(f"the lease of epoch {epoch} has ended ({now}); nothing was written")


class LogOverloaded(StoreError):
    """The queue of appends is too long for this one to be written in time. Nothing was written."""

    def __init__(self, message: str, *, retry_after_ms: int) -> None:
        self.retry_after_ms = retry_after_ms
        super().__init__(message)


class AppendTimeout(StoreError):
    """The deadline of the append passed.

    outcome_unknown: False: it was never started, so nothing was written. True: it was being written, and it
    may or may not become durable; send the same events again to learn which.
    """

    def __init__(self, message: str, *, outcome_unknown: bool) -> None:
        self.outcome_unknown = outcome_unknown
        super().__init__(message)


class OutcomeUnknown(StoreError):
    """The store was lost, or did not vouch for the data, during the commit: it may or may not be durable.

    Send the same events again to learn which.
    """


class DiskFull(StoreError):
    """The disk has no room for the append. Nothing was written."""


class StoreUnavailable(StoreError):
    """The store cannot be opened, read or locked now. Nothing was written."""


class StoreOccupied(StoreError):
    """There is a catalogue where a new one was to be made. Nothing was changed."""


class SchemaMismatch(StoreError):
    """The file is not a Muster catalogue, or has a schema that this version cannot read."""


class CatalogueEncrypted(StoreError):
    """The catalogue is encrypted, and its keys are missing, are others or cannot be read. Nothing was
    written.
    """


class EventsFolded(StoreError):
    """The first events asked for are no longer in the log: the snapshot holds what they came to.

    first_sequence: the first event that is still there, or will be the first one.
    """

    def __init__(self, wanted_sequence: int, first_sequence: int) -> None:
        self.first_sequence = first_sequence
        super().__init__(
            f"event {wanted_sequence} is folded into the snapshot; the log begins with event {first_sequence}"
        )


class StoreDamaged(StoreError):
    """The file is a Muster catalogue, but it is corrupt or events are missing from it."""


class StoreIOFailed(StoreError):
    """Reading or writing failed below SQLite, so what is durable is unknown and the writer must end.

    After a failed fsync the kernel may have dropped the pages; trying again would report a success that is
    not one.
    """
