"""What must never happen, checked as it happens; the first breach ends the run.

A `Witness` sees everything: the true time, every commit, every answer that a client got. It is told by the
world, never by the code under test.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drills.journal import History, Record
from drills.judges.history import check_epochs, check_sessions, check_writes

if TYPE_CHECKING:
    from server.standby.lease import Holder
    from tests.simulation.tables import Tables

Row = tuple[int, str, int]
"""One event of the log: epoch, event id, product."""


class InvariantBroken(AssertionError):
    """Something that must never happen has happened."""


@dataclass
class Witness:
    """The true history of one run, and the judgement of each new part of it.

    acknowledged: event id to the sequence that a client was told. refused: event ids of which a client was
    told that they were not written. batches: for each event id those that were sent together with it.
    records: what the clients saw, as a drill records it.
    """

    epochs: dict[int, Holder] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    batches: dict[str, tuple[str, ...]] = field(default_factory=dict)
    changes: dict[str, str] = field(default_factory=dict)
    fenced: int = 0
    killed: int = 0
    reads: int = 0
    resent: int = 0
    records: list[Record] = field(default_factory=list)
    trail: deque[tuple[int, tuple[object, ...]]] = field(default_factory=lambda: deque(maxlen=40))

    def note(self, when_ns: int, *what: object) -> None:
        """Remember an event for the report of a failure."""
        self.trail.append((when_ns, what))

    # --- the lease ---------------------------------------------------------------------------------------

    def claimed(self, epoch: int, holder: Holder, before: int) -> None:
        """A reign has begun."""
        if epoch in self.epochs:
            raise InvariantBroken(f"epoch {epoch} has two holders")
        if epoch <= before:
            raise InvariantBroken(f"the epoch fell from {before} to {epoch}")
        self.epochs[epoch] = holder

    def leased(self, before: int, epoch: int) -> None:
        """The lease was renewed or given back."""
        if epoch < before:
            raise InvariantBroken(f"the lease fell from epoch {before} to {epoch}")

    def announced(self, epoch: int, holder: Holder) -> None:
        """A process has told the rest of its replica that it reigns."""
        if self.epochs.get(epoch) != holder:
            raise InvariantBroken(f"{holder.name} announced epoch {epoch}, which is not its own")

    def may_write(self, names: Sequence[str]) -> None:
        """These processes believe that they may write now."""
        if len(names) > 1:
            raise InvariantBroken(f"{' and '.join(names)} may both write")

    def kills(self, victim: str, *, valid: bool) -> None:
        """A hung holder is ended. valid: by the store's clock its lease had not run out."""
        if valid:
            raise InvariantBroken(f"{victim} was killed while its lease was valid")
        self.killed += 1

    # --- the log -----------------------------------------------------------------------------------------

    def sent(self, event_ids: Sequence[str]) -> None:
        """A client sends these events together."""
        batch = tuple(event_ids)
        self.batches.update(dict.fromkeys(batch, batch))

    def appended(self, log: Sequence[Row], rows: Sequence[Row], places: dict[str, int]) -> None:
        """These rows are about to follow the log."""
        epoch = log[-1][0] if log else 0
        written = {row[1] for row in rows}
        for row in rows:
            if row[0] < epoch:
                raise InvariantBroken(f"epoch {row[0]} writes {row[1]} after epoch {epoch}")
            epoch, event_id = row[0], row[1]
            if event_id in places:
                raise InvariantBroken(f"{event_id} is written twice")
            if event_id in self.refused:
                raise InvariantBroken(f"{event_id} is written, but its client was told that it was not")
            change = event_id.partition("#")[0]
            known = self.changes.setdefault(change, event_id)
            if known != event_id:
                raise InvariantBroken(f"one change is written twice, as {known} and {event_id}")
            if not written.issuperset(self.batches.get(event_id, ())):
                raise InvariantBroken(f"{event_id} is written without the rest of its batch")

    def lost_power(self, log: Sequence[Row]) -> None:
        """This is what was left on the disk."""
        self.changes = {event_id.partition("#")[0]: event_id for _, event_id, _ in log}
        for event_id, sequence in self.acknowledged.items():
            if sequence > len(log) or log[sequence - 1][1] != event_id:
                raise InvariantBroken(f"{event_id} was acknowledged at {sequence}, but power loss undid it")

    def delivered(self, log: Sequence[Row], applied: int, first: int, rows: Sequence[Row]) -> None:
        """A tail hands these rows to its engine, which had applied so much."""
        if first > applied + 1:
            raise InvariantBroken(f"event {first} was applied after {applied}: those in between are missing")
        for place, row in enumerate(rows, start=first - 1):
            if place >= len(log) or log[place] is not row:
                raise InvariantBroken(
                    f"{row[1]} was applied at {place + 1}, which the log does not hold there"
                )

    # --- the clients -------------------------------------------------------------------------------------

    def acknowledge(
        self, tables: Tables, event_ids: Sequence[str], sequence: int, epoch: int, seen_epoch: int
    ) -> None:
        """A client was told that its batch is durable. seen_epoch: the highest it had seen before it sent."""
        highest = 0
        for event_id in event_ids:
            place = tables.places.get(event_id)
            if place is None:
                raise InvariantBroken(
                    f"{event_id} was acknowledged at {sequence}, but the log does not hold it"
                )
            self.acknowledged[event_id] = place
            highest = max(highest, place)
        if highest != sequence:
            raise InvariantBroken(f"a batch at {highest} was acknowledged at {sequence}")
        if epoch < seen_epoch:
            raise InvariantBroken(
                f"epoch {epoch} acknowledged a write sent after epoch {seen_epoch} was seen"
            )

    def refuse(self, event_ids: Sequence[str], places: dict[str, int]) -> None:
        """A client was told that its batch was not written, and never will be."""
        for event_id in event_ids:
            if event_id in places:
                raise InvariantBroken(f"a client was told that {event_id} was not written, but it is")
        self.refused.update(event_ids)

    def answered(self, name: str, *, applied: int, seen: int, place: int, wrote: int) -> None:
        """A client read a product. seen: the sequence its session had seen; wrote: its own last write to this
        product; place: the event that the answer shows."""
        self.reads += 1
        if applied < seen:
            raise InvariantBroken(
                f"{name} had seen {seen} and then read {applied}: its session went backwards"
            )
        if place < wrote:
            raise InvariantBroken(
                f"{name} wrote {wrote} and then read {place}: it does not see its own write"
            )

    # --- the end -----------------------------------------------------------------------------------------

    def ended(self, log: Sequence[Row]) -> None:
        """The run is over: what can only be said of the whole."""
        places = {event_id: sequence for sequence, (_, event_id, _) in enumerate(log, start=1)}
        if len(places) != len(log):
            raise InvariantBroken("an event is in the log twice")
        for event_id, sequence in self.acknowledged.items():
            if places.get(event_id) != sequence:
                raise InvariantBroken(f"{event_id} was acknowledged at {sequence}, but is not there")
        problems = judged(self.history(log))
        if problems:
            raise InvariantBroken(problems[0])

    def history(self, log: Sequence[Row]) -> History:
        """The clients' records and the log, as a drill would have them at its end."""
        entries: list[Record] = [
            {"kind": "log", "sequence": sequence, "epoch": epoch, "event_id": event_id}
            for sequence, (epoch, event_id, _) in enumerate(log, start=1)
        ]
        return History((*self.records, *entries, {"kind": "log_end", "head": len(log)}))


def judged(history: History) -> list[str]:
    """What the judge of real processes says of it; empty: nothing is wrong."""
    writes = check_writes(history)
    assert writes is not None
    return [*writes.problems(), *check_epochs(history), *check_sessions(history)]
