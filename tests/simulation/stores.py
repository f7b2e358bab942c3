"""How a replica reaches the tables: the file of one machine, or a server over the network.

Both let one transaction write at a time. It is granted the write lock, stages its change, and commits after
the disk has answered; whoever dies in between leaves nothing. Answers come to a continuation, in the process
that asked, which may be dead or frozen by then.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from server.catalogue.errors import (
    DiskFull,
    OutcomeUnknown,
    StoreDamaged,
    StoreError,
    StoreIOFailed,
    StoreUnavailable,
)
from tests.simulation.clock import MS, US, Action, Clock
from tests.simulation.network import STORE, Network
from tests.simulation.tables import Staged, Tables

if TYPE_CHECKING:
    from tests.simulation.process import Process

Done = Callable[[Any], None]
Body = Callable[[int], Staged]
"""A statement: the store's time, in nanoseconds, to what it stages."""

BUSY_NS = 2000 * MS
_IDLE_IN_TRANSACTION_NS = 500 * MS
_CONNECTION_LOST_NS = 500 * MS
_CONNECTION_RESET_NS = MS


class Transaction:
    """One write on its way. committing: its process has sent the COMMIT to a server."""

    __slots__ = ("body", "committing", "done", "over", "process", "staged", "told", "urgent")

    def __init__(self, process: Process, body: Body, done: Done, *, urgent: bool) -> None:
        self.process = process
        self.body = body
        self.done = done
        self.urgent = urgent
        self.committing = self.over = self.told = False
        self.staged: Staged | None = None

    def tell(self, delay_ns: int, answer: object) -> None:
        """Give the process its answer, the first one only."""
        if not self.told:
            self.told = True
            self.process.after(delay_ns, lambda: self.done(answer))


class Store:
    """Transactions over the tables, and the disk below them.

    error: chance that a statement fails before it does anything. lost_reply: that a commit happens and nobody
    hears of it. full, slow: the state of the disk. failing_fsyncs: how many of the next commits fail below.
    unreadable: replicas whose next read of the log finds a hole.
    """

    def __init__(self, clock: Clock, draw: random.Random, tables: Tables, network: Network) -> None:
        self.clock = clock
        self.draw = draw
        self.tables = tables
        self.network = network
        self.error = self.lost_reply = 0.0
        self.full = self.slow = False
        self.failing_fsyncs = 0
        self.unreadable: set[str] = set()
        self._current: Transaction | None = None
        self._waiting: list[Transaction] = []

    @property
    def locked_by(self) -> Process | None:
        """Who holds the write lock."""
        return self._current.process if self._current is not None else None

    def now_ns(self, process: Process) -> int:
        """The clock that leases expire by, as a statement of this process reads it."""
        raise NotImplementedError

    def true_now_ns(self, process: Process) -> int:
        """The same clock, were it right."""
        raise NotImplementedError

    def expiry_ns(self, expires_ns: int, statement_ns: int, own_ns: int) -> int:
        """An expiry by this clock as one on the monotonic clock of the process.

        statement_ns: this clock when the statement ran. own_ns: the clock of the process, when it sent the
        statement for its own lease, so that it never seems longer to its holder, and when the answer came for
        that of another, so that it never seems shorter.
        """
        raise NotImplementedError

    # --- writing -----------------------------------------------------------------------------------------

    def write(self, process: Process, body: Body, done: Done, *, urgent: bool = True) -> None:
        """Run one durable transaction. done: given its answer, or the StoreError."""
        raise NotImplementedError

    def _enter(self, transaction: Transaction) -> None:
        if self._current is None:
            self._grant(transaction)
            return
        self._waiting.append(transaction)
        self.clock.after(BUSY_NS, lambda: self._give_up(transaction))

    def _give_up(self, transaction: Transaction) -> None:
        if transaction in self._waiting:
            self._waiting.remove(transaction)
            self._answer(transaction, StoreUnavailable("the store is locked by another process"))

    def _grant(self, transaction: Transaction) -> None:
        self._current = transaction
        try:
            if self.error and self.draw.random() < self.error:
                raise StoreUnavailable("the store refused")
            if self.full:
                raise DiskFull("the disk is full; nothing was written")
            transaction.staged = transaction.body(self.now_ns(transaction.process))
        except StoreError as error:
            self._free(transaction)
            self._answer(transaction, error)
            return
        self._to_commit(transaction, self._sync_ns())

    def _sync_ns(self) -> int:
        if self.slow:
            return int((50 + self.draw.random() * 250) * MS)
        return int((0.5 + self.draw.random() * 4) * MS)

    def _to_commit(self, transaction: Transaction, delay_ns: int) -> None:
        raise NotImplementedError

    def _commit(self, transaction: Transaction) -> None:
        if transaction.over:
            return
        staged = transaction.staged
        assert staged is not None
        if self.failing_fsyncs:
            # Whether it reached the disk before it failed, nobody can know.
            self.failing_fsyncs -= 1
            if self.draw.random() < 0.5:
                self.tables.apply(staged)
            self._free(transaction)
            self._answer(transaction, StoreIOFailed("fsync failed"))
            return
        self.tables.apply(staged)
        self._free(transaction)
        self._answer(transaction, staged.answer)

    def _free(self, transaction: Transaction) -> None:
        transaction.over = True
        if self._current is not transaction:
            return
        self._current = None
        if self._waiting:
            self._pass_on()

    def _pass_on(self) -> None:
        """The lock is free: one of those that wait gets it."""
        awake = [one for one in self._waiting if self._tries(one.process)]
        for one in self._waiting if not awake else ():
            one.process.after(0, self._try_again(one))
        if awake:
            chosen = awake[int(self.draw.random() * len(awake))]
            # Within a process the lease goes before the log.
            for other in awake:
                if other.process is chosen.process and other.urgent:
                    chosen = other
                    break
            self._waiting.remove(chosen)
            self._grant(chosen)

    def _tries(self, process: Process) -> bool:
        """Whether it takes the lock as soon as that is free; if not, it does so once it wakes up."""
        return True

    def _try_again(self, transaction: Transaction) -> Action:
        def enter() -> None:
            if self._current is None and transaction in self._waiting:
                self._waiting.remove(transaction)
                self._grant(transaction)

        return enter

    def _answer(self, transaction: Transaction, answer: object) -> None:
        raise NotImplementedError

    def abort(self, process: Process) -> None:
        """The process, or its connection, is gone: its transaction rolls back."""
        self._waiting = [one for one in self._waiting if one.process is not process]
        current = self._current
        if current is not None and current.process is process:
            if current.staged is not None:
                self.tables.torn(current.staged)
            self._free(current)

    def restart(self) -> None:
        """The store restarts by itself, where it can."""

    # --- reading -----------------------------------------------------------------------------------------

    def read(self, process: Process, query: Callable[[], Any], done: Done) -> None:
        """Ask without any lock. done: given the answer, or the StoreError."""
        raise NotImplementedError

    def _ask(self, process: Process, query: Callable[[], Any]) -> Any:
        if self.error and self.draw.random() < self.error:
            return StoreUnavailable("the store refused")
        try:
            return query()
        except StoreError as error:
            return error

    def rows(self, process: Process, first: int, last: int, events_max: int) -> Any:
        """Rows of the log as this process reads them. Raises: StoreDamaged where it finds a hole."""
        if process.name in self.unreadable:
            self.unreadable.discard(process.name)
            if self.draw.random() < 0.5:
                return []
            raise StoreDamaged(f"event {first} is missing")
        return self.tables.rows(first, last, events_max)


class LocalFile(Store):
    """SQLite on one machine: a transaction runs in its process, and freezes with it."""

    def now_ns(self, process: Process) -> int:
        """The monotonic clock that the processes of the machine share."""
        return process.monotonic_ns()

    def true_now_ns(self, process: Process) -> int:
        """See `Store.true_now_ns`."""
        return process.monotonic_ns() - process.skew_ns

    def expiry_ns(self, expires_ns: int, statement_ns: int, own_ns: int) -> int:
        """It is the same clock."""
        return expires_ns

    def write(self, process: Process, body: Body, done: Done, *, urgent: bool = True) -> None:
        """See `Store.write`."""
        transaction = Transaction(process, body, done, urgent=urgent)
        process.after(20 * US, lambda: self._enter(transaction))

    def _tries(self, process: Process) -> bool:
        """See `Store._tries`: it polls, and a frozen process does not."""
        return process.paused_until_ns <= self.clock.now_ns

    def _to_commit(self, transaction: Transaction, delay_ns: int) -> None:
        transaction.process.after(delay_ns, lambda: self._commit(transaction))

    def _answer(self, transaction: Transaction, answer: object) -> None:
        # Only a lease's statement may fail after it was done; for an append SQLite knows.
        if self.lost_reply and transaction.urgent and self.draw.random() < self.lost_reply:
            answer = StoreUnavailable("the store gave no answer")
        transaction.tell(20 * US, answer)

    def read(self, process: Process, query: Callable[[], Any], done: Done) -> None:
        """See `Store.read`."""
        process.after(50 * US, lambda: done(self._ask(process, query)))


class DatabaseServer(Store):
    """A server for several machines: each step is a message, and leases expire by the server's clock."""

    def now_ns(self, process: Process) -> int:
        """The server's clock."""
        return self.clock.now_ns

    def true_now_ns(self, process: Process) -> int:
        """See `Store.true_now_ns`."""
        return self.clock.now_ns

    def expiry_ns(self, expires_ns: int, statement_ns: int, own_ns: int) -> int:
        """See `Store.expiry_ns`."""
        return own_ns + expires_ns - statement_ns if expires_ns else 0

    def write(self, process: Process, body: Body, done: Done, *, urgent: bool = True) -> None:
        """See `Store.write`."""
        transaction = Transaction(process, body, done, urgent=urgent)
        self._send(process, lambda: self._enter(transaction), lambda: self._cut_off(transaction))

    def _send(self, process: Process, arrive: Action, lost: Action) -> None:
        self.network.send(process.name, STORE, arrive, lost)

    def _reply(self, process: Process, action: Action, lost: Action) -> None:
        self.network.send(STORE, process.name, lambda: process.after(0, action), lost)

    def _cut_off(self, transaction: Transaction) -> None:
        """The process hears no more of it, and notices: a reset at once, silence after a while."""
        noticed_ns = _CONNECTION_LOST_NS if self.draw.random() < 0.5 else _CONNECTION_RESET_NS
        transaction.tell(noticed_ns, self._broken(transaction))

    def _broken(self, transaction: Transaction) -> StoreError:
        """What a broken connection says of the transaction."""
        if transaction.committing:
            return OutcomeUnknown("the connection to the store was lost during the commit")
        return StoreUnavailable("the connection to the store broke")

    def _to_commit(self, transaction: Transaction, delay_ns: int) -> None:
        # The statement's answer goes to the process, its COMMIT comes back: not if it froze or was cut off.
        process = transaction.process

        def cut_off() -> None:
            self._cut_off(transaction)

        def arrive() -> None:
            self.clock.after(delay_ns, lambda: self._commit(transaction))

        def send_commit() -> None:
            transaction.committing = True
            self._send(process, arrive, cut_off)

        self.clock.after(_IDLE_IN_TRANSACTION_NS, lambda: self._time_out(transaction))
        self._reply(process, send_commit, cut_off)

    def _time_out(self, transaction: Transaction) -> None:
        if not transaction.over:
            self._free(transaction)
            self._cut_off(transaction)

    def _answer(self, transaction: Transaction, answer: object) -> None:
        def lost() -> None:
            self._cut_off(transaction)

        if self.lost_reply and self.draw.random() < self.lost_reply:
            lost()
        else:
            self._reply(transaction.process, lambda: transaction.tell(0, answer), lost)

    def abort(self, process: Process) -> None:
        """See `Store.abort`. The process may live, and notices that its connections are gone."""
        for transaction in [*self._waiting, *([self._current] if self._current else [])]:
            if transaction.process is process:
                self._cut_off(transaction)
        super().abort(process)

    def read(self, process: Process, query: Callable[[], Any], done: Done) -> None:
        """See `Store.read`."""

        def lost() -> None:
            broken = StoreUnavailable("the connection to the store broke")
            process.after(_CONNECTION_LOST_NS, lambda: done(broken))

        def arrive() -> None:
            answer = self._ask(process, query)
            self._reply(process, lambda: done(answer), lost)

        self._send(process, arrive, lost)

    def restart(self) -> None:
        """The server restarts: every transaction rolls back."""
        for transaction in [*self._waiting, *([self._current] if self._current else [])]:
            transaction.over = True
            self._cut_off(transaction)
        self._waiting.clear()
        self._current = None
