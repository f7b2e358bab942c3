"""Log and lease in SQL, the same for every database: what `Store` promises, over SQLAlchemy Core.

A database adds how it opens, locks and tells the time, and what its errors mean.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import sqlalchemy as sa

from muster.v1.catalogue_pb2 import SequencedEvent
from server.catalogue import schema
from server.catalogue.errors import Fenced, StoreDamaged
from server.catalogue.store import Appended, Commit, Head, NewEvent, Store
from server.standby.lease import Holder, LeaseRow

_EVENT_IDS_AT_ONCE = 500
_HEAD = sa.select(schema.log.c.sequence, schema.log.c.epoch).order_by(schema.log.c.sequence.desc()).limit(1)
_EXTENT = sa.select(sa.func.count(), sa.func.coalesce(sa.func.max(schema.log.c.sequence), 0))
_LEASE = sa.select(schema.lease).where(schema.lease.c.name == schema.LEASE_NAME)


class DialectInsert(Protocol):
    """`sqlalchemy.dialects.*.insert`: an INSERT that may meet a row that is there."""

    def __call__(self, table: sa.Table) -> Any:
        """Begin the statement."""


class SqlStore(Store):
    """The log and the lease of one replica's handle; a subclass connects it to a database."""

    def __init__(self, insert: DialectInsert) -> None:
        """insert: the dialect's own."""
        self.cluster_id = ""
        self._insert = insert
        self._append = _append_statement(insert)

    # --- what a database adds --------------------------------------------------------------------------

    @abstractmethod
    def _reading(self) -> AbstractContextManager[sa.Connection]:
        """A read transaction, its errors translated."""

    @abstractmethod
    def _writing(self, *, urgent: bool, limit_ns: int | None = None) -> AbstractContextManager[sa.Connection]:
        """A durable write transaction, its errors translated.

        urgent: for the lease, which goes before the log. limit_ns: longer than this it is of no use.
        """

    @abstractmethod
    def _now(self) -> tuple[sa.ColumnElement[int], int]:
        """The time that leases expire by, in a statement, and this process's monotonic clock, nanoseconds.

        The second was read no later than the first will be, so a lease that is counted from it never seems
        longer to its holder than to others.
        """

    def _begin_append(self, transaction: sa.Connection) -> None:
        """Make sure that nothing else is appended until the transaction ends."""

    def _end_append(self, transaction: sa.Connection) -> None:
        """Events were written in the transaction: tell the followers, once it is committed."""

    # --- the log ---------------------------------------------------------------------------------------

    def append(
        self, batches: Sequence[Sequence[NewEvent]], *, epoch: int, extend_ns: int | None = None
    ) -> Commit:
        """See `Store.append`."""
        with self._writing(urgent=False) as transaction:
            self._begin_append(transaction)
            head = _head(transaction).sequence
            known = self._known_sequences(transaction, [e.event_id for batch in batches for e in batch])
            rows: list[dict[str, Any]] = []
            results = []
            now_us = time.time_ns() // 1000
            for batch in batches:
                highest = duplicates = 0
                for event in batch:
                    sequence = known.get(event.event_id)
                    if sequence is None:
                        sequence = known[event.event_id] = head + len(rows) + 1
                        rows.append(
                            {
                                "sequence": sequence,
                                "event_id": event.event_id,
                                "committed_unix_us": now_us,
                                "payload": event.payload,
                                "fence_epoch": epoch,
                            }
                        )
                    else:
                        duplicates += 1
                    highest = max(highest, sequence)
                results.append(Appended(highest, epoch, duplicates))
            written = 0
            if rows:
                written = transaction.execute(
                    self._append, rows, execution_options={"preserve_rowcount": True}
                ).rowcount
            if written != len(rows) or not rows:
                # Duplicates were sorted out above, under the write lock, so a row that was not written was
                # fenced. A batch of duplicates alone wrote nothing: it too is only this epoch's to confirm.
                current = transaction.execute(
                    sa.select(schema.lease.c.epoch).where(schema.lease.c.name == schema.LEASE_NAME)
                ).scalar()
                if current != epoch:
                    raise Fenced(epoch, current)
                if written != len(rows):
                    raise StoreDamaged(f"{written} of {len(rows)} events were accepted under a valid lease")
            if written:
                self._end_append(transaction)
            expires_ns = None
            if extend_ns is not None:
                expires_ns = self._extend(transaction, extend_ns, schema.lease.c.epoch == epoch)
            return Commit(results, expires_ns)

    def _known_sequences(self, transaction: sa.Connection, event_ids: list[str]) -> dict[str, int]:
        known: dict[str, int] = {}
        for start in range(0, len(event_ids), _EVENT_IDS_AT_ONCE):
            query = sa.select(schema.log.c.event_id, schema.log.c.sequence).where(
                schema.log.c.event_id.in_(event_ids[start : start + _EVENT_IDS_AT_ONCE])
            )
            known.update((row.event_id, row.sequence) for row in transaction.execute(query))
        return known

    def sequences(self, event_ids: Sequence[str]) -> dict[str, int]:
        """See `Store.sequences`."""
        with self._reading() as transaction:
            return self._known_sequences(transaction, list(event_ids))

    def head(self) -> Head:
        """See `Store.head`."""
        with self._reading() as transaction:
            return _head(transaction)

    def read_range(
        self, first_sequence: int, last_sequence: int | None = None, *, events_max: int = 1000
    ) -> list[bytes]:
        """See `Store.read_range`."""
        log = schema.log
        query = (
            sa.select(log.c.sequence, log.c.epoch, log.c.committed_unix_us, log.c.payload)
            .where(log.c.sequence >= first_sequence)
            .order_by(log.c.sequence)
            .limit(events_max)
        )
        if last_sequence is not None:
            query = query.where(log.c.sequence <= last_sequence)
        events: list[bytes] = []
        expected = max(1, first_sequence)
        with self._reading() as transaction:
            for sequence, epoch, committed_unix_us, payload in transaction.execute(query):
                if sequence != expected:
                    raise StoreDamaged(
                        f"event {expected} is missing from {self.location}; restore it from a backup"
                    )
                expected += 1
                events.append(sequenced(sequence, epoch, committed_unix_us, payload))
        return events

    def _check_log(self, transaction: sa.Connection) -> None:
        """No event is missing. Raises: StoreDamaged."""
        # One statement: an append in between must not look like a hole.
        count, head = transaction.execute(_EXTENT).one()
        if count != head:
            raise StoreDamaged(
                f"{self.location} ends at event {head} but holds {count}; restore it from a backup"
            )

    # --- the lease -------------------------------------------------------------------------------------

    def lease(self) -> LeaseRow | None:
        """See `Store.lease`."""
        with self._reading() as transaction:
            row = transaction.execute(_LEASE).first()
        return None if row is None else lease_row(row, row.expires_monotonic_ns)

    def claim_lease(self, holder: Holder, *, expected_epoch: int, ttl_ns: int) -> LeaseRow | None:
        """See `Store.claim_lease`."""
        with self._writing(urgent=True, limit_ns=ttl_ns) as transaction:
            now, local_ns = self._now()
            claim = LeaseRow(expected_epoch + 1, holder, local_ns + ttl_ns)
            values = {
                "epoch": claim.epoch,
                "holder": holder.name,
                "pid": holder.pid,
                "pid_start_ticks": holder.pid_start_ticks,
                "boot_id": holder.boot_id,
                "expires_monotonic_ns": now + ttl_ns,
            }
            statement: sa.Insert | sa.Update
            if expected_epoch == 0:
                statement = self._insert(schema.lease).values(name=schema.LEASE_NAME, **values)
                statement = statement.on_conflict_do_nothing()  # type: ignore[union-attr]
            else:
                statement = _update_lease(schema.lease.c.epoch == expected_epoch).values(**values)
            return claim if _rows_changed(transaction, statement) == 1 else None

    def renew_lease(self, *, epoch: int, holder: str, ttl_ns: int) -> int | None:
        """See `Store.renew_lease`."""
        with self._writing(urgent=True, limit_ns=ttl_ns) as transaction:
            return self._extend(
                transaction, ttl_ns, schema.lease.c.epoch == epoch, schema.lease.c.holder == holder
            )

    def release_lease(self, *, epoch: int, holder: str) -> bool:
        """See `Store.release_lease`."""
        with self._writing(urgent=True) as transaction:
            statement = _update_lease(schema.lease.c.epoch == epoch, schema.lease.c.holder == holder)
            return _rows_changed(transaction, statement.values(expires_monotonic_ns=0)) == 1

    def _extend(self, transaction: sa.Connection, ttl_ns: int, *fence: sa.ColumnElement[bool]) -> int | None:
        """The new expiry, or None where the lease is not this one any more or has expired."""
        # The clock is read under the write lock: a thread that was paused on its way here sees the true time.
        now, local_ns = self._now()
        # A reign that has expired is never revived.
        statement = _update_lease(*fence, schema.lease.c.expires_monotonic_ns > now)
        changed = _rows_changed(transaction, statement.values(expires_monotonic_ns=now + ttl_ns))
        return local_ns + ttl_ns if changed == 1 else None


def lease_row(row: Any, expires_ns: int) -> LeaseRow:
    """A row of the table, with its expiry on this process's clock."""
    return LeaseRow(row.epoch, Holder(row.holder, row.pid, row.pid_start_ticks, row.boot_id), expires_ns)


def _append_statement(insert: DialectInsert) -> Any:
    """Insert one event from the lease of the writer's epoch: nothing, once the lease has moved on."""
    lease = schema.lease
    return (
        insert(schema.log)
        .from_select(
            ["sequence", "epoch", "event_id", "committed_unix_us", "payload"],
            sa.select(
                sa.bindparam("sequence", type_=sa.BigInteger),
                lease.c.epoch,
                sa.bindparam("event_id", type_=sa.Text),
                sa.bindparam("committed_unix_us", type_=sa.BigInteger),
                sa.bindparam("payload", type_=sa.LargeBinary),
            ).where(
                lease.c.name == schema.LEASE_NAME,
                lease.c.epoch == sa.bindparam("fence_epoch", type_=sa.BigInteger),
            ),
        )
        .on_conflict_do_nothing(index_elements=["event_id"])
    )


def _update_lease(*fence: sa.ColumnElement[bool]) -> sa.Update:
    return sa.update(schema.lease).where(schema.lease.c.name == schema.LEASE_NAME, *fence)


def _rows_changed(transaction: sa.Connection, statement: sa.Insert | sa.Update) -> int:
    return transaction.execute(statement, execution_options={"preserve_rowcount": True}).rowcount


def _head(transaction: sa.Connection) -> Head:
    row = transaction.execute(_HEAD).first()
    return Head(0, 0) if row is None else Head(row.sequence, row.epoch)


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
