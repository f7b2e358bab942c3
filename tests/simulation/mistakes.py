"""Known bugs, each planted in one place, to show that the invariants would notice it.

None of this is shipped: a mistake replaces one part of a run by a subclass that is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc

from muster.client import errors
from muster.client.sessions import Session
from muster.client.writes import Write
from server.catalogue.appending import Acknowledge, Appending, Command, Refuse
from server.catalogue.appending import Write as WriteGroup
from server.catalogue.errors import DiskFull, StoreError, StoreIOFailed, StoreUnavailable
from server.catalogue.following import Following, Range
from server.catalogue.store import Appended, Commit, Head, NewEvent
from server.standby.lease import (
    Holder,
    Input,
    LeaseProtocol,
    LeaseRow,
    LeaseSeen,
    LeaseState,
    Phase,
    Step,
)
from tests.simulation.locks import Lock
from tests.simulation.simulation import Parts
from tests.simulation.stores import DatabaseServer, Transaction
from tests.simulation.tables import Staged, Tables

# --- the store ---------------------------------------------------------------------------------------------


class AppendsWithoutFence(Tables):
    def fence(self, epoch: int) -> None:
        pass


class ForgetsDuplicates(Tables):
    def known(self, event_id: str) -> int | None:
        return None


class ClaimsWithoutComparing(Tables):
    def may_claim(self, expected_epoch: int) -> bool:
        return True


class RenewsWhatIsOver(Tables):
    def extended(self, epoch: int, holder: Holder | None, now_ns: int, ttl_ns: int) -> LeaseRow | None:
        if self.lease is None or holder is None:
            return super().extended(epoch, holder, now_ns, ttl_ns)
        return replace(self.lease, epoch=epoch, holder=holder, expires_monotonic_ns=now_ns + ttl_ns)


class CommitsWithoutFsync(Tables):
    """As `synchronous=OFF`: the operating system writes it some time later."""

    def sync(self) -> None:
        if self.version % 64 == 0:
            super().sync()


class TearsTransactions(Tables):
    """As without a journal: what was written before the process died stays."""

    def torn(self, staged: Staged) -> None:
        self.write(staged.rows[: len(staged.rows) // 2])


class ShowsWhatIsNotCommitted(Tables):
    """A dirty read: the tail sees the rows of a transaction that is under way."""

    def append(
        self, batches: Sequence[Sequence[NewEvent]], epoch: int, extend_ns: int, now_ns: int
    ) -> Staged:
        staged = super().append(batches, epoch, extend_ns, now_ns)
        self._staged = staged.rows
        self.version += 1
        return staged

    _staged: Sequence[Any] = ()

    def write(self, rows: Sequence[Any]) -> None:
        self._staged = ()
        super().write(rows)

    def head(self) -> Head:
        committed = super().head()
        return Head(committed.sequence + len(self._staged), committed.epoch)

    def rows(self, first: int, last: int, events_max: int) -> list[Any]:
        return [*self.log, *self._staged][first - 1 : min(last, first - 1 + events_max)]


class ReadsALocalClock(DatabaseServer):
    """Leases expire by the wall clock of whoever looks, not by the server's."""

    def now_ns(self, process: Any) -> int:
        return self.clock.now_ns + int(process.world.wall_offset_ns[process.name])


class CallsACutOffCommitNotWritten(DatabaseServer):
    """A connection that is lost during the commit is taken for one that was lost before it."""

    def _broken(self, transaction: Transaction) -> StoreError:
        return StoreUnavailable("the connection to the store broke")


# --- the lease ---------------------------------------------------------------------------------------------


class ClaimsWithoutLock(LeaseProtocol):
    def step(self, state: LeaseState, now_ns: int, given: Input) -> Step:
        if state.phase is Phase.READING_WITHOUT_LOCK and isinstance(given, LeaseSeen):
            state = replace(state, phase=Phase.READING_WITH_LOCK)
        return super().step(state, now_ns, given)


class WritesAfterTheLockIsLost(LeaseProtocol):
    _last = 0

    def writing_epoch(self, state: LeaseState, now_ns: int) -> int | None:
        return self._last or None

    def step(self, state: LeaseState, now_ns: int, given: Input) -> Step:
        after, commands = super().step(state, now_ns, given)
        self._last = after.epoch or self._last
        # A reign that nobody sees is not checked: let it be seen.
        return replace(after, epoch=self._last), commands


class KillsWithoutLooking(LeaseProtocol):
    """Whoever holds the lock is taken to hang, whatever its lease says."""

    def _judge_holder(self, state: LeaseState, now_ns: int, row: LeaseRow | None) -> Step:
        return super()._judge_holder(state, max(now_ns, row.expires_monotonic_ns if row else 0), row)


class IsAlwaysIntact(Lock):
    def intact(self, process: Any) -> bool:
        return True


# --- the writer --------------------------------------------------------------------------------------------


class AcknowledgesBeforeTheCommit(Appending[Any]):
    _sequence = 0

    def begin(self, now_s: float, epoch: int | None) -> list[Command[Any]]:
        commands: list[Command[Any]] = []
        for command in super().begin(now_s, epoch):
            if isinstance(command, WriteGroup):
                for waiting in command.batches:
                    self._sequence += len(waiting.events)
                    commands.append(Acknowledge(waiting, Appended(self._sequence, command.epoch, 0)))
            commands.append(command)
        return commands

    def settle(self, outcome: Commit | StoreError, now_s: float) -> list[Command[Any]]:
        if isinstance(outcome, Commit):
            self._sequence = outcome.batches[-1].sequence
        return super().settle(outcome, now_s)


class GoesOnAfterAFailedFsync(Appending[Any]):
    def settle(self, outcome: Commit | StoreError, now_s: float) -> list[Command[Any]]:
        if isinstance(outcome, StoreIOFailed):
            outcome = DiskFull("nothing was written")
        return super().settle(outcome, now_s)


class CallsALateCommitNotWritten(Appending[Any]):
    """A batch whose commit had begun is refused as if it had never left the queue."""

    def begin(self, now_s: float, epoch: int | None) -> list[Command[Any]]:
        commands = super().begin(now_s, epoch)
        if commands and isinstance(commands[-1], WriteGroup):
            hasty = [w for w in commands[-1].batches if w.deadline_s - now_s < 0.05]
            error = DiskFull("nothing was written")
            return [*(Refuse(waiting, error) for waiting in hasty), *commands]
        return commands


# --- the tail ----------------------------------------------------------------------------------------------


class SkipsAGap(Following):
    def read(self, wanted: Range, events: int) -> None:
        if events == 0:
            self.applied = wanted.first

    def delivered(self, wanted: Range, events: int, applied: int) -> None:
        self.applied = max(self.applied, wanted.first + events - 1)


class ReadsFromTheHead(Following):
    """A replica that comes back takes up the log where it ends now."""

    def saw(self, head: Head, applied_before: int) -> None:
        if self.head == 0 and head.sequence > self.applied + 8:
            self.applied = head.sequence - 1
        super().saw(head, applied_before)


# --- the client --------------------------------------------------------------------------------------------


class TakesUnavailableForNotWritten(Write):
    def failed(self, error: grpc.RpcError, left_s: float) -> float:
        if error.code() is grpc.StatusCode.UNAVAILABLE and not self.may_be_written:
            refused = errors.Unavailable("no replica answered")
            refused.outcome = "not_written"
            raise refused
        return super().failed(error, left_s)


class SendsOnce(Write):
    """No mistake: a client that nothing hides from what a replica told it."""

    def failed(self, error: grpc.RpcError, left_s: float) -> float:
        return super().failed(error, 0.0)


class ForgetsAnUnknownOutcome(Write):
    """What the last sending ended with is told, whatever became of those before."""

    def failed(self, error: grpc.RpcError, left_s: float) -> float:
        self.may_be_written = False
        return super().failed(error, left_s)


class ForgetsWhatItRead(Session):
    def read(self, applied_sequence: int) -> None:
        pass


def new_event_ids(events: list[NewEvent]) -> list[NewEvent]:
    return [replace(event, event_id=f"{event.event_id}#again") for event in events]


def no_least_sequence(session: Session) -> int:
    return 0


@dataclass(frozen=True)
class Mistake:
    """A bug as parts that have it.

    name: what is wrong, for people. breach: what the invariant says, in part. world, faults: as in `Case`.
    """

    name: str
    breach: str
    parts: Parts
    world: str = "one"
    faults: str = "rough"


MISTAKES = (
    Mistake("append without the fence", "after epoch", Parts(tables=AppendsWithoutFence), faults="lawless"),
    Mistake("append without looking for the event's id", "written twice", Parts(tables=ForgetsDuplicates)),
    Mistake(
        "claim without comparing the epoch",
        "has two holders",
        Parts(tables=ClaimsWithoutComparing),
        faults="lawless",
    ),
    Mistake(
        "renew without looking at epoch and lock",
        "lease fell from epoch",
        Parts(tables=RenewsWhatIsOver, lock=IsAlwaysIntact),
        faults="lawless",
    ),
    Mistake("commit without fsync", "power loss undid it", Parts(tables=CommitsWithoutFsync)),
    Mistake(
        "a transaction that is torn by a crash", "the rest of its batch", Parts(tables=TearsTransactions)
    ),
    Mistake(
        "tail sees what is not committed", "the log does not hold", Parts(tables=ShowsWhatIsNotCommitted)
    ),
    Mistake("claim without the lock", "may both write", Parts(protocol=ClaimsWithoutLock)),
    Mistake(
        "go on writing after the lock was lost", "may both write", Parts(protocol=WritesAfterTheLockIsLost)
    ),
    Mistake("kill without looking at the lease", "its lease was valid", Parts(protocol=KillsWithoutLooking)),
    Mistake(
        "expiry by the clock of another machine",
        "its lease was valid",
        Parts(server=ReadsALocalClock),
        world="several",
        faults="remote",
    ),
    Mistake(
        "acknowledge before the commit", "was acknowledged", Parts(appending=AcknowledgesBeforeTheCommit)
    ),
    Mistake("go on after a failed fsync", "was not written", Parts(appending=GoesOnAfterAFailedFsync)),
    Mistake("refuse a batch whose commit has begun", "was not", Parts(appending=CallsALateCommitNotWritten)),
    Mistake(
        "a commit that was cut off counts as not written",
        "was not",
        Parts(server=CallsACutOffCommitNotWritten, write=SendsOnce),
        world="several",
        faults="remote",
    ),
    Mistake("tail skips a gap", "are missing", Parts(following=SkipsAGap)),
    Mistake("tail begins at the head", "are missing", Parts(following=ReadsFromTheHead)),
    Mistake(
        "client takes UNAVAILABLE for not written", "was not", Parts(write=TakesUnavailableForNotWritten)
    ),
    Mistake("a later refusal hides an unknown outcome", "was not", Parts(write=ForgetsAnUnknownOutcome)),
    Mistake("a new event id for each sending", "one change is written twice", Parts(resend=new_event_ids)),
    Mistake("a read without min_sequence", "had seen", Parts(least=no_least_sequence)),
    Mistake("a session that forgets what it read", "had seen", Parts(session=ForgetsWhatItRead)),
)
