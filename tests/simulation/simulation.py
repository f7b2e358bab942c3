"""One run: the world of a seed, made, troubled, calmed down and judged."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from muster.client.sessions import Session, min_sequence_for
from muster.client.writes import Write
from server.catalogue.appending import Appending
from server.catalogue.following import Following
from server.catalogue.store import NewEvent
from server.standby.lease import Holder, LeaseConfig, LeaseProtocol
from tests.simulation.clock import MS, US, Clock, S
from tests.simulation.faults import MIXES, Faults, Trouble, scaled
from tests.simulation.invariants import InvariantBroken, Witness
from tests.simulation.locks import Lock
from tests.simulation.network import STORE, Network
from tests.simulation.process import Process
from tests.simulation.shopper import Shopper
from tests.simulation.statuses import BROKEN, LATE
from tests.simulation.stores import DatabaseServer, LocalFile, Store
from tests.simulation.tables import Tables

REPLICAS = ("a", "b", "c")
SHOPPERS = ("x", "y", "z")
LEASE = LeaseConfig(ttl_ms=500)
_KEEPALIVE_NS = 350 * MS
_SESSION_TIMEOUT_NS = 1000 * MS
# A lease without a holder that can be told from a claimer is waited for patiently, perhaps twice.
_SETTLE_NS = 3 * LEASE.patience_ns + 20 * S


def least_sequence(session: Session) -> int:
    """What a read of this session asks for, as the client does."""
    return min_sequence_for(session, 0)


def same_events(events: list[NewEvent]) -> list[NewEvent]:
    """What is sent again after a sending that failed."""
    return events


@dataclass(frozen=True)
class Parts:
    """The code under test, and what stands for the database and the kernel. Mistakes replace some of it."""

    protocol: Callable[[LeaseConfig, Holder], LeaseProtocol] = LeaseProtocol
    appending: type[Appending[Any]] = Appending
    following: type[Following] = Following
    write: type[Write] = Write
    session: type[Session] = Session
    least: Callable[[Session], int] = least_sequence
    resend: Callable[[list[NewEvent]], list[NewEvent]] = same_events
    tables: type[Tables] = Tables
    local: type[LocalFile] = LocalFile
    server: type[DatabaseServer] = DatabaseServer
    lock: type[Lock] = Lock


class World:
    """Replicas, clients, a store and the network between them. Subclasses: on how many machines."""

    name = ""
    remote = False

    def __init__(self, seed: int, faults: Faults, parts: Parts) -> None:
        self.draw = random.Random(seed)
        self.parts = parts
        self.faults = scaled(faults, self.draw)
        self.lease_config = LEASE
        self.names = list(REPLICAS)
        self.clock = Clock()
        self.clock.now_ns = self.draw.randint(10, 1000) * S
        self.witness = Witness()
        self.network = Network(self.clock, self.draw)
        self.tables = parts.tables(self.witness)
        self.store = self._make_store()
        self.lock = parts.lock(
            self.store, end=self._end_holder, find=self._find_holder, waits_for_disk=self._waits_for_disk
        )
        self.lock.spares_claimers = not self.remote
        self.wall_offset_ns = dict.fromkeys(REPLICAS, 0)
        self.generations: dict[str, tuple[int, dict[int, int]]] = {}
        self.replicas: dict[str, Process | None] = dict.fromkeys(REPLICAS)
        self.health_changes = 0
        self.closing = False
        self._lives = 0
        self._calls = 0
        self.shoppers = [Shopper(self, name) for name in SHOPPERS]
        for name in REPLICAS:
            self._boot(name)
        for shopper in self.shoppers:
            shopper.start()
        self.trouble = Trouble(self, self.faults)

    # --- what differs between worlds ---------------------------------------------------------------------

    def _make_store(self) -> Store:
        raise NotImplementedError

    def monotonic_ns(self, name: str) -> int:
        """The monotonic clock of the machine that the replica runs on."""
        raise NotImplementedError

    def boot_id(self) -> str:
        """As in `Holder`."""
        raise NotImplementedError

    def at_lock(
        self,
        process: Process,
        action: Callable[[], Any],
        if_lost: Any,
        tell: Callable[[Any], None] | None,
    ) -> None:
        """Do something with the lock and tell the process the outcome."""
        raise NotImplementedError

    def _end_holder(self, victim: Process) -> None:
        """It hangs."""
        raise NotImplementedError

    def _find_holder(self, holder: Holder) -> Process | None:
        """The process, if it may be ended for its lease."""
        raise NotImplementedError

    def _leave(self, process: Process) -> None:
        """The process is dead: its lock and its transaction go."""
        raise NotImplementedError

    def cut_off(self, name: str, for_ns: int) -> None:
        """The replica cannot reach the store for so long."""

    def lose_power(self, *, kept: bool) -> None:
        """A machine loses its power, or reboots. kept: the disk had everything already."""
        raise NotImplementedError

    def restart_store(self) -> None:
        """The store restarts by itself."""

    # --- lives -------------------------------------------------------------------------------------------

    def processes(self) -> list[Process]:
        """Those that live."""
        return [process for process in self.replicas.values() if process is not None]

    def _boot(self, name: str) -> None:
        if self.replicas[name] is not None:
            return
        self._lives += 1
        holder = Holder(f"{name}/{self._lives}", self._lives, self._lives, self.boot_id())
        applied, products = self.generations.get(name, (0, {}))
        skew_ns = self.draw.randint(-1, 1) * self.faults.skew_ms * MS
        process = Process(self, name, holder, applied, dict(products), skew_ns)
        self.replicas[name] = process
        process.start()
        self.publish_health(process)

    def kill(self, process: Process) -> None:
        """The process ends at once; somebody starts it again by and by."""
        if not process.alive:
            return
        process.alive = False
        self.replicas[process.name] = None
        self._leave(process)
        for broken in list(process.calls.values()):
            broken()
        self.clock.after(self.draw.randint(50, 1500) * MS, lambda: self._boot(process.name))

    def end(self, process: Process, reason: str) -> None:
        """The process ends itself."""
        self.witness.note(self.clock.now_ns, process.holder.name, "ends:", reason)
        self.kill(process)

    def _waits_for_disk(self) -> bool:
        return not self.trouble.ended and self.draw.random() < self.faults.disk_wait

    # --- calls -------------------------------------------------------------------------------------------

    def publish_health(self, process: Process) -> None:
        """Tell the clients that are connected."""
        self.health_changes += 1
        change, writable, name = self.health_changes, process.writable, process.name
        for shopper in self.shoppers:
            self.network.send(
                name,
                shopper.name,
                partial(shopper.saw_health, name, change, writable),
                partial(shopper.broke, name),
            )

    def call(
        self,
        source: str,
        name: str,
        invoke: Callable[[Process, Callable[[Any], None]], None],
        tell: Callable[[Any], None],
        timeout_ns: int,
    ) -> None:
        """One gRPC call. tell: given the answer once, or the status that gRPC ends it with."""
        self._calls += 1
        number, settled = self._calls, [False]

        def settle(answer: Any) -> None:
            if not settled[0]:
                settled[0] = True
                tell(answer)

        def broken() -> None:
            settle(BROKEN)

        def arrive() -> None:
            process = self.replicas[name]
            if process is None:
                self.network.send(name, source, broken, broken)
                return

            def reply(answer: Any) -> None:
                process.calls.pop(number, None)
                self.network.send(name, source, lambda: settle(answer), broken, twice=True)

            process.calls[number] = lambda: self.clock.after(self.network.delay_ns(), broken)
            process.after(0, lambda: invoke(process, reply))

        def keepalive() -> None:
            if settled[0]:
                return
            process = self.replicas[name]
            if (
                process is None
                or process.paused_until_ns > self.clock.now_ns
                or not self.network.connected(source, name)
            ):
                broken()
            else:
                self.clock.after(_KEEPALIVE_NS, keepalive)

        self.network.send(source, name, arrive, broken)
        if timeout_ns > _KEEPALIVE_NS:
            self.clock.after(_KEEPALIVE_NS, keepalive)
        self.clock.after(max(0, timeout_ns), lambda: settle(LATE))

    # --- what must hold ----------------------------------------------------------------------------------

    def writers(self) -> list[str]:
        """Who believes that it may write."""
        return [
            process.holder.name
            for process in self.replicas.values()
            if process is not None and process.state.epoch and process.writing_epoch() is not None
        ]

    def settled(self) -> bool:
        """One primary whose epoch is the lease's, every write settled, every replica at the log's end."""
        running = self.processes()
        head = len(self.tables.log)
        return (
            len(running) == len(REPLICAS)
            and all(shopper.settled for shopper in self.shoppers)
            and all(process.following.applied == head for process in running)
            and [p.state.epoch for p in running if p.writable and p.writing_epoch() is not None]
            == [self.tables.epoch]
        )


class OneMachine(World):
    """Replicas of one machine around one file: a kernel lock, one monotonic clock, and SIGKILL."""

    name = "one machine"

    def __init__(self, seed: int, faults: Faults, parts: Parts) -> None:
        self._booted_ns = 0
        self._boots = 1
        super().__init__(seed, faults, parts)

    def _make_store(self) -> Store:
        return self.parts.local(self.clock, self.draw, self.tables, self.network)

    def monotonic_ns(self, name: str) -> int:
        """See `World.monotonic_ns`."""
        return self.clock.now_ns - self._booted_ns

    def boot_id(self) -> str:
        """See `World.boot_id`."""
        return f"boot-{self._boots}"

    def at_lock(
        self,
        process: Process,
        action: Callable[[], Any],
        if_lost: Any,
        tell: Callable[[Any], None] | None,
    ) -> None:
        """See `World.at_lock`."""

        def act() -> None:
            answer = action()
            if tell is not None:
                process.after(5 * US, lambda: tell(answer))

        # To look a process up and pin it takes a while.
        process.after(int(self.draw.random() * 500) * US, act)

    def _end_holder(self, victim: Process) -> None:
        self.witness.note(self.clock.now_ns, victim.holder.name, "is killed")
        self.kill(victim)

    def _find_holder(self, holder: Holder) -> Process | None:
        owner = self.lock.owner
        return owner if owner is not None and owner.holder == holder else None

    def _leave(self, process: Process) -> None:
        self.lock.drop(process)
        self.store.abort(process)

    def lose_power(self, *, kept: bool) -> None:
        """See `World.lose_power`."""
        for process in self.processes():
            self.kill(process)
        if not kept:
            self.tables.lose_power()
        self._boots += 1
        self._booted_ns = self.clock.now_ns - self.draw.randint(0, 20_000) * MS


class SeveralMachines(World):
    """Each replica on a machine of its own, with a clock of its own, around a database server."""

    name = "several machines"
    remote = True

    def __init__(self, seed: int, faults: Faults, parts: Parts) -> None:
        draw = random.Random(seed)
        self._booted_ns = {name: -draw.randint(0, 100_000) * S for name in REPLICAS}
        super().__init__(seed, faults, parts)

    def _make_store(self) -> Store:
        return self.parts.server(self.clock, self.draw, self.tables, self.network)

    def monotonic_ns(self, name: str) -> int:
        """See `World.monotonic_ns`."""
        return self.clock.now_ns - self._booted_ns[name]

    def boot_id(self) -> str:
        """Expiries are told on each process's own clock, so all of them share it."""
        return "server"

    def at_lock(
        self,
        process: Process,
        action: Callable[[], Any],
        if_lost: Any,
        tell: Callable[[Any], None] | None,
    ) -> None:
        """See `World.at_lock`. A session whose answers do not come ends on the server by and by."""

        def lost() -> None:
            self.clock.after(_SESSION_TIMEOUT_NS, lambda: self._end_session(process))
            if tell is not None:
                process.after(_SESSION_TIMEOUT_NS + 100 * MS, lambda: tell(if_lost))

        def arrive() -> None:
            answer = action()
            if tell is not None:
                self.network.send(STORE, process.name, lambda: process.after(0, lambda: tell(answer)), lost)

        self.network.send(process.name, STORE, arrive, lost)

    def _end_session(self, process: Process) -> None:
        self.lock.drop(process)
        self.store.abort(process)

    def _end_holder(self, victim: Process) -> None:
        self.witness.note(self.clock.now_ns, victim.holder.name, "loses its sessions")
        self._end_session(victim)

    def _find_holder(self, holder: Holder) -> Process | None:
        return next((process for process in self.processes() if process.holder == holder), None)

    def _leave(self, process: Process) -> None:
        def gone() -> None:
            self._end_session(process)

        self.network.send(process.name, STORE, gone, lambda: self.clock.after(_SESSION_TIMEOUT_NS, gone))

    def cut_off(self, name: str, for_ns: int) -> None:
        """See `World.cut_off`."""
        process = self.replicas[name]

        def find_out() -> None:
            if process is not None and not self.network.connected(name, STORE):
                self._end_session(process)

        self.clock.after(_SESSION_TIMEOUT_NS, find_out)

    def lose_power(self, *, kept: bool) -> None:
        """One machine of a replica."""
        process = self.replicas[self.draw.choice(self.names)]
        if process is not None:
            self.kill(process)
            self._booted_ns[process.name] = self.clock.now_ns

    def restart_store(self) -> None:
        """See `World.restart_store`."""
        for process in self.processes():
            self.lock.drop(process)
        self.store.restart()
        self.tables.lose_power()


WORLDS: dict[str, type[World]] = {"one": OneMachine, "several": SeveralMachines}


@dataclass(frozen=True)
class Case:
    """What a run is a function of. world: of WORLDS. faults: of MIXES."""

    world: str
    faults: str
    seed: int
    steps: int

    def __str__(self) -> str:
        return f"--world {self.world} --faults {self.faults} --seed {self.seed} --steps {self.steps}"


class Simulation:
    """A run of a case. steps: done so far; each is one action: a message arrives, a thread takes a turn."""

    def __init__(self, case: Case, parts: Parts | None = None) -> None:
        self.case = case
        self.steps = 0
        state = random.getstate()
        # The client's code draws its first replica by itself.
        random.seed(case.seed)
        try:
            self.world = WORLDS[case.world](case.seed, MIXES[case.faults], parts or Parts())
        finally:
            random.setstate(state)
        self._strict = case.world == "one" and not MIXES[case.faults].lock_file

    def run(self) -> Simulation:
        """Do all steps under faults, then let the world calm down. Raises: InvariantBroken, with a replay."""
        try:
            self._do(lambda: self.steps >= self.case.steps)
            self._calm_down()
        except Exception as broken:
            self._explain(broken)
            raise
        return self

    def _do(self, over: Callable[[], bool]) -> None:
        step, world, strict = self.world.clock.step, self.world, self._strict
        while not over():
            self.steps += 1
            step()
            if strict:
                world.witness.may_write(world.writers())

    def _calm_down(self) -> None:
        world = self.world
        world.trouble.end()
        world.closing = True
        ends_ns = world.clock.now_ns + _SETTLE_NS
        self._do(lambda: world.clock.now_ns >= ends_ns or (self.steps % 50 == 0 and world.settled()))
        if not world.settled():
            raise InvariantBroken(
                f"{_SETTLE_NS / S:.0f} s after the last fault: primaries {world.writers()}, unsettled "
                f"{[shopper.name for shopper in world.shoppers if not shopper.settled]}, applied "
                f"{[process.following.applied for process in world.processes()]} of {len(world.tables.log)}"
            )
        world.witness.ended(world.tables.log)

    def _explain(self, broken: Exception) -> None:
        trail = [
            f"  {when_ns / S:.6f} {' '.join(map(str, what))}" for when_ns, what in self.world.witness.trail
        ]
        broken.add_note("\n".join(["the last events:", *trail]))
        broken.add_note(f"at step {self.steps}; replay: pytest tests/simulation {self.case}")
