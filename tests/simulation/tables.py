"""What the store holds, what its statements do to it, and what of it a loss of power leaves.

The statements are those of the real store, said in Python: they stage a change against what is committed, and
`apply` commits it. A subclass plants a mistake.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from server.catalogue.errors import Fenced
from server.catalogue.store import Appended, Commit, Head, NewEvent
from server.standby.lease import Holder, LeaseRow
from tests.simulation.invariants import Row, Witness


@dataclass
class Staged:
    """A transaction before its commit: rows to append, the lease as it will be, and the answer."""

    rows: list[Row]
    lease: LeaseRow | None
    answer: object
    claims: bool = False


class Tables:
    """Log and lease. Times are those of the store's clock."""

    def __init__(self, witness: Witness) -> None:
        self.witness = witness
        self.log: list[Row] = []
        self.places: dict[str, int] = {}
        self.lease: LeaseRow | None = None
        self.version = 0
        self._synced_rows = 0
        self._synced_lease: LeaseRow | None = None

    @property
    def epoch(self) -> int:
        """Of the lease; 0: nobody ever held it."""
        return 0 if self.lease is None else self.lease.epoch

    def head(self) -> Head:
        """As `Store.head`."""
        return Head(len(self.log), self.log[-1][0]) if self.log else Head(0, 0)

    def rows(self, first: int, last: int, events_max: int) -> list[Row]:
        """As `Store.read_range`."""
        return self.log[first - 1 : min(last, first - 1 + events_max)]

    # --- statements --------------------------------------------------------------------------------------

    def append(
        self, batches: Sequence[Sequence[NewEvent]], epoch: int, extend_ns: int, now_ns: int
    ) -> Staged:
        """As `Store.append`. Raises: Fenced."""
        self.fence(epoch)
        rows: list[Row] = []
        here: dict[str, int] = {}
        results = []
        for batch in batches:
            highest = duplicates = 0
            for event in batch:
                sequence = here.get(event.event_id) or self.known(event.event_id)
                if sequence is None:
                    rows.append((epoch, event.event_id, int(event.payload)))
                    sequence = here[event.event_id] = len(self.log) + len(rows)
                else:
                    duplicates += 1
                highest = max(highest, sequence)
            results.append(Appended(highest, epoch, duplicates))
        lease = self.extended(epoch, None, now_ns, extend_ns)
        expires_ns = None if lease is None else lease.expires_monotonic_ns
        return Staged(rows, lease or self.lease, Commit(results, expires_ns))

    def fence(self, epoch: int) -> None:
        """Nothing is written in an epoch that is over. Raises: Fenced."""
        if self.epoch != epoch:
            raise Fenced(epoch, self.epoch)

    def known(self, event_id: str) -> int | None:
        """Where the event is already."""
        return self.places.get(event_id)

    def claim(self, holder: Holder, expected_epoch: int, ttl_ns: int, now_ns: int) -> Staged:
        """As `Store.claim_lease`."""
        if not self.may_claim(expected_epoch):
            return Staged([], self.lease, None)
        row = LeaseRow(expected_epoch + 1, holder, now_ns + ttl_ns)
        return Staged([], row, row, claims=True)

    def may_claim(self, expected_epoch: int) -> bool:
        """Nobody has claimed since."""
        return self.epoch == expected_epoch

    def renew(self, epoch: int, holder: Holder, ttl_ns: int, now_ns: int) -> Staged:
        """As `Store.renew_lease`."""
        lease = self.extended(epoch, holder, now_ns, ttl_ns)
        return Staged([], lease or self.lease, None if lease is None else lease.expires_monotonic_ns)

    def extended(self, epoch: int, holder: Holder | None, now_ns: int, ttl_ns: int) -> LeaseRow | None:
        """The lease with a later expiry; None: that reign is over."""
        lease = self.lease
        if lease is None or lease.epoch != epoch or holder not in (None, lease.holder):
            return None
        if lease.expires_monotonic_ns <= now_ns:
            return None
        return replace(lease, expires_monotonic_ns=now_ns + ttl_ns)

    def release(self, epoch: int, holder: Holder) -> Staged:
        """As `Store.release_lease`."""
        lease = self.lease
        if lease is None or lease.epoch != epoch or lease.holder != holder:
            return Staged([], lease, False)
        return Staged([], replace(lease, expires_monotonic_ns=0), True)

    # --- commit ------------------------------------------------------------------------------------------

    def apply(self, staged: Staged) -> None:
        """Commit: all of it, at once, and durable."""
        self.write(staged.rows)
        if staged.lease is not self.lease:
            before = self.epoch
            assert staged.lease is not None
            if staged.claims:
                self.witness.claimed(staged.lease.epoch, staged.lease.holder, before)
            else:
                self.witness.leased(before, staged.lease.epoch)
            self.lease = staged.lease
        self.version += 1
        self.sync()

    def write(self, rows: Sequence[Row]) -> None:
        """Add the rows."""
        self.witness.appended(self.log, rows, self.places)
        for row in rows:
            self.log.append(row)
            self.places[row[1]] = len(self.log)

    def torn(self, staged: Staged) -> None:
        """The writer died between staging and commit: nothing of it stays."""

    def sync(self) -> None:
        """What is committed has reached the disk."""
        self._synced_rows, self._synced_lease = len(self.log), self.lease

    def lose_power(self) -> None:
        """What has not reached the disk is gone."""
        for row in self.log[self._synced_rows :]:
            del self.places[row[1]]
        del self.log[self._synced_rows :]
        self.lease = self._synced_lease
        self.version += 1
        self.witness.lost_power(self.log)
