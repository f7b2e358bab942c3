"""The lease: who may write, as pure state transitions, and the thread that carries them out.

Two signals say that a primary is gone: a kernel file lock, freed by the kernel the moment its process dies,
and a lease in the store, which runs out when the process hangs. A standby that gets the lock claims the lease
at once. A standby that finds the lock taken and the lease expired kills the hung holder, which frees the
lock. Claiming raises the epoch, and every append names the epoch it believes in, so a primary that wakes up
late writes nothing: safety rests on the epoch alone, lock and clock only decide how soon somebody takes over.

`LeaseProtocol.step` is a pure function of (state, time, input). It returns the next state and the commands to
carry out, and knows no thread, clock, file or database; the simulation drives the same code through crashes,
pauses and wrong clocks. `LeaseKeeper` is the thin runner for real ones.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn, Protocol

from server.catalogue.errors import StoreError, StoreIOFailed

logger = logging.getLogger(__name__)

_NS_PER_MS = 1_000_000


@dataclass(frozen=True)
class Holder:
    """One process that may hold the lease.

    name: the replica's name, "/", and a token that no other process has. pid_start_ticks: start time of the
    process since boot, in clock ticks; with pid and boot_id it names one process for good.
    """

    name: str
    pid: int
    pid_start_ticks: int
    boot_id: str

    @property
    def replica(self) -> str:
        """The replica's name as configured."""
        return self.name.rpartition("/")[0]


@dataclass(frozen=True)
class LeaseRow:
    """The lease as stored. expires_monotonic_ns: on CLOCK_MONOTONIC of the holder's boot; 0: given back."""

    epoch: int
    holder: Holder
    expires_monotonic_ns: int


@dataclass(frozen=True)
class LeaseConfig:
    """ttl_ms: how long a lease lasts without a renewal; well above any harmless pause of the process.
    check_every_ms: from one look of a standby to the next, at most a quarter of it; 0: an eighth of it.

    The other durations follow from it, in the ratios whose failovers were measured. A primary ends its reign
    `margin_ns` before its lease does, so that a healthy one is not found with an expired lease and killed.
    """

    ttl_ms: int = 500
    check_every_ms: int = 0

    def __post_init__(self) -> None:
        if self.ttl_ms < 16:
            raise ValueError(f"ttl_ms must be at least 16, not {self.ttl_ms}")
        if not 0 <= self.check_every_ms * 4 <= self.ttl_ms:
            raise ValueError(
                f"check_every_ms must be from 0 to a quarter of ttl_ms, not {self.check_every_ms}"
            )

    @property
    def ttl_ns(self) -> int:
        """Life of a lease."""
        return self.ttl_ms * _NS_PER_MS

    @property
    def renew_ns(self) -> int:
        """From one renewal to the next."""
        return self.ttl_ns // 3

    @property
    def check_ns(self) -> int:
        """From one look of a standby to the next, and from a failed renewal to the next try."""
        return self.check_every_ms * _NS_PER_MS or self.ttl_ns // 8

    @property
    def margin_ns(self) -> int:
        """From the end of a reign in its own eyes to the end of its lease in everybody else's."""
        return self.ttl_ns // 16

    @property
    def patience_ns(self) -> int:
        """How long others may keep the lock without a valid lease when they cannot be said to hang.

        They wait for the disk, or claim again and again: killing them early would gain nothing, since their
        successor would have to do the same.
        """
        return self.ttl_ns * 10

    @property
    def stand_aside_ns(self) -> int:
        """How long a replica that stepped down on purpose leaves the lease to the others."""
        return self.ttl_ns * 2


# --- the protocol: states, inputs, commands ----------------------------------------------------------------


class Phase(enum.Enum):
    """Where a replica is. In STANDBY, PRIMARY and STOPPED it rests; in the others it awaits one answer."""

    STANDBY = "standby"
    LOCKING = "locking"
    READING_WITH_LOCK = "reading with lock"
    READING_WITHOUT_LOCK = "reading without lock"
    KILLING = "killing"
    CLAIMING = "claiming"
    PRIMARY = "primary"
    RENEWING = "renewing"
    STOPPED = "stopped"


RESTING = frozenset({Phase.STANDBY, Phase.PRIMARY, Phase.STOPPED})


@dataclass(frozen=True)
class LeaseState:
    """All a replica knows. Times are monotonic nanoseconds.

    epoch: of the own reign, 0 when there is none. expires_ns: of the own lease. renew_at_ns: next renewal.
    look_at_ns: when a resting replica wants its next Tick. stand_aside_until_ns: no claim before.
    suspect_epoch, suspect_since_ns: the expired lease seen behind a taken lock, and since when.
    killed_epoch: the reign whose holder is known to be gone; -1: none.
    """

    phase: Phase = Phase.STANDBY
    epoch: int = 0
    expires_ns: int = 0
    renew_at_ns: int = 0
    look_at_ns: int = 0
    stand_aside_until_ns: int = 0
    suspect_epoch: int = -1
    suspect_since_ns: int = 0
    killed_epoch: int = -1


@dataclass(frozen=True)
class Tick:
    """Time has reached look_at_ns. eligible: this replica could serve as primary (it has caught up)."""

    eligible: bool = True


@dataclass(frozen=True)
class LockAnswer:
    """To TakeLock."""

    taken: bool


@dataclass(frozen=True)
class LeaseSeen:
    """To ReadLease. None: nobody ever held it."""

    row: LeaseRow | None


@dataclass(frozen=True)
class HolderAnswer:
    """To KillHolder and KillLockHolders. gone: that process is no primary any more."""

    gone: bool


@dataclass(frozen=True)
class ClaimAnswer:
    """To ClaimLease. None: somebody else was first."""

    row: LeaseRow | None


@dataclass(frozen=True)
class RenewAnswer:
    """To RenewLease. None: the reign has ended (fenced, expired or lock lost)."""

    expires_ns: int | None


@dataclass(frozen=True)
class StoreFailed:
    """To any command that needs the store: no answer; a claim may or may not have happened."""


@dataclass(frozen=True)
class Extended:
    """An append of the reign `epoch` renewed the lease on its way."""

    epoch: int
    expires_ns: int


@dataclass(frozen=True)
class FencedSeen:
    """An append of the reign `epoch` was refused: a later one has begun."""

    epoch: int


@dataclass(frozen=True)
class StepDown:
    """Give the lease to another replica."""


@dataclass(frozen=True)
class Stop:
    """Give the lease back and end."""


Input = (
    Tick
    | LockAnswer
    | LeaseSeen
    | HolderAnswer
    | ClaimAnswer
    | RenewAnswer
    | StoreFailed
    | Extended
    | FencedSeen
    | StepDown
    | Stop
)


@dataclass(frozen=True)
class TakeLock:
    """Try the kernel lock without waiting; answer LockAnswer."""


@dataclass(frozen=True)
class ReadLease:
    """Read the lease without any lock; answer LeaseSeen."""


@dataclass(frozen=True)
class KillHolder:
    """Kill the holder of `row`, if the lease still is exactly this row; answer HolderAnswer."""

    row: LeaseRow


@dataclass(frozen=True)
class KillLockHolders:
    """Kill whoever holds the kernel lock, if the lease is still at `epoch`; answer HolderAnswer."""

    epoch: int


@dataclass(frozen=True)
class ClaimLease:
    """Begin the next reign, if the lease still is at expected_epoch; answer ClaimAnswer."""

    expected_epoch: int


@dataclass(frozen=True)
class RenewLease:
    """Move the expiry of the reign `epoch`; answer RenewAnswer."""

    epoch: int


@dataclass(frozen=True)
class ReleaseLease:
    """Mark the reign `epoch` as given back; no answer, may fail."""

    epoch: int


@dataclass(frozen=True)
class DropLock:
    """Free the kernel lock; no answer."""


@dataclass(frozen=True)
class BecomePrimary:
    """The reign `epoch` has begun; no answer."""

    epoch: int


@dataclass(frozen=True)
class BecomeStandby:
    """The reign `epoch` is over; no answer. reason: for the log."""

    epoch: int
    reason: str


Command = (
    TakeLock
    | ReadLease
    | KillHolder
    | KillLockHolders
    | ClaimLease
    | RenewLease
    | ReleaseLease
    | DropLock
    | BecomePrimary
    | BecomeStandby
)
Step = tuple[LeaseState, tuple[Command, ...]]


class ProtocolBroken(Exception):
    """An input came that this phase cannot have asked for: a programming error."""


class LeaseProtocol:
    """The transitions. Pure: the same arguments give the same result, and nothing else is touched."""

    def __init__(self, config: LeaseConfig, me: Holder) -> None:
        self.config = config
        self.me = me

    def writing_epoch(self, state: LeaseState, now_ns: int) -> int | None:
        """The epoch to write in at this moment, or None when this replica may not write."""
        reigning = state.phase in (Phase.PRIMARY, Phase.RENEWING)
        return state.epoch if reigning and now_ns < self._reign_ends_ns(state) else None

    def reigns(self, state: LeaseState, epoch: int) -> bool:
        """Whether the reign `epoch` has begun and not ended.

        It may go on though nothing can be written at this moment: a renewal that is on its way may extend it.
        """
        return state.phase in (Phase.PRIMARY, Phase.RENEWING) and state.epoch == epoch

    def step(self, state: LeaseState, now_ns: int, given: Input) -> Step:
        """The next state, and commands to carry out in order; only the last one can have an answer.

        That answer must be the next input. Tick, Extended, FencedSeen, StepDown and Stop may come whenever
        the state rests. Raises: ProtocolBroken.
        """
        match state.phase, given:
            case Phase.STANDBY, Tick(eligible):
                if not eligible or now_ns < state.stand_aside_until_ns:
                    return self._stand_by(state, now_ns), ()
                return replace(state, phase=Phase.LOCKING), (TakeLock(),)
            case Phase.LOCKING, LockAnswer(taken):
                if taken:
                    # Whoever had it before did not hang.
                    state = replace(state, suspect_epoch=-1, killed_epoch=-1)
                    return replace(state, phase=Phase.READING_WITH_LOCK), (ReadLease(),)
                return replace(state, phase=Phase.READING_WITHOUT_LOCK), (ReadLease(),)
            case Phase.READING_WITH_LOCK, LeaseSeen(row):
                # The lock is free, so no process is primary: a valid lease only says that one died young.
                return replace(state, phase=Phase.CLAIMING), (ClaimLease(0 if row is None else row.epoch),)
            case Phase.READING_WITHOUT_LOCK, LeaseSeen(row):
                return self._judge_holder(state, now_ns, row)
            case Phase.KILLING, HolderAnswer(gone):
                if not gone:
                    return self._stand_by(state, now_ns), ()
                # Its lock went with it: no need to wait for the next look.
                return replace(state, phase=Phase.LOCKING, killed_epoch=state.suspect_epoch), (TakeLock(),)
            case Phase.CLAIMING, ClaimAnswer(row):
                return self._begin_reign(state, now_ns, row)
            case Phase.PRIMARY, Tick():
                if now_ns >= self._reign_ends_ns(state):
                    return self._end_reign(state, now_ns, "its lease could not be renewed in time")
                if now_ns >= state.renew_at_ns:
                    return replace(state, phase=Phase.RENEWING), (RenewLease(state.epoch),)
                return self._reign(state), ()
            case Phase.RENEWING, RenewAnswer(expires_ns):
                if expires_ns is None:
                    return self._end_reign(state, now_ns, "its lease has moved on")
                return self._extend(state, expires_ns), ()
            case Phase.RENEWING, StoreFailed():
                return self._reign(replace(state, renew_at_ns=now_ns + self.config.check_ns)), ()
            case Phase.READING_WITH_LOCK, StoreFailed():
                return self._stand_by(state, now_ns), (DropLock(),)
            case Phase.CLAIMING, StoreFailed():
                # Leave the others time for a try, and to see that the lock is not held for ever.
                waiting = replace(self._stand_by(state, now_ns), look_at_ns=now_ns + self.config.ttl_ns)
                return waiting, (DropLock(),)
            case ((Phase.READING_WITHOUT_LOCK | Phase.KILLING), StoreFailed()):
                return self._stand_by(state, now_ns), ()
            case Phase.PRIMARY, Extended(epoch, expires_ns) if epoch == state.epoch:
                return self._extend(state, max(expires_ns, state.expires_ns)), ()
            case Phase.PRIMARY, FencedSeen(epoch) if epoch == state.epoch:
                return self._end_reign(state, now_ns, "a later epoch has begun")
            case Phase.PRIMARY, StepDown():
                ended, commands = self._end_reign(state, now_ns, "it was asked to step down")
                aside = replace(ended, stand_aside_until_ns=now_ns + self.config.stand_aside_ns)
                return aside, (*commands, ReleaseLease(state.epoch))
            case Phase.STANDBY, StepDown():
                return replace(state, stand_aside_until_ns=now_ns + self.config.stand_aside_ns), ()
            case Phase.PRIMARY, Stop():
                ended, commands = self._end_reign(state, now_ns, "it is stopping")
                return replace(ended, phase=Phase.STOPPED), (*commands, ReleaseLease(state.epoch))
            case Phase.STANDBY, Stop():
                return replace(state, phase=Phase.STOPPED), ()
            case phase, (Tick() | Extended() | FencedSeen() | StepDown() | Stop()) if phase in RESTING:
                return state, ()
        raise ProtocolBroken(f"{type(given).__name__} cannot come while {state.phase.value}")

    def _judge_holder(self, state: LeaseState, now_ns: int, row: LeaseRow | None) -> Step:
        """Somebody else holds the lock: fine while its lease is valid, otherwise it hangs."""
        this_boot = row is not None and row.holder.boot_id == self.me.boot_id
        if row is not None and this_boot and now_ns < row.expires_monotonic_ns:
            calm = self._stand_by(replace(state, suspect_epoch=-1), now_ns)
            return replace(calm, look_at_ns=min(calm.look_at_ns, row.expires_monotonic_ns)), ()
        epoch = 0 if row is None else row.epoch
        if state.suspect_epoch != epoch:
            state = replace(state, suspect_epoch=epoch, suspect_since_ns=now_ns)
        named = row is not None and this_boot and row.expires_monotonic_ns != 0 and row.holder != self.me
        # Whoever has the lock should be about to claim; unless it hangs there.
        if now_ns - state.suspect_since_ns >= self.config.patience_ns:
            return replace(state, phase=Phase.KILLING, suspect_since_ns=now_ns), (KillLockHolders(epoch),)
        if row is not None and named and state.killed_epoch != epoch:
            return replace(state, phase=Phase.KILLING), (KillHolder(row),)
        return self._stand_by(state, now_ns), ()

    def _begin_reign(self, state: LeaseState, now_ns: int, row: LeaseRow | None) -> Step:
        if row is None:
            return self._stand_by(state, now_ns), (DropLock(),)
        reigning = replace(state, epoch=row.epoch, suspect_epoch=-1, killed_epoch=-1)
        reigning = self._extend(reigning, row.expires_monotonic_ns)
        if now_ns >= self._reign_ends_ns(reigning):
            return self._stand_by(replace(reigning, epoch=0), now_ns), (DropLock(), ReleaseLease(row.epoch))
        return reigning, (BecomePrimary(row.epoch),)

    def _end_reign(self, state: LeaseState, now_ns: int, reason: str) -> Step:
        over = self._stand_by(replace(state, epoch=0, expires_ns=0), now_ns)
        # The lock goes before anything that needs the store, which may be why the reign ends.
        return over, (BecomeStandby(state.epoch, reason), DropLock())

    def _extend(self, state: LeaseState, expires_ns: int) -> LeaseState:
        renew_at_ns = expires_ns - self.config.ttl_ns + self.config.renew_ns
        return self._reign(replace(state, expires_ns=expires_ns, renew_at_ns=renew_at_ns))

    def _reign(self, state: LeaseState) -> LeaseState:
        look_at_ns = min(state.renew_at_ns, self._reign_ends_ns(state))
        return replace(state, phase=Phase.PRIMARY, look_at_ns=look_at_ns)

    def _stand_by(self, state: LeaseState, now_ns: int) -> LeaseState:
        return replace(state, phase=Phase.STANDBY, look_at_ns=now_ns + self.config.check_ns)

    def left_ns(self, state: LeaseState, now_ns: int) -> int:
        """Nanoseconds until the reign ends in its own eyes, at least one."""
        return max(1, self._reign_ends_ns(state) - now_ns)

    def _reign_ends_ns(self, state: LeaseState) -> int:
        return state.expires_ns - self.config.margin_ns


# --- the runner --------------------------------------------------------------------------------------------


class LeaseStore(Protocol):
    """What the lease needs of the store. Each may raise StoreError; StoreIOFailed ends the process."""

    def lease(self) -> LeaseRow | None:
        """The lease as committed, read without any lock."""

    def claim_lease(self, holder: Holder, *, expected_epoch: int, ttl_ns: int) -> LeaseRow | None:
        """Begin reign expected_epoch + 1 if the lease is at expected_epoch; None if it is not."""

    def renew_lease(self, *, epoch: int, holder: str, ttl_ns: int, limit_ns: int | None = None) -> int | None:
        """Move the expiry of a valid lease; the new one, or None if it is not valid any more. limit_ns: how
        long this may wait for others that write."""

    def release_lease(self, *, epoch: int, holder: str) -> bool:
        """Mark the lease as given back; False if it had ended already."""


class KernelLock(Protocol):
    """The file lock that dies with its process."""

    def take(self) -> bool:
        """Try to take it, without waiting, in order to claim the lease."""

    def settle(self) -> None:
        """The claim succeeded: keep it as a primary does."""

    def drop(self) -> None:
        """Free it, if it is held."""

    def intact(self) -> bool:
        """It is held, on the file that others would lock."""


class Executioner(Protocol):
    """Ends hung processes. Both check that it is still the right process, and return True once it is gone."""

    def kill_holder(self, holder: Holder, still_hung: Callable[[], bool]) -> bool:
        """Kill the primary named by the lease. still_hung is asked right before."""

    def kill_lock_holders(self, still_hung: Callable[[], bool]) -> bool:
        """Kill whoever holds the kernel lock. still_hung is asked right before."""


class RoleListener(Protocol):
    """Told of each change of role, in order, in the keeper's thread: must return at once."""

    def primary(self, epoch: int) -> None:
        """This replica is the primary of `epoch`."""

    def standby(self, reason: str) -> None:
        """This replica is not the primary any more."""


class LeaseKeeper:
    """Carries the protocol out in a thread of its own. Made by `server.standby.role.keep_role`.

    It is the `Reign` that `LogWriter` asks for: `writing_epoch`, `lease_ttl_ns`, `extended`, `fenced`.
    eligible: asked before each attempt; a replica that has not caught up should not become primary.
    end_process: ends the process after an I/O error of the store or a broken invariant; must not return.
    """

    def __init__(
        self,
        store: LeaseStore,
        lock: KernelLock,
        executioner: Executioner,
        me: Holder,
        listener: RoleListener,
        *,
        config: LeaseConfig | None = None,
        eligible: Callable[[], bool] = lambda: True,
        end_process: Callable[[BaseException], NoReturn],
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._store = store
        self._lock = lock
        self._executioner = executioner
        self._listener = listener
        self._eligible = eligible
        self._end_process = end_process
        self._clock_ns = clock_ns
        self._protocol = LeaseProtocol(config or LeaseConfig(), me)
        self._state = LeaseState()
        self._fenced_epoch = 0
        self._problem = ""
        self._inbox: deque[Input] = deque()
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)

    # --- for the owner -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to follow, and to claim the lease when it is free."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Give the lease back if it is held and end the thread. False if it has not ended in time.

        Stop the `LogWriter` first: what it still had queued would be refused.
        """
        if self._thread.ident is None:
            return True
        self._put(Stop())
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def step_down(self, timeout_s: float = 2.0) -> bool:
        """Give the lease to another replica and stand aside for a while. True once this one is no primary.

        With no other eligible replica, this one takes the lease back after standing aside.
        """
        self._put(StepDown())
        with self._condition:
            return self._condition.wait_for(
                lambda: (
                    self._state.phase is Phase.STOPPED or self._state.stand_aside_until_ns > self._clock_ns()
                ),
                timeout=timeout_s,
            )

    def is_primary(self) -> bool:
        """This replica may write at this moment."""
        return self.writing_epoch() is not None

    def reigns(self, epoch: int) -> bool:
        """The reign `epoch` of this replica has begun and not ended, whether or not it may write just now."""
        return self._protocol.reigns(self._state, epoch)

    def lease(self) -> LeaseRow | None:
        """The lease as any replica sees it, for status: who is primary now. Raises: StoreError."""
        return self._store.lease()

    # --- for the log's writer ----------------------------------------------------------------------------

    @property
    def lease_ttl_ns(self) -> int:
        """How far an append may move the expiry of the lease."""
        return self._protocol.config.ttl_ns

    def writing_epoch(self) -> int | None:
        """The epoch to write in, or None. Never a reign that was seen expired or fenced. Costs no I/O."""
        epoch = self._protocol.writing_epoch(self._state, self._clock_ns())
        return None if epoch is None or epoch == self._fenced_epoch else epoch

    def extended(self, epoch: int, expires_monotonic_ns: int) -> None:
        """An append renewed the lease in its own transaction."""
        self._put(Extended(epoch, expires_monotonic_ns))

    def fenced(self, epoch: int) -> None:
        """An append was fenced: no more writing in this epoch, from this moment on."""
        self._fenced_epoch = epoch
        self._put(FencedSeen(epoch))

    # --- the keeper's thread -----------------------------------------------------------------------------

    def _put(self, given: Input) -> None:
        with self._condition:
            self._inbox.append(given)
            self._condition.notify_all()

    def _run(self) -> None:
        try:
            self._keep_until_stopped()
        except BaseException as broken:
            self._end_process(broken)
        self._lock.drop()

    def _keep_until_stopped(self) -> None:
        while self._state.phase is not Phase.STOPPED:
            given: Input | None = self._next_input()
            while given is not None:
                state, commands = self._protocol.step(self._state, self._clock_ns(), given)
                with self._condition:
                    self._state = state
                    self._condition.notify_all()
                given = None
                for command in commands:
                    given = self._carry_out(command)

    def _next_input(self) -> Input:
        with self._condition:
            while not self._inbox:
                wait_ns = self._state.look_at_ns - self._clock_ns()
                if wait_ns <= 0:
                    return Tick(self._eligible())
                self._condition.wait(wait_ns / 1e9)
            return self._inbox.popleft()

    def _carry_out(self, command: Command) -> Input | None:
        try:
            answer = self._answer(command)
            if isinstance(command, ClaimLease | RenewLease):
                self._report("")
            return answer
        except StoreIOFailed as failure:
            self._end_process(failure)
        except StoreError as error:
            self._report(f"{type(command).__name__} failed: {error}")
            return None if isinstance(command, ReleaseLease) else StoreFailed()

    def _report(self, problem: str) -> None:
        """Log a problem of the lease once, however often it is met."""
        if problem and problem != self._problem:
            logger.warning("the lease cannot be kept: %s", problem)
        elif self._problem and not problem:
            logger.info("the lease can be kept again")
        self._problem = problem

    def _answer(self, command: Command) -> Input | None:
        protocol = self._protocol
        match command:
            case TakeLock():
                return LockAnswer(self._lock.take())
            case ReadLease():
                return LeaseSeen(self._store.lease())
            case KillHolder(row):
                return HolderAnswer(
                    self._executioner.kill_holder(row.holder, lambda: self._store.lease() == row)
                )
            case KillLockHolders(epoch):
                return HolderAnswer(
                    self._executioner.kill_lock_holders(lambda: _epoch_of(self._store.lease()) == epoch)
                )
            case ClaimLease(expected_epoch):
                return ClaimAnswer(
                    self._store.claim_lease(
                        protocol.me, expected_epoch=expected_epoch, ttl_ns=protocol.config.ttl_ns
                    )
                )
            case RenewLease(epoch):
                if not self._lock.intact():
                    return RenewAnswer(None)
                return RenewAnswer(
                    self._store.renew_lease(
                        epoch=epoch,
                        holder=protocol.me.name,
                        ttl_ns=protocol.config.ttl_ns,
                        # This thread must be back when the reign ends, to free the lock before others come
                        # for a hung holder.
                        limit_ns=protocol.left_ns(self._state, self._clock_ns()),
                    )
                )
            case ReleaseLease(epoch):
                self._store.release_lease(epoch=epoch, holder=protocol.me.name)
            case DropLock():
                self._lock.drop()
            case BecomePrimary(epoch):
                self._lock.settle()
                logger.info("this replica is the primary of epoch %d", epoch)
                self._listener.primary(epoch)
            case BecomeStandby(epoch, reason):
                logger.info("the reign of epoch %d is over: %s", epoch, reason)
                self._listener.standby(reason)
        return None


def _epoch_of(row: LeaseRow | None) -> int:
    return 0 if row is None else row.epoch
