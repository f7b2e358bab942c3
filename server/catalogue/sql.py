"""Log and lease in SQL, the same for every database: what `Store` promises, over SQLAlchemy Core.

A database adds how it opens, locks and tells the time, and what its errors mean.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Protocol

import sqlalchemy as sa

from server.catalogue import encryption, feedback, plain, schema, snapshot
from server.catalogue.encryption import Encryption, Rewrapped
from server.catalogue.errors import Fenced, StoreDamaged, StoreError, StoreUnavailable
from server.catalogue.failpoint import stop_in_append
from server.catalogue.rows import LogRow
from server.catalogue.sql_view import SqlView, checked_rows, read_head, refuse_folded
from server.catalogue.store import (
    Appended,
    Commit,
    Extent,
    Folded,
    Head,
    NewEvent,
    Place,
    Store,
    View,
)
from server.standby.lease import Holder, LeaseRow

_EVENT_IDS_AT_ONCE = 500
# One statement: an append or a fold in between must not look like a hole.
_EXTENT = sa.select(
    sa.func.count(),
    sa.func.max(schema.log.c.sequence),
    sa.select(schema.snapshot_state.c.sequence).scalar_subquery(),
)
_LEASE = sa.select(schema.lease).where(schema.lease.c.name == schema.LEASE_NAME)


class DialectInsert(Protocol):
    """`sqlalchemy.dialects.*.insert`: an INSERT that may meet a row that is there."""

    def __call__(self, table: sa.Table) -> Any:
        """Begin the statement."""


class SqlStore(Store):
    """The log and the lease of one replica's handle; a subclass connects it to a database."""

    def __init__(self, insert: DialectInsert, encryption_keys: str) -> None:
        """insert: the dialect's own. encryption_keys: as `StoreConfig`."""
        self._encryption = Encryption(encryption_keys)
        self.cluster_id = ""
        self._insert = insert
        self._append = _append_statement(insert)
        self._before_commit = stop_in_append()

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
        self._prepare_encryption()
        with self._writing(urgent=False) as transaction:
            self._begin_append(transaction)
            head = read_head(transaction).sequence
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
                        row = LogRow(sequence, epoch, event.event_id, now_us, event.payload, None)
                        row = replace(row, checksum=row.true_checksum())
                        values = encryption.columns(transaction, row)
                        rows.append({"fence_epoch": values.pop("epoch"), **values})
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
                _fence(transaction, epoch)
                if written != len(rows):
                    raise StoreDamaged(f"{written} of {len(rows)} events were accepted under a valid lease")
            if written:
                self._end_append(transaction)
            expires_ns = None
            if extend_ns is not None:
                expires_ns = self._extend(transaction, extend_ns, schema.lease.c.epoch == epoch)
            if written and self._before_commit is not None:
                self._before_commit()
            return Commit(results, expires_ns)

    def _known_sequences(self, transaction: sa.Connection, event_ids: list[str]) -> dict[str, int]:
        known: dict[str, int] = {}
        for start in range(0, len(event_ids), _EVENT_IDS_AT_ONCE):
            some = event_ids[start : start + _EVENT_IDS_AT_ONCE]
            # One statement for both tables: a fold moves an id from one to the other.
            query = sa.union_all(
                *(
                    sa.select(table.c.event_id, table.c.sequence).where(table.c.event_id.in_(some))
                    for table in (schema.log, schema.folded_event)
                )
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
            return read_head(transaction)

    def read_range(
        self, first_sequence: int, last_sequence: int | None = None, *, events_max: int = 1000
    ) -> list[bytes]:
        """See `Store.read_range`."""
        first = max(1, first_sequence)
        with self._reading() as transaction:
            rows = snapshot.log_rows(transaction, first, last_sequence, rows_max=events_max)
            checked = checked_rows(transaction, rows, first, self.location)
            events = [row.sequenced() for row in checked]
            if not events:
                refuse_folded(transaction, first)
        return events

    def read_named(self, prefix: str) -> list[bytes]:
        """See `Store.read_named`."""
        after = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        within = sa.and_(schema.log.c.event_id >= prefix, schema.log.c.event_id < after)
        query = sa.select(schema.log).where(within).order_by(schema.log.c.sequence)
        with self._reading() as transaction:
            rows = [encryption.load(transaction, LogRow, row) for row in transaction.execute(query)]
        for row in rows:
            if fault := row.fault():
                raise StoreDamaged(f"event {row.sequence} in {self.location} {fault}")
        return [row.sequenced() for row in rows]

    @contextmanager
    def view(self) -> Iterator[View]:
        """See `Store.view`."""
        with self._viewing() as transaction:
            yield SqlView(transaction, self.location)

    def _viewing(self) -> AbstractContextManager[sa.Connection]:
        """A read transaction in which every statement sees the same state."""
        return self._reading()

    def _check_log(self, transaction: sa.Connection) -> None:
        """No event is missing. Raises: StoreDamaged."""
        snapshot.read_state(transaction)
        count, last, folded = transaction.execute(_EXTENT).one()
        folded = folded or 0
        head = last or folded
        if count != head - folded:
            after = f" after the snapshot's {folded}" if folded else ""
            raise StoreDamaged(
                f"{self.location} ends at event {head} but holds {count}{after}: event"
                f" {_first_missing(transaction, folded)} is missing; see `muster catalogue verify`"
            )

    # --- retention -------------------------------------------------------------------------------------

    def fold(self, *, epoch: int, wanted: Callable[[LogRow], bool], events_max: int) -> Folded:
        """See `Store.fold`."""
        with self._viewing() as transaction:
            folded = snapshot.read_state(transaction).sequence
            head = read_head(transaction).sequence
            events: list[LogRow] = []
            for row in snapshot.log_rows(transaction, folded + 1, head - 1, rows_max=events_max):
                if not wanted(row):
                    break
                events.append(row)
            if not events:
                return Folded(0, folded, 0.0)
            fold = snapshot.prepare_fold(transaction, events)
        self._prepare_encryption()
        with self._writing(urgent=False) as transaction:
            started_s = time.monotonic()
            _fence(transaction, epoch)
            if not snapshot.commit_fold(transaction, fold):
                return Folded(0, folded, 0.0)
        return Folded(len(events), fold.after.sequence, time.monotonic() - started_s)

    def forget_event_ids(
        self, *, epoch: int, committed_before_unix_us: int, ids_max: int, rows_max: int
    ) -> int:
        """See `Store.forget_event_ids`."""
        with self._reading() as transaction:
            last = snapshot.forgettable_id(transaction, committed_before_unix_us, ids_max, rows_max)
        if last is None:
            return 0
        with self._writing(urgent=False) as transaction:
            _fence(transaction, epoch)
            return snapshot.forget_event_ids(transaction, last)

    def expire_feedback(
        self, *, epoch: int, committed_before_unix_us: int, events_max: int, rows_max: int
    ) -> int:
        """See `Store.expire_feedback`."""
        with self._reading() as transaction:
            if not feedback.may_expire(transaction, committed_before_unix_us, events_max):
                return 0
        with self._writing(urgent=False) as transaction:
            _fence(transaction, epoch)
            return feedback.expire(
                transaction,
                committed_before_unix_us=committed_before_unix_us,
                events_max=events_max,
                rows_max=rows_max,
            )

    def erase_feedback(
        self, *, epoch: int, first_sequence: int, wanted: feedback.Wanted, rows_max: int
    ) -> feedback.Erased:
        """See `Store.erase_feedback`."""
        with self._reading() as transaction:
            found = feedback.find(transaction, first_sequence, wanted, rows_max)
        if not found.any:
            return feedback.Erased(found.next_sequence)
        self._prepare_encryption()
        with self._writing(urgent=False) as transaction:
            _fence(transaction, epoch)
            return feedback.take_out(transaction, found)

    def seal(self, *, epoch: int, rows_max: int) -> int:
        """See `Store.seal`."""
        with self._reading() as transaction:
            first = max(snapshot.sealed_sequence(transaction), snapshot.read_state(transaction).sequence) + 1
            rows = list(snapshot.log_rows(transaction, first, rows_max=rows_max))
        for row in rows:
            if row.checksum is None and (fault := row.content_fault()):
                raise StoreDamaged(f"event {row.sequence} {fault}; it gets no checksum")
        if rows:
            with self._writing(urgent=False) as transaction:
                _fence(transaction, epoch)
                snapshot.seal_rows(transaction, [row for row in rows if row.checksum is None])
                snapshot.note_sealed(transaction, rows[-1].sequence)
        return len(rows)

    def encrypt(self, *, epoch: int, after: Place, rows_max: int) -> Place | None:
        """See `Store.encrypt`."""
        if not self._encryption.configured:
            return None
        with self._reading() as transaction:
            if plain.none_left(transaction):
                return None
            found = plain.find(transaction, after, rows_max)
        if found.rows or found.next_place is None:
            self._prepare_encryption()
            with self._writing(urgent=False) as transaction:
                _fence(transaction, epoch)
                plain.write(transaction, found)
        if found.next_place is None:
            self._clear_plain()
        return found.next_place

    def rewrap(self) -> Rewrapped:
        """See `Store.rewrap`."""
        with self._writing(urgent=False) as transaction:
            return self._encryption.rewrap(transaction)

    def _clear_plain(self) -> None:
        """Every row is encrypted now: clear what the plain ones have left behind, as far as it costs
        nobody anything.
        """

    def _prepare_encryption(self) -> None:
        """Before a transaction that writes rows: have a data key whose own row is durable.

        Raises: CatalogueEncrypted; as `append`.
        """
        if self._encryption.due():
            with self._writing(urgent=False) as transaction:
                data_key = self._encryption.renew(transaction)
            self._encryption.use(data_key)

    def agree_on(self, key: str, value: str) -> str:
        """See `Store.agree_on`."""
        query = sa.select(schema.meta.c.value).where(schema.meta.c.key == key)
        with self._reading() as transaction:
            found = transaction.execute(query).scalar()
        if found is None:
            with self._writing(urgent=False) as transaction:
                statement = self._insert(schema.meta).values(key=key, value=value)
                transaction.execute(statement.on_conflict_do_nothing())
                found = transaction.execute(query).scalar_one()
        return str(found)

    def extent(self) -> Extent:
        """See `Store.extent`."""
        log = schema.log
        by_age = sa.select(log.c.sequence, log.c.committed_unix_us)
        with self._reading() as transaction:
            first = transaction.execute(by_age.order_by(log.c.sequence).limit(1)).first() or (0, 0)
            last = transaction.execute(by_age.order_by(log.c.sequence.desc()).limit(1)).first() or (0, 0)
            size_bytes = self._size_bytes(transaction)
        return Extent(int(first[0]), int(first[1]), int(last[1]), size_bytes)

    @abstractmethod
    def _size_bytes(self, transaction: sa.Connection) -> int:
        """Bytes that the store takes on its disk."""

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

    def renew_lease(self, *, epoch: int, holder: str, ttl_ns: int, limit_ns: int | None = None) -> int | None:
        """See `Store.renew_lease`."""
        with self._writing(urgent=True, limit_ns=ttl_ns if limit_ns is None else limit_ns) as transaction:
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


@contextmanager
def translating(
    driver_error: type[Exception], store_error: Callable[[BaseException | None], StoreError]
) -> Iterator[None]:
    """Turn what SQLAlchemy and the driver below it raise into the catalogue's errors.

    driver_error: the base of the driver's. store_error: what one of them means.
    """
    try:
        yield
    except sa.exc.TimeoutError as error:
        raise StoreUnavailable("every connection to the store is in use") from error
    except sa.exc.DBAPIError as error:
        raise store_error(error.orig) from error
    except driver_error as error:
        raise store_error(error) from error


def lease_row(row: Any, expires_ns: int) -> LeaseRow:
    """A row of the table, with its expiry on this process's clock."""
    return LeaseRow(row.epoch, Holder(row.holder, row.pid, row.pid_start_ticks, row.boot_id), expires_ns)


def _first_missing(transaction: sa.Connection, folded: int) -> int:
    """The first sequence after the snapshot that the log, which is known to have a hole, does not hold."""
    place = sa.func.row_number().over(order_by=schema.log.c.sequence)
    places = sa.select(schema.log.c.sequence, place.label("place")).where(schema.log.c.sequence > folded)
    numbered = places.subquery()
    kept = sa.select(sa.func.max(numbered.c.place)).where(numbered.c.sequence == numbered.c.place + folded)
    return folded + int(transaction.execute(kept).scalar() or 0) + 1


def _fence(transaction: sa.Connection, epoch: int) -> None:
    """Go on only in the reign of `epoch`, which does not end before the transaction. Raises: Fenced."""
    lease = schema.lease
    query = sa.select(lease.c.epoch).where(lease.c.name == schema.LEASE_NAME).with_for_update(read=True)
    current = transaction.execute(query).scalar()
    if current != epoch:
        raise Fenced(epoch, current)


def _append_statement(insert: DialectInsert) -> Any:
    """Insert one event from the lease of the writer's epoch: nothing, once the lease has moved on."""
    lease = schema.lease
    return (
        insert(schema.log)
        .from_select(
            ["sequence", "epoch", "event_id", "committed_unix_us", "payload", "checksum"],
            sa.select(
                sa.bindparam("sequence", type_=sa.BigInteger),
                lease.c.epoch,
                sa.bindparam("event_id", type_=sa.Text),
                sa.bindparam("committed_unix_us", type_=sa.BigInteger),
                sa.bindparam("payload", type_=sa.LargeBinary),
                sa.bindparam("checksum", type_=sa.LargeBinary),
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
