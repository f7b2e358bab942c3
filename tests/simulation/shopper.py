"""A client: one write or read at a time, through the real `Write`, `Read`, `Session` and budgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from muster.client import ClientSettings, errors
from muster.client.budgets import HedgeBudget, HedgeDelay, RetryBudget
from muster.client.reads import Attempt, Read, Replicas
from muster.client.writes import UNKNOWN, Write
from server.catalogue.store import Appended, NewEvent
from tests.simulation.clock import MS, S
from tests.simulation.statuses import BROKEN, LATE, Failed, failure_of

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.simulation import World

SETTINGS = ClientSettings()
PRODUCTS = 8
_PROBE_NS = 150 * MS


class Shopper:
    """Goes on for ever: a write or a read, a pause, the next. A write of unknown outcome is sent again."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.draw = world.draw
        self.settled = True
        self._numbers = 0
        # What it knows of health, and since which change of it.
        self._serving: dict[str, bool] = dict.fromkeys(world.names, False)
        self._told: dict[str, int] = dict.fromkeys(world.names, 0)
        self._turn = 0
        # The write under way.
        self._events: list[NewEvent] = []
        self._write: Write | None = None
        self._ends_ns = 0
        self._sent_s = 0.0
        self._may_be_written = False
        self._waiting_for_primary: Callable[[], None] | None = None
        # What it has seen.
        self._session = world.parts.session(monotonic_reads=True)
        self._floor = 0
        self._own: dict[int, int] = {}
        self._seen_epoch = 0
        self._replicas = Replicas(world.names)
        self._retries = RetryBudget(SETTINGS.retry_tokens_max, SETTINGS.retry_token_ratio)
        self._hedges = HedgeBudget(SETTINGS.hedge_share, SETTINGS.hedge_burst)
        self._hedge_delay = HedgeDelay(SETTINGS.hedge_after_ms)

    def start(self) -> None:
        """Connect to every replica and begin."""
        for name in self.world.names:
            self._probe(name)
        self._pause()

    def _pause(self) -> None:
        self.world.clock.after(self.draw.randint(1, 40) * MS, self._next)

    def _next(self) -> None:
        if not self.settled:
            self._begin_write()
        elif self.world.closing:
            return
        elif self.draw.random() < 0.6:
            self._new_write()
        else:
            self._begin_read()

    def _now_s(self) -> float:
        return self.world.clock.now_ns / S

    # --- health ------------------------------------------------------------------------------------------

    def saw_health(self, name: str, change: int, writable: bool) -> None:
        """A replica says whether it takes writes; an older word that comes later does not count."""
        if change >= self._told[name]:
            self._told[name], self._serving[name] = change, writable
            if writable and self._waiting_for_primary is not None:
                send, self._waiting_for_primary = self._waiting_for_primary, None
                send()

    def _probe(self, name: str) -> None:
        """Ask a replica for its health, until it answers."""
        process = self.world.replicas[name]
        reachable = self.world.network.connected(self.name, name)
        if process is not None and reachable and process.paused_until_ns <= self.world.clock.now_ns:
            self.saw_health(name, self.world.health_changes, process.writable)
        else:
            self.world.clock.after(_PROBE_NS, lambda: self._probe(name))

    def broke(self, name: str) -> None:
        """The connection to a replica is gone; it is made anew."""
        self._serving[name] = False
        self.world.clock.after(_PROBE_NS, lambda: self._probe(name))

    # --- writes ------------------------------------------------------------------------------------------

    def _new_write(self) -> None:
        self._numbers += 1
        count = self.draw.choice((1, 1, 1, 2, 3))
        self._events = [
            NewEvent(f"{self.name}-{self._numbers}.{place}", str(self.draw.randrange(PRODUCTS)).encode())
            for place in range(count)
        ]
        self.world.witness.sent([event.event_id for event in self._events])
        self._may_be_written = False
        self._sent_s = self._now_s()
        self._begin_write()

    def _begin_write(self) -> None:
        budget_ms = self.draw.choice((60, 500, 3000))
        self._write = self.world.parts.write(
            SETTINGS, budget_ms, jitter=self.draw.random, may_be_written=self._may_be_written
        )
        self._ends_ns = self.world.clock.now_ns + budget_ms * MS
        self.settled = False
        self._send()

    def _send(self) -> None:
        names = [name for name, serving in self._serving.items() if serving]
        if names:
            self._turn += 1
            self._send_to(names[self._turn % len(names)])
            return
        write = self._write
        self._waiting_for_primary = self._send

        def give_up() -> None:
            if self._write is write and self._waiting_for_primary is not None:
                self._waiting_for_primary = None
                self._write_ended(write, "", LATE, self._seen_epoch)

        self.world.clock.after(max(0, self._ends_ns - self.world.clock.now_ns), give_up)

    def _send_to(self, name: str) -> None:
        write, seen_epoch = self._write, self._seen_epoch
        left_ns = self._ends_ns - self.world.clock.now_ns
        # As much of the time as is left, which is what the server is told too.
        self.world.call(
            self.name,
            name,
            lambda process, reply: process.apply(self._events, left_ns, reply),
            lambda answer: self._write_ended(write, name, answer, seen_epoch),
            left_ns,
        )

    def _write_ended(self, write: Write | None, name: str, answer: Any, seen_epoch: int) -> None:
        if write is None or write is not self._write:
            return
        if isinstance(answer, Appended):
            self._acknowledged(answer, seen_epoch)
            return
        error = answer if isinstance(answer, Failed) else failure_of(answer)
        if error is BROKEN:
            self.broke(name)
        try:
            pause_s = write.failed(error, (self._ends_ns - self.world.clock.now_ns) / S)
        except errors.MusterError as ended:
            self._write = None
            self._may_be_written = ended.outcome == UNKNOWN
            if not self._may_be_written:
                self.world.witness.refuse([e.event_id for e in self._events], self.world.tables.places)
                self._record("write", self._sent_s, "refused", outcome=ended.outcome)
                self.settled = True
            self._pause()
            return
        self.world.witness.resent += 1
        self._events = self.world.parts.resend(self._events)
        self.world.clock.after(int(pause_s * S), self._send_again(write))

    def _send_again(self, write: Write) -> Callable[[], None]:
        def send() -> None:
            if self._write is write:
                self._send()

        return send

    def _acknowledged(self, appended: Appended, seen_epoch: int) -> None:
        world = self.world
        names = [event.event_id for event in self._events]
        world.witness.acknowledge(world.tables, names, appended.sequence, appended.epoch, seen_epoch)
        self._record(
            "write",
            self._sent_s,
            "OK",
            sequence=appended.sequence,
            epoch=appended.epoch,
            duplicates=appended.duplicates,
        )
        self._write = None
        self.settled = True
        self._session.wrote(appended.sequence)
        self._floor = max(self._floor, appended.sequence)
        self._seen_epoch = max(self._seen_epoch, appended.epoch)
        for event in self._events:
            product = int(event.payload)
            self._own[product] = max(self._own.get(product, 0), world.tables.places[event.event_id])
        self._pause()

    def _record(self, kind: str, sent_s: float, status: str, **fields: object) -> None:
        """Keep what a drill would have kept of a call. Of writes those of one event, as a drill sends."""
        if kind == "write":
            if len(self._events) > 1:
                return
            fields["event_id"] = self._events[0].event_id
        self.world.witness.records.append(
            {
                "kind": kind,
                "session": self.name,
                "sent_s": sent_s,
                "done_s": self._now_s(),
                "status": status,
                **fields,
            }
        )

    # --- reads -------------------------------------------------------------------------------------------

    def _begin_read(self) -> None:
        budget_ms = self.draw.choice((60.0, 250.0))
        read = Read(
            method="get",
            budget_ms=budget_ms,
            deadline_s=self._now_s() + budget_ms / 1000,
            replicas=self._replicas,
            settings=SETTINGS,
            retries=self._retries,
            hedges=self._hedges,
            hedge_delay=self._hedge_delay,
            jitter=self.draw.random,
        )
        product = self.draw.randrange(PRODUCTS)
        least = self.world.parts.least(self._session)
        self._ask(read, read.begin(self._now_s()), product, least)
        self._wake_later(read, product, least)

    def _ask(self, read: Read, attempt: Attempt, product: int, least: int) -> None:
        timeout_ns = max(0, int((attempt.ends_s - self._now_s()) * S))

        def invoke(process: Process, reply: Callable[[Any], None]) -> None:
            process.get(product, least, timeout_ns, reply)

        self.world.call(
            self.name,
            attempt.replica.endpoint,
            invoke,
            lambda answer: self._answered(read, attempt, product, least, answer),
            timeout_ns,
        )

    def _wake_later(self, read: Read, product: int, least: int) -> None:
        wait_ns = max(1, int((read.wait_until_s() - self._now_s()) * S) + 1)

        def wake() -> None:
            if read.over:
                return
            again = read.wake(self._now_s())
            if again is not None:
                self._ask(read, again, product, least)
            if read.over:
                self._pause()
            else:
                self._wake_later(read, product, least)

        self.world.clock.after(wait_ns, wake)

    def _answered(self, read: Read, attempt: Attempt, product: int, least: int, answer: Any) -> None:
        if read.over:
            return
        if isinstance(answer, tuple):
            sent_s = read.deadline_s - read.budget_ms / 1000
            read.answered(attempt, self._now_s())
            applied, place = answer
            self.world.witness.answered(
                self.name, applied=applied, seen=self._floor, place=place, wrote=self._own.get(product, 0)
            )
            self._record("read", sent_s, "OK", applied_sequence=applied)
            self._session.read(applied)
            self._floor = max(self._floor, applied)
            self._pause()
            return
        error = answer if isinstance(answer, Failed) else failure_of(answer)
        if error is BROKEN:
            self.broke(attempt.replica.endpoint)
        again = read.failed(attempt, self._now_s(), error)
        if again is not None:
            self._ask(read, again, product, least)
        if read.over:
            self._pause()
