"""One life of a replica: what its threads do, as turns around the real decisions.

The keeper carries out `LeaseProtocol`, the writer `Appending`, the tail `Following`, as `LeaseKeeper`,
`LogWriter` and `Tailer` do in threads; the service answers as `CatalogueService` does. Each turn is short;
anything may happen before the next one: the process dies, freezes, or its clock is wrong.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from server.catalogue.appending import (
    Acknowledge,
    Announce,
    EndProcess,
    LogWriterConfig,
    Refuse,
    TellExtended,
    TellFenced,
    Write,
    gave_up,
)
from server.catalogue.errors import StoreDamaged, StoreError, StoreIOFailed
from server.catalogue.store import Appended, Commit, Head, NewEvent
from server.errors import BudgetSpent, NotThePrimary, ReplicaNotReady
from server.standby.lease import (
    RESTING,
    BecomePrimary,
    BecomeStandby,
    ClaimAnswer,
    ClaimLease,
    Command,
    DropLock,
    Extended,
    FencedSeen,
    Holder,
    HolderAnswer,
    Input,
    KillHolder,
    KillLockHolders,
    LeaseRow,
    LeaseSeen,
    LeaseState,
    LockAnswer,
    ReadLease,
    ReleaseLease,
    RenewAnswer,
    RenewLease,
    StoreFailed,
    TakeLock,
    Tick,
)
from tests.simulation.clock import MS, US, Action, S
from tests.simulation.invariants import Row

if TYPE_CHECKING:
    from tests.simulation.simulation import World

POLL_NS = 20 * MS
RETRY_NS = 50 * MS
WRITER = LogWriterConfig(group_events_max=8, queue_events_max=64)
Reply = Callable[[Any], None]


class Ticket:
    """A caller's wait for its append, as `Future` is to `LogWriter`."""

    __slots__ = ("ended", "running", "tell", "withdrawn")

    def __init__(self, tell: Reply) -> None:
        self.tell = tell
        self.running = self.withdrawn = self.ended = False

    def set_running_or_notify_cancel(self) -> bool:
        """See `Caller`."""
        self.running = not self.withdrawn
        return self.running

    def end(self, answer: Appended | StoreError) -> None:
        """The append has an outcome."""
        if not self.ended:
            self.ended = True
            self.tell(answer)

    def expire(self) -> None:
        """The caller's time is over."""
        if not self.ended:
            self.withdrawn = not self.running
            self.end(gave_up(taken_back=self.withdrawn))


class Process:
    """name: of the replica, the same in all its lives. skew_ns: how wrong its monotonic clock is."""

    def __init__(
        self, world: World, name: str, holder: Holder, applied: int, products: dict[int, int], skew_ns: int
    ) -> None:
        self.world = world
        self.name = name
        self.holder = holder
        self.skew_ns = skew_ns
        self.alive = True
        self.paused_until_ns = 0
        self.calls: dict[int, Action] = {}
        # The keeper.
        self.protocol = world.parts.protocol(world.lease_config, holder)
        self.state = LeaseState(look_at_ns=self.monotonic_ns())
        self._inbox: deque[Input] = deque()
        self._awaiting = False
        self._fenced_epoch = 0
        self._look_at_ns = 0
        self._timer = 0
        self._row_as_stored: LeaseRow | None = None
        self._row_as_seen: LeaseRow | None = None
        # The role, as the rest of the replica knows it.
        self.writable = False
        self._roles: deque[int] = deque()
        self._announcing = False
        # The writer.
        self.appending = world.parts.appending(WRITER)
        self._writing = False
        # The tail and the engine behind it.
        self.following = world.parts.following(applied, 64)
        self.applied = applied
        self.products = products
        self.serving = False
        self._looking = False
        self._waiters: list[tuple[int, Callable[[bool], None]]] = []

    def start(self) -> None:
        """Begin to follow and to compete for the lease."""
        self._rest()
        self._poll()

    # --- time --------------------------------------------------------------------------------------------

    def monotonic_ns(self) -> int:
        """The clock of its machine, as this process reads it."""
        return self.world.monotonic_ns(self.name) + self.skew_ns

    def after(self, delay_ns: int, action: Action) -> None:
        """Do this so much later, if alive by then; a frozen process does it once it wakes up."""
        self.world.clock.after(delay_ns, lambda: self._turn(action))

    def _turn(self, action: Action) -> None:
        if self.alive:
            clock = self.world.clock
            if self.paused_until_ns > clock.now_ns:
                clock.after(self.paused_until_ns - clock.now_ns, lambda: self._turn(action))
            else:
                action()

    # --- the keeper --------------------------------------------------------------------------------------

    def writing_epoch(self) -> int | None:
        """As `LeaseKeeper.writing_epoch`."""
        epoch = self.protocol.writing_epoch(self.state, self.monotonic_ns())
        return None if epoch is None or epoch == self._fenced_epoch else epoch

    def reigns(self, epoch: int) -> bool:
        """As `LeaseKeeper.reigns`."""
        return self.protocol.reigns(self.state, epoch)

    def tell_keeper(self, given: Input) -> None:
        """Put it into the keeper's inbox."""
        self._inbox.append(given)
        if not self._awaiting:
            self.after(5 * US, self._next_input)

    def _next_input(self) -> None:
        if self._inbox and not self._awaiting:
            self._step(self._inbox.popleft())

    def _rest(self) -> None:
        """Wait for the time that the state names; a timer that is set for earlier will do."""
        look_at_ns = self.state.look_at_ns
        if self._timer and self._look_at_ns <= look_at_ns:
            return
        self._timer += 1
        self._look_at_ns = look_at_ns
        timer = self._timer
        self.after(max(0, look_at_ns - self.monotonic_ns()), lambda: self._tick(timer))

    def _tick(self, timer: int) -> None:
        if timer != self._timer:
            return
        self._timer_spent()
        if self._awaiting:
            return
        if self.monotonic_ns() < self.state.look_at_ns:
            self._rest()
        else:
            self._step(Tick(self.serving and self.following.caught_up))

    def _timer_spent(self) -> None:
        self._look_at_ns = 1 << 62

    def _step(self, given: Input) -> None:
        self.state, commands = self.protocol.step(self.state, self.monotonic_ns(), given)
        self._awaiting = self.state.phase not in RESTING
        for command in commands:
            self._carry_out(command)
            if not self.alive:
                return
        if not self._awaiting:
            self._rest()
            if self._inbox:
                self.after(5 * US, self._next_input)

    def _carry_out(self, command: Command) -> None:
        world, lock = self.world, self.world.lock
        ttl_ns = world.lease_config.ttl_ns
        match command:
            case TakeLock():
                world.at_lock(self, lambda: LockAnswer(lock.take(self)), LockAnswer(False), self._step)
            case DropLock():
                world.at_lock(self, lambda: lock.drop(self), None, None)
            case ReadLease():
                self._read_lease()
            case KillHolder():
                row = self._row_as_stored
                assert row is not None
                world.at_lock(self, lambda: HolderAnswer(lock.kill_holder(row)), StoreFailed(), self._step)
            case KillLockHolders(epoch):
                world.at_lock(
                    self,
                    lambda: HolderAnswer(lock.kill_lock_holders(self, epoch)),
                    StoreFailed(),
                    self._step,
                )
            case ClaimLease(epoch):
                self._write_lease(
                    lambda now_ns: world.tables.claim(self.holder, epoch, ttl_ns, now_ns), self._claimed
                )
            case RenewLease(epoch):
                world.at_lock(
                    self, lambda: lock.intact(self), False, lambda intact: self._renew(epoch, intact=intact)
                )
            case ReleaseLease(epoch):
                world.store.write(
                    self, lambda now_ns: world.tables.release(epoch, self.holder), lambda answer: None
                )
            case BecomePrimary(epoch):
                lock.settle(self)
                world.witness.announced(epoch, self.holder)
                world.witness.note(world.clock.now_ns, self.holder.name, "primary of", epoch)
                self._announce(epoch)
            case BecomeStandby(_, reason):
                world.witness.note(world.clock.now_ns, self.holder.name, "standby:", reason)
                self._announce(0)

    def _read_lease(self) -> None:
        world = self.world

        def seen(answer: tuple[LeaseRow | None, int] | StoreError) -> None:
            if isinstance(answer, StoreError):
                self._step(StoreFailed())
                return
            row, statement_ns = answer
            if row is not None and row != self._row_as_stored:
                own_ns = self.monotonic_ns()
                expires_ns = world.store.expiry_ns(row.expires_monotonic_ns, statement_ns, own_ns)
                self._row_as_seen = replace(row, expires_monotonic_ns=expires_ns)
            self._row_as_stored = row
            self._step(LeaseSeen(self._row_as_seen if row is not None else None))

        world.store.read(self, lambda: (world.tables.lease, world.store.now_ns(self)), seen)

    def _write_lease(self, body: Callable[[int], Any], done: Callable[[Any, int], None]) -> None:
        sent_ns = self.monotonic_ns()

        def answered(answer: Any) -> None:
            if isinstance(answer, StoreIOFailed):
                self.world.end(self, "its disk failed")
            elif isinstance(answer, StoreError):
                self._step(StoreFailed())
            else:
                done(answer, sent_ns)

        self.world.store.write(self, body, answered)

    def _renew(self, epoch: int, *, intact: bool) -> None:
        if not intact:
            self._step(RenewAnswer(None))
            return
        tables, ttl_ns = self.world.tables, self.world.lease_config.ttl_ns
        self._write_lease(lambda now_ns: tables.renew(epoch, self.holder, ttl_ns, now_ns), self._renewed)

    def _claimed(self, row: LeaseRow | None, sent_ns: int) -> None:
        if row is not None:
            row = replace(row, expires_monotonic_ns=self._own_expiry_ns(row.expires_monotonic_ns, sent_ns))
        self._step(ClaimAnswer(row))

    def _renewed(self, expires_ns: int | None, sent_ns: int) -> None:
        self._step(RenewAnswer(None if expires_ns is None else self._own_expiry_ns(expires_ns, sent_ns)))

    def _own_expiry_ns(self, expires_ns: int, sent_ns: int) -> int:
        return self.world.store.expiry_ns(expires_ns, expires_ns - self.world.lease_config.ttl_ns, sent_ns)

    # --- the role ----------------------------------------------------------------------------------------

    def _announce(self, epoch: int) -> None:
        self._roles.append(epoch)
        if not self._announcing:
            self._announcing = True
            self.after(50 * US, self._next_role)

    def _next_role(self) -> None:
        if not self._roles:
            self._announcing = False
            return
        epoch = self._roles.popleft()
        if epoch:
            self._catch_up_as(epoch)
        else:
            self._set_writable(False)
            self._next_role()

    def _catch_up_as(self, epoch: int) -> None:
        if not self.reigns(epoch):
            self._next_role()
            return

        def caught_up(there: bool) -> None:
            if not there:
                self._catch_up_as(epoch)
                return
            self._set_writable(True)
            self._next_role()

        def read(head: Head | StoreError) -> None:
            if isinstance(head, StoreError):
                self.after(RETRY_NS, lambda: self._catch_up_as(epoch))
            else:
                self.wait_applied(head.sequence, 1 * S, caught_up)

        self.world.store.read(self, self.world.tables.head, read)

    def _set_writable(self, writable: bool) -> None:
        if writable != self.writable:
            self.writable = writable
            self.world.publish_health(self)

    # --- the writer --------------------------------------------------------------------------------------

    def _pump(self) -> None:
        if not self._writing and not self.appending.idle:
            self._carry_out_appends(self.appending.begin(self._now_s(), self.writing_epoch()))

    def _now_s(self) -> float:
        return self.monotonic_ns() / S

    def _carry_out_appends(self, commands: list[Any]) -> None:
        for command in commands:
            if not self.alive:
                return
            match command:
                case Write(epoch, batches):
                    self._append(epoch, [waiting.events for waiting in batches])
                case Acknowledge(waiting, appended):
                    waiting.caller.end(appended)
                case Refuse(waiting, error):
                    waiting.caller.end(error)
                case TellExtended(epoch, expires_ns):
                    self.tell_keeper(Extended(epoch, expires_ns))
                case TellFenced(epoch):
                    self.world.witness.fenced += 1
                    self._fenced_epoch = epoch
                    self.tell_keeper(FencedSeen(epoch))
                case Announce():
                    self._look()
                case EndProcess():
                    self.world.end(self, "its disk failed")

    def _append(self, epoch: int, batches: list[Any]) -> None:
        world, sent_ns = self.world, self.monotonic_ns()
        self._writing = True

        def written(outcome: Commit | StoreError) -> None:
            self._writing = False
            if isinstance(outcome, Commit) and outcome.lease_expires_ns is not None:
                own_ns = self._own_expiry_ns(outcome.lease_expires_ns, sent_ns)
                outcome = replace(outcome, lease_expires_ns=own_ns)
            self._carry_out_appends(self.appending.settle(outcome, self._now_s()))
            self.after(20 * US, self._pump)

        ttl_ns = world.lease_config.ttl_ns
        world.store.write(
            self, lambda now_ns: world.tables.append(batches, epoch, ttl_ns, now_ns), written, urgent=False
        )

    # --- the tail ----------------------------------------------------------------------------------------

    def _poll(self) -> None:
        self._look()
        self.after(POLL_NS, self._poll)

    def _look(self) -> None:
        if not self._looking:
            self._looking = True
            tables = self.world.tables
            self.world.store.read(self, lambda: (tables.version, tables.head()), self._saw)

    def _saw(self, answer: tuple[int, Head] | StoreError) -> None:
        if isinstance(answer, StoreError):
            self._lost_the_log()
            return
        version, head = answer
        if not self.following.due(version):
            self._looked(version)
            return
        try:
            self.following.saw(head, self.following.applied)
        except StoreDamaged as damaged:
            self.world.end(self, f"it no longer follows the log: {damaged}")
            return
        self._read_next(version)

    def _lost_the_log(self) -> None:
        self.following.lost()
        self.after(RETRY_NS, self._look_again)

    def _look_again(self) -> None:
        self._looking = False
        self._look()

    def _looked(self, version: int) -> None:
        self.following.looked(version)
        self._looking = False
        self.serving = True

    def _read_next(self, version: int) -> None:
        world, wanted = self.world, self.following.wanted()
        if wanted is None:
            self._looked(version)
            return

        def read(rows: list[Row] | StoreError) -> None:
            try:
                if isinstance(rows, StoreError):
                    raise rows
                self.following.read(wanted, len(rows))
            except StoreDamaged as damaged:
                world.end(self, f"it no longer follows the log: {damaged}")
                return
            except StoreError:
                self._lost_the_log()
                return
            self._deliver(wanted.first, rows)
            self.following.delivered(wanted, len(rows), self.applied)
            self._wake()
            self._read_next(version)

        world.store.read(
            self, lambda: world.store.rows(self, wanted.first, wanted.last, wanted.events_max), read
        )

    def _deliver(self, first: int, rows: list[Row]) -> None:
        self.world.witness.delivered(self.world.tables.log, self.applied, first, rows)
        for sequence, row in enumerate(rows, start=first):
            self.products[row[2]] = sequence
        if rows:
            self.applied = first + len(rows) - 1

    def _wake(self) -> None:
        applied, waiters = self.following.applied, self._waiters
        if waiters:
            ready = [tell for sequence, tell in waiters if sequence <= applied]
            self._waiters = [waiter for waiter in waiters if waiter[0] > applied]
            for tell in ready:
                tell(True)

    def wait_applied(self, sequence: int, timeout_ns: int, tell: Callable[[bool], None]) -> None:
        """As `Tailer.wait_applied`."""
        if self.following.applied >= sequence:
            tell(True)
            return
        waiter = (sequence, tell)
        self._waiters.append(waiter)

        def expire() -> None:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                tell(False)

        self.after(max(0, timeout_ns), expire)

    # --- the service -------------------------------------------------------------------------------------

    def apply(self, events: list[NewEvent], timeout_ns: int, reply: Reply) -> None:
        """As `CatalogueService.apply`."""
        epoch = self.writing_epoch()
        if not self.writable or epoch is None:
            reply(NotThePrimary(""))
            return
        ends_ns = self.monotonic_ns() + timeout_ns

        def appended(outcome: Appended | StoreError) -> None:
            if isinstance(outcome, StoreError):
                reply(outcome)
                return
            self.wait_applied(
                outcome.sequence,
                ends_ns - self.monotonic_ns(),
                lambda there: reply(outcome if there else BudgetSpent("durable, but not visible here yet")),
            )

        ticket = Ticket(appended)
        try:
            self.appending.submit(
                events, caller=ticket, now_s=self._now_s(), timeout_s=timeout_ns / S, epoch=epoch
            )
        except StoreError as error:
            reply(error)
            return
        self.after(timeout_ns, ticket.expire)
        self.after(30 * US, self._pump)

    def get(self, product: int, min_sequence: int, timeout_ns: int, reply: Reply) -> None:
        """As `CatalogueService.get`: the applied sequence, and the event that made the product what it is."""
        if not self.serving:
            reply(ReplicaNotReady("this replica is still starting"))
            return

        def answer(there: bool) -> None:
            if there:
                reply((self.applied, self.products.get(product, 0)))
            else:
                reply(ReplicaNotReady(f"sequence {min_sequence} has not been applied here"))

        self.wait_applied(min_sequence, timeout_ns - 2 * MS, answer)
