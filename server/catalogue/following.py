"""How a replica follows the log: a state machine without thread, clock, store or engine.

`Following` decides when to look at the log, what to read next and whether what was read may be applied. It
lets nothing through but the next events in sequence: whoever skipped one would serve another catalogue.
`Tailer` carries its decisions out for real, the simulation does so in a world of crashes and pauses.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.catalogue.errors import StoreDamaged
from server.catalogue.store import Head


@dataclass(frozen=True)
class Range:
    """Events to read, from first to last, both included; at most events_max of them at once."""

    first: int
    last: int
    events_max: int


class Following:
    """What one replica knows of the log. Not thread-safe.

    applied: every event up to this one has been delivered and applied. head, epoch: of the last event that
    was seen in the log. batch_events_max: events handed over at once.
    """

    def __init__(self, applied: int, batch_events_max: int) -> None:
        self.applied = applied
        self.head = 0
        self.epoch = 0
        self._batch_events_max = batch_events_max
        self._version: int | None = None

    @property
    def caught_up(self) -> bool:
        """All that was in the log at the last look is applied."""
        return self.applied >= self.head

    def due(self, version: int) -> bool:
        """Whether to look at the log. version: of the store, read before anything else of this look.

        What is committed after the version was read only causes one look too many.
        """
        return version != self._version or not self.caught_up

    def told(self, head: int) -> None:
        """So much is known to be committed: to be looked for, though the store may tell of it later."""
        self.head = max(self.head, head)

    def saw(self, head: Head, applied_before: int) -> None:
        """The log ends at `head`. applied_before: what was applied before the head was read.

        It is compared with that one, since `switch` may meanwhile have turned to a target that is ahead.
        Raises: StoreDamaged if events were applied that the log does not hold.
        """
        self.head, self.epoch = head.sequence, head.epoch
        if applied_before > head.sequence:
            raise StoreDamaged(
                f"this replica has applied event {applied_before}, but the log ends at {head.sequence}; "
                "generations and log belong to different catalogues, or the log was cut short"
            )

    def wanted(self) -> Range | None:
        """What to read next; None: nothing, up to the head that was seen."""
        if self.caught_up:
            return None
        return Range(self.applied + 1, self.head, self._batch_events_max)

    def read(self, wanted: Range, events: int) -> None:
        """So many events were read, in sequence from the first one wanted.

        Raises: StoreDamaged if there is none, although the log reaches further.
        """
        if events == 0:
            raise StoreDamaged(f"event {wanted.first} is missing from the log")

    def delivered(self, wanted: Range, events: int, applied: int) -> None:
        """They were handed over. applied: the sequence up to which the target says that it has applied all.

        Raises: RuntimeError if it lacks some of them.
        """
        expected = wanted.first + events - 1
        if applied < expected:
            raise RuntimeError(f"events up to {expected} were delivered, but only {applied} are applied")
        self.applied = expected

    def looked(self, version: int) -> None:
        """This look has succeeded. version: as given to `due`."""
        self._version = version

    def lost(self) -> None:
        """The connection that told the versions is gone: those of the next one are not comparable."""
        self._version = None

    def switch(self, applied: int) -> None:
        """Another target takes over, which has applied so much."""
        self.applied = applied
