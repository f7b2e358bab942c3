"""The store: the log of events and the lease, behind one interface, whatever database holds them.

An append carries its fence in the statement itself: each row is selected *from the lease of the writer's
epoch*, so a writer whose reign has ended writes nothing, whatever its clock says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from muster.v1.catalogue_pb2 import Event
from muster.v1.feedback_pb2 import Feedback
from server.catalogue.encryption import Rewrapped
from server.catalogue.feedback import Erased, Wanted
from server.catalogue.rows import EventRow, FeedbackRow, FoldedId, LogRow, SnapshotRow, SnapshotState
from server.standby.lease import Holder, LeaseRow
from server.standby.takeover import Takeover


@dataclass(frozen=True)
class StoreConfig:
    """busy_timeout_ms: longest wait for a lock of the store, and for a server's answer. readers_max: most
    read connections at once.

    password_file: holds the password of the role on a server, read at each connection; None: libpq's own
    ways. client: names this process's connections to people who look at the server. cluster_id: of the
    catalogue that must be there; empty: whichever is. encryption_keys: where the keys are that rows are
    encrypted with (`server.privacy.envelope.read_keys`); empty: they are not.
    """

    busy_timeout_ms: int = 2000
    readers_max: int = 16
    password_file: Path | None = None
    client: str = ""
    cluster_id: str = ""
    encryption_keys: str = ""


@dataclass(frozen=True)
class Place:
    """Where `Store.encrypt` goes on: a table, by its number, and its last sequence that was looked at."""

    table: int = 0
    sequence: int = 0


@dataclass(frozen=True)
class NewEvent:
    """An event to append. payload: the serialised `muster.v1.Event`; event_id must equal the one inside."""

    event_id: str
    payload: bytes

    @classmethod
    def of(cls, event: Event | bytes) -> NewEvent:
        """Take an Event, or one serialised already.

        Raises: ValueError if it has no event_id (the service refuses such requests with the field's name).
        """
        if isinstance(event, bytes):
            parsed, payload = Event.FromString(event), event
        else:
            # Deterministic, so that a damaged row can be proved to be what another copy of its product says.
            parsed, payload = event, event.SerializeToString(deterministic=True)
        if not parsed.event_id:
            raise ValueError("an event needs an event_id")
        return cls(parsed.event_id, payload)


@dataclass(frozen=True)
class Appended:
    """A batch is durable.

    sequence: the highest of the batch, new or already known. epoch: the writer's. duplicates: events whose
    event_id was in the log, or earlier in the same batch.
    """

    sequence: int
    epoch: int
    duplicates: int


@dataclass(frozen=True)
class Head:
    """The last event of the log: its sequence and epoch, or 0 and 0 when there is none."""

    sequence: int
    epoch: int


@dataclass(frozen=True)
class Commit:
    """A durable transaction of the log.

    batches: one result for each batch, in order. lease_expires_ns: where the append moved the expiry of the
    lease, on the monotonic clock; None if it was not asked to, or the lease had expired by its clock.
    """

    batches: list[Appended]
    lease_expires_ns: int | None


@dataclass(frozen=True)
class Folded:
    """Events were folded into the snapshot; 0 events: there were none to fold.

    held_s: how long the write lock was held, waiting for the disk included.
    """

    events: int
    sequence: int
    held_s: float


@dataclass(frozen=True)
class Extent:
    """How much a store holds now.

    first_sequence: of the oldest event in the log; 0: there is none. first_committed_unix_us,
    last_committed_unix_us: when it, and the last one, were written, by the clock of the primary of then; 0:
    there is none. size_bytes: of the file with its write-ahead log, or of the tables on a server.
    """

    first_sequence: int
    first_committed_unix_us: int
    last_committed_unix_us: int
    size_bytes: int


class View(ABC):
    """Snapshot and log at one moment. head: the last event.

    snapshot: where the log begins; sequence 0: with the first event.
    """

    snapshot: SnapshotState
    head: Head

    @abstractmethod
    def snapshot_rows(self, *, changed_after: int = 0) -> Iterator[SnapshotRow]:
        """Rows of the snapshot, ascending, streamed; only those with an event after `changed_after`.

        Raises: StoreDamaged, naming the row that does not match its checksum.
        """

    @abstractmethod
    def log_rows(self, last_sequence: int | None = None) -> Iterator[LogRow]:
        """Rows of the log, ascending, streamed, up to `last_sequence`.

        Raises: StoreDamaged, as `read_range`.
        """

    @abstractmethod
    def folded_ids(self) -> Iterator[FoldedId]:
        """Ids of folded events that are still known, ascending, streamed."""

    @abstractmethod
    def folded_feedback(self) -> Iterator[FeedbackRow]:
        """Feedback that was folded, ascending, streamed. Raises: StoreDamaged, as `read_range`."""

    @abstractmethod
    def feedback(self) -> Iterator[tuple[EventRow, Feedback]]:
        """All feedback that is not erased, folded or in the log, ascending, streamed. Raises: as above."""

    @abstractmethod
    def products_present(self, product_ids: Sequence[str]) -> set[str]:
        """Which of the products are in the snapshot."""


class DataVersion(ABC):
    """A dedicated read connection that tells cheaply whether anything was committed since the last look."""

    @abstractmethod
    def read(self) -> int:
        """A number that differs from the previous one if another connection has committed meanwhile.

        Raises: StoreUnavailable.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the connection back."""


class Store(ABC):
    """One replica's handle on the shared store. Thread-safe. Open with `open_store`, end with `close`.

    location: where it is, for people. cluster_id: names the catalogue for good, whoever opens it.
    """

    location: str
    cluster_id: str

    @abstractmethod
    def close(self) -> None:
        """Close every idle connection. A thread still inside a call keeps its own until it is done."""

    @abstractmethod
    def takeover(self, replica: str, *, ttl_ns: int) -> Takeover:
        """How the right to write leaves a holder that dies or hangs, for the replica of this name.

        ttl_ns: the life of a lease. Raises: StoreUnavailable.
        """

    # --- the log ---------------------------------------------------------------------------------------

    @abstractmethod
    def append(
        self, batches: Sequence[Sequence[NewEvent]], *, epoch: int, extend_ns: int | None = None
    ) -> Commit:
        """Append several batches in one durable transaction: all of them, or none.

        epoch: of the lease this writer holds. An event whose event_id is known counts as a duplicate and is
        not written again. extend_ns: also move the expiry of the lease, if it is still valid, to this long
        from now, so that a busy log needs no renewals. Returns once all of it is durable.
        Raises: Fenced, DiskFull, StoreUnavailable: nothing was written. StoreDamaged. OutcomeUnknown.
        StoreIOFailed: unknown, and the process must end.
        """

    @abstractmethod
    def sequences(self, event_ids: Sequence[str]) -> dict[str, int]:
        """Where the log holds these events; those that it does not are left out."""

    @abstractmethod
    def head(self) -> Head:
        """The last committed event's sequence and epoch."""

    @abstractmethod
    def read_range(
        self, first_sequence: int, last_sequence: int | None = None, *, events_max: int = 1000
    ) -> list[bytes]:
        """Committed events as serialised `SequencedEvent`, ascending, from first to last (both included).

        At most events_max of them; ask again from the next sequence for more. Empty past the end of the log.
        Raises: EventsFolded if the first is in the snapshot; StoreDamaged, naming the sequence, if one inside
        the range is missing or does not match its checksum; StoreUnavailable.
        """

    @abstractmethod
    def read_named(self, prefix: str) -> list[bytes]:
        """Committed events of the log whose id begins with ``prefix``, as serialised `SequencedEvent`,
        ascending.

        Found through the index of the ids, so it costs little however long the log is. prefix: ASCII, not
        empty. Raises: StoreDamaged if one of them does not match its checksum; StoreUnavailable.
        """

    @abstractmethod
    def view(self) -> AbstractContextManager[View]:
        """Snapshot and log as they are at one moment, for as long as the context lasts.

        The store cannot give room back meanwhile: leave soon. Raises: StoreUnavailable, StoreDamaged.
        """

    @abstractmethod
    def agree_on(self, key: str, value: str) -> str:
        """What all who open the store must have in common: the first to ask decides. Returns what holds.

        Raises: StoreUnavailable, DiskFull.
        """

    @abstractmethod
    def watch_version(self) -> DataVersion:
        """A dedicated connection for polling; close it when done."""

    # --- retention: each is one short transaction of the primary --------------------------------------

    @abstractmethod
    def fold(self, *, epoch: int, wanted: Callable[[LogRow], bool], events_max: int) -> Folded:
        """Fold the next events of the log into the snapshot, up to the first that is not `wanted`.

        At most events_max of them, and never the last event. epoch: as for `append`.
        Raises: Fenced, DiskFull, StoreUnavailable: nothing was changed. StoreDamaged: an event to be folded
        is damaged. StoreIOFailed.
        """

    @abstractmethod
    def forget_event_ids(
        self, *, epoch: int, committed_before_unix_us: int, ids_max: int, rows_max: int
    ) -> int:
        """Forget the ids of folded events, the oldest first: what is older than a time, or beyond ids_max.

        Returns how many, at most rows_max. Raises: as `fold`.
        """

    @abstractmethod
    def expire_feedback(
        self, *, epoch: int, committed_before_unix_us: int, events_max: int, rows_max: int
    ) -> int:
        """Delete folded feedback, the oldest first: what is older than a time, or beyond events_max.

        Returns how many, at most rows_max. Raises: as `fold`.
        """

    @abstractmethod
    def erase_feedback(self, *, epoch: int, first_sequence: int, wanted: Wanted, rows_max: int) -> Erased:
        """Take out the feedback that is `wanted`, looking at rows_max rows from `first_sequence` on.

        Rows of the log are emptied, folded ones deleted. Raises: as `fold`.
        """

    @abstractmethod
    def clear_traces(self, texts: Sequence[bytes]) -> bool:
        """Clear the store's files of what rows that are gone have left behind, as far as can be done while
        it serves.

        texts: what must not be found there any more. False: something is left. Raises: StoreUnavailable.
        """

    @abstractmethod
    def seal(self, *, epoch: int, rows_max: int) -> int:
        """Give checksums to rows that an older version wrote. Returns rows looked at; 0: all have theirs.

        Raises: as `fold`; StoreDamaged for a row whose payload is not its event.
        """

    @abstractmethod
    def encrypt(self, *, epoch: int, after: Place, rows_max: int) -> Place | None:
        """Encrypt rows that are plain, where there are keys: a step, which looks at rows_max rows.

        Returns where the next step begins; None: nothing is left to do. Raises: as `fold`.
        """

    @abstractmethod
    def rewrap(self) -> Rewrapped:
        """Wrap every data key under the newest key-encryption key. Raises: CatalogueEncrypted; as `fold`."""

    @abstractmethod
    def extent(self) -> Extent:
        """How much is there. Raises: StoreUnavailable."""

    @abstractmethod
    def reclaim(self, *, bytes_max: int) -> int:
        """Give room that deleted rows have left back to the disk. Returns bytes; 0: there is none to give."""

    # --- the lease -------------------------------------------------------------------------------------

    @abstractmethod
    def lease(self) -> LeaseRow | None:
        """The lease as committed, read without any lock: works while a writer is frozen in a transaction."""

    @abstractmethod
    def claim_lease(self, holder: Holder, *, expected_epoch: int, ttl_ns: int) -> LeaseRow | None:
        """Begin reign expected_epoch + 1, if the lease is at expected_epoch (0: there never was one).

        New epoch and new holder become durable in one transaction; from then on every append of an earlier
        epoch is fenced. Returns None if somebody else was first.
        Raises: StoreUnavailable, DiskFull, StoreIOFailed.
        """

    @abstractmethod
    def renew_lease(self, *, epoch: int, holder: str, ttl_ns: int, limit_ns: int | None = None) -> int | None:
        """Move the expiry of a reign that has not ended to ttl_ns from now.

        limit_ns: how long this may wait for others that write; None: as long as the lease lives.
        Returns the new expiry, None if the reign is over: fenced, given back or expired.
        Raises: StoreUnavailable, DiskFull, StoreIOFailed.
        """

    @abstractmethod
    def release_lease(self, *, epoch: int, holder: str) -> bool:
        """Mark a reign as given back. False if it had ended already.

        Raises: StoreUnavailable, DiskFull, StoreIOFailed.
        """
