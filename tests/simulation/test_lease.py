"""The lease under crashes, pauses, lost replies and wrong clocks: the real transitions in a simulated world.

Every run is a function of its seed. One that fails names it: `Simulation(seed, faults).run(steps)` replays.
The last tests plant known mistakes, to show that the invariants would notice them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TypeVar

import pytest

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
    LeaseConfig,
    LeaseProtocol,
    LeaseRow,
    LeaseSeen,
    LeaseState,
    LockAnswer,
    Phase,
    ReadLease,
    ReleaseLease,
    RenewAnswer,
    RenewLease,
    Step,
    StepDown,
    StoreFailed,
    TakeLock,
    Tick,
)

CONFIG = LeaseConfig(ttl_ms=500)
MS = 1_000_000
REPLICAS = 3
ANYBODY = Holder("x/0", 0, 0, "x")
T = TypeVar("T")


class InvariantBroken(AssertionError):
    """Something that must never happen has happened."""


class StoreDown(Exception):
    """The simulated store gave no answer."""


@dataclass(frozen=True)
class Faults:
    """Chances per step, and how far clocks may be apart."""

    crash: float = 0.004
    pause: float = 0.006
    long_pause: float = 0.2
    pause_in_transaction: float = 0.2
    store_error: float = 0.02
    lost_reply: float = 0.02
    step_down: float = 0.002
    reboot: float = 0.0005
    disk_wait: float = 0.3
    replace_lock_file: float = 0.0
    clock_skew_ms: int = 0


GENTLE = Faults(crash=0, pause=0, store_error=0, lost_reply=0, step_down=0, reboot=0)
ROUGH = Faults()
# The lock file is deleted under the replicas and their clocks disagree: only the epoch is left to keep order.
LAWLESS = Faults(replace_lock_file=0.03, clock_skew_ms=1500)


@dataclass(eq=False)
class Process:
    """One life of a replica."""

    holder: Holder
    protocol: LeaseProtocol
    skew_ns: int
    state: LeaseState = field(default_factory=LeaseState)
    commands: list[Command] = field(default_factory=list)
    given: Input | None = None
    lock_file: int | None = None
    paused_until_ns: int = 0
    announced_epoch: int = 0
    # An append on its way to the store: (epoch it believes in, event).
    append: tuple[int, int] | None = None


class World:
    """The store and the machine that the replicas share. Subclasses plant mistakes."""

    def __init__(self) -> None:
        self.now_ns = 10_000 * MS
        self.boot = 0
        self.lease: LeaseRow | None = None
        self.log: list[tuple[int, int]] = []
        self.lock_file = 0
        self.lock_owners: dict[int, Process] = {}
        # Those who hold the lock only to claim the lease.
        self.claimers: dict[int, Process] = {}
        self.transaction_of: Process | None = None
        self.claims: dict[int, Holder] = {}
        self.acknowledged: dict[int, int] = {}

    def protocol(self, me: Holder) -> LeaseProtocol:
        return LeaseProtocol(CONFIG, me)

    def unlock(self, process: Process) -> None:
        for locks in (self.lock_owners, self.claimers):
            for lock_file, owner in list(locks.items()):
                if owner is process:
                    del locks[lock_file]

    def writable(self, process: Process) -> None:
        if self.transaction_of not in (None, process):
            raise StoreDown

    def claim(self, process: Process, expected_epoch: int) -> LeaseRow | None:
        self.writable(process)
        if (0 if self.lease is None else self.lease.epoch) != expected_epoch:
            return None
        return self.begin_reign(process, expected_epoch + 1)

    def begin_reign(self, process: Process, epoch: int) -> LeaseRow:
        now_ns = self.now_ns + process.skew_ns
        if epoch in self.claims:
            raise InvariantBroken(f"epoch {epoch} has two holders")
        if epoch <= (0 if self.lease is None else self.lease.epoch):
            raise InvariantBroken(f"the epoch fell to {epoch}")
        self.claims[epoch] = process.holder
        self.lease = LeaseRow(epoch, process.holder, now_ns + CONFIG.ttl_ns)
        return self.lease

    def renew(self, process: Process, epoch: int) -> int | None:
        self.writable(process)
        now_ns = self.now_ns + process.skew_ns
        lease = self.lease
        if lease is None or lease.epoch != epoch or lease.holder != process.holder:
            return None
        if lease.expires_monotonic_ns <= now_ns:
            return None
        self.lease = replace(lease, expires_monotonic_ns=now_ns + CONFIG.ttl_ns)
        return self.lease.expires_monotonic_ns

    def append(self, process: Process, epoch: int, event: int) -> int | None:
        """The event's sequence once committed, or None if fenced."""
        self.writable(process)
        if self.lease is None or self.lease.epoch != epoch:
            return None
        return self.write(epoch, event)

    def write(self, epoch: int, event: int) -> int:
        for sequence, (_, known) in enumerate(self.log, start=1):
            if known == event:
                return sequence
        if self.log and epoch < self.log[-1][0]:
            raise InvariantBroken(f"epoch {epoch} wrote after epoch {self.log[-1][0]}")
        self.log.append((epoch, event))
        return len(self.log)

    def acknowledge(self, event: int, sequence: int) -> None:
        self.acknowledged[event] = sequence


class Simulation:
    """Replicas of one machine, a store, and a source of trouble."""

    def __init__(
        self, seed: int, faults: Faults, make_world: Callable[[], World] = World, only_one_writer: bool = True
    ) -> None:
        self.random = random.Random(seed)
        self.faults = faults
        self.world = make_world()
        self.only_one_writer = only_one_writer and faults.replace_lock_file == 0
        self.pids = 100
        self.replicas: list[Process | None] = [self.boot_process(i) for i in range(REPLICAS)]
        self.next_event = 0
        self.unknown: list[int] = []
        self.fenced = 0
        self.killed: list[Holder] = []

    def boot_process(self, replica: int) -> Process:
        self.pids += 1
        boot_id = f"boot-{self.world.boot}"
        holder = Holder(f"r{replica}/{self.pids}", self.pids, self.world.now_ns, boot_id)
        skew_ns = self.random.randint(-1, 1) * self.faults.clock_skew_ms * MS
        process = Process(holder, self.world.protocol(holder), skew_ns)
        process.state = replace(process.state, look_at_ns=self.world.now_ns + skew_ns)
        return process

    # --- one step ----------------------------------------------------------------------------------------

    def run(self, steps: int, step_ms: tuple[int, ...] = (1, 2, 5, 20)) -> None:
        for _ in range(steps):
            self.world.now_ns += self.random.choice(step_ms) * MS
            self.trouble()
            replica = self.random.randrange(REPLICAS)
            process = self.replicas[replica]
            if process is None:
                if self.random.random() < 0.1:
                    self.replicas[replica] = self.boot_process(replica)
            elif process.paused_until_ns <= self.world.now_ns:
                if self.world.transaction_of is process:
                    self.world.transaction_of = None
                self.act(process)
            self.check()

    def trouble(self) -> None:
        chance, faults, world = self.random.random, self.faults, self.world
        process = self.random.choice(self.replicas)
        if process is not None:
            if chance() < faults.crash:
                self.kill(process)
            elif chance() < faults.pause:
                longest_ms = 12_000 if chance() < faults.long_pause else 2000
                process.paused_until_ns = world.now_ns + self.random.randint(1, longest_ms) * MS
                if world.transaction_of is None and chance() < faults.pause_in_transaction:
                    world.transaction_of = process
            elif chance() < faults.step_down and process.state.phase in RESTING and not process.commands:
                process.given = process.given or StepDown()
        if chance() < faults.reboot:
            for running in self.replicas:
                if running is not None:
                    self.kill(running)
            world.boot += 1
            world.now_ns = self.random.randint(0, 20_000) * MS
        if chance() < faults.replace_lock_file:
            world.lock_file += 1

    def kill(self, process: Process) -> None:
        self.replicas[self.replicas.index(process)] = None
        if process.append is not None:
            self.unknown.append(process.append[1])
        if self.world.transaction_of is process:
            self.world.transaction_of = None
        self.world.unlock(process)

    def act(self, process: Process) -> None:
        """One small thing that this process does next; anything may happen before its next one."""
        now_ns = self.world.now_ns + process.skew_ns
        if process.append is not None and self.random.random() < 0.5:
            self.finish_append(process)
        elif process.commands:
            self.carry_out(process, process.commands.pop(0))
        elif process.given is not None:
            given, process.given = process.given, None
            process.state, commands = process.protocol.step(process.state, now_ns, given)
            process.commands = list(commands)
        elif process.append is None and self.random.random() < 0.5:
            epoch = process.protocol.writing_epoch(process.state, now_ns)
            if epoch is not None:
                process.append = (epoch, self.next_to_write())
        elif now_ns >= process.state.look_at_ns:
            process.given = Tick()

    def next_to_write(self) -> int:
        """Unknown outcomes are sent again, under the same id, to whoever is primary."""
        if self.unknown and self.random.random() < 0.5:
            return self.unknown.pop(self.random.randrange(len(self.unknown)))
        self.next_event += 1
        return self.next_event

    def finish_append(self, process: Process) -> None:
        assert process.append is not None
        (epoch, event), process.append = process.append, None
        try:
            sequence = self.reply(lambda: self.world.append(process, epoch, event))
        except StoreDown:
            self.unknown.append(event)
            return
        resting = process.state.phase in RESTING and not process.commands and process.given is None
        if sequence is None:
            self.fenced += 1
            if resting:
                process.given = FencedSeen(epoch)
            return
        self.world.acknowledge(event, sequence)
        expires_ns = self.world.renew(process, epoch)
        if resting and expires_ns is not None:
            process.given = Extended(epoch, expires_ns)

    def reply(self, request: Callable[[], T]) -> T:
        """Let the store fail before the request, or after it: then it happened, but nobody hears of it."""
        if self.random.random() < self.faults.store_error:
            raise StoreDown
        answer = request()
        if self.random.random() < self.faults.lost_reply:
            raise StoreDown
        return answer

    def carry_out(self, process: Process, command: Command) -> None:
        try:
            answer = self.answer(process, command)
        except StoreDown:
            answer = None if isinstance(command, ReleaseLease) else StoreFailed()
        if self.replicas.count(process):
            process.given = answer or process.given

    def answer(self, process: Process, command: Command) -> Input | None:
        world = self.world
        match command:
            case TakeLock():
                owner = world.lock_owners.setdefault(world.lock_file, process)
                if owner is process:
                    process.lock_file = world.lock_file
                    world.claimers[world.lock_file] = process
                return LockAnswer(owner is process)
            case DropLock():
                world.unlock(process)
                process.lock_file = None
            case ReadLease():
                return self.reply(lambda: LeaseSeen(world.lease))
            case KillHolder(row):
                waits_for_disk = self.random.random() < self.faults.disk_wait
                if world.lease != row or waits_for_disk or world.claimers.get(world.lock_file):
                    return HolderAnswer(False)
                named = world.lock_owners.get(world.lock_file)
                if named is not None and named.holder == row.holder:
                    self.killed.append(named.holder)
                    self.kill(named)
                return HolderAnswer(True)
            case KillLockHolders(epoch):
                sitter = world.lock_owners.get(world.lock_file)
                if (0 if world.lease is None else world.lease.epoch) != epoch or sitter is process:
                    return HolderAnswer(False)
                if sitter is not None:
                    self.killed.append(sitter.holder)
                    self.kill(sitter)
                return HolderAnswer(True)
            case ClaimLease(expected_epoch):
                return self.reply(lambda: ClaimAnswer(world.claim(process, expected_epoch)))
            case RenewLease(epoch):
                if process.lock_file != world.lock_file:
                    return RenewAnswer(None)
                return self.reply(lambda: RenewAnswer(world.renew(process, epoch)))
            case ReleaseLease(epoch):
                world.writable(process)
                if world.lease is not None and world.lease.epoch == epoch:
                    world.lease = replace(world.lease, expires_monotonic_ns=0)
            case BecomePrimary(epoch):
                if epoch <= process.announced_epoch or self.world.claims.get(epoch) != process.holder:
                    raise InvariantBroken(f"{process.holder.name} announced an epoch that is not its own")
                process.announced_epoch = epoch
                for lock_file, claimer in list(world.claimers.items()):
                    if claimer is process:
                        del world.claimers[lock_file]
            case BecomeStandby():
                pass
        return None

    # --- what must hold ----------------------------------------------------------------------------------

    def check(self) -> None:
        world = self.world
        if self.only_one_writer:
            writers = [
                process.holder.name
                for process in self.replicas
                if process is not None
                and process.protocol.writing_epoch(process.state, world.now_ns + process.skew_ns) is not None
            ]
            if len(writers) > 1:
                raise InvariantBroken(f"{' and '.join(writers)} may both write")

    def check_history(self) -> None:
        log = self.world.log
        events = [event for _, event in log]
        if len(set(events)) != len(events):
            raise InvariantBroken("an event was written twice")
        if any(later < earlier for (earlier, _), (later, _) in pairwise(log)):
            raise InvariantBroken("epochs fall in the log")
        for event, sequence in self.world.acknowledged.items():
            if not (sequence <= len(log) and log[sequence - 1][1] == event):
                raise InvariantBroken(f"event {event} was acknowledged at {sequence}, but is not there")

    def primaries(self) -> list[Process]:
        return [
            p
            for p in self.replicas
            if p is not None
            and p.protocol.writing_epoch(p.state, self.world.now_ns + p.skew_ns) is not None
            and self.world.lease is not None
            and p.state.epoch == self.world.lease.epoch
        ]


def simulate(
    seed: int, faults: Faults, make_world: Callable[[], World] = World, steps: int = 4000
) -> Simulation:
    simulation = Simulation(seed, faults, make_world)
    try:
        simulation.run(steps)
        simulation.check_history()
    except InvariantBroken as broken:
        broken.add_note(f"replay: Simulation({seed}, {faults})")
        raise
    return simulation


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("faults", [ROUGH, LAWLESS], ids=["rough", "lawless"])
def test_no_trouble_makes_two_writers_of_one_epoch_or_loses_an_acknowledged_event(
    seed: int, faults: Faults
) -> None:
    simulation = simulate(seed, faults)
    assert len(simulation.world.claims) > 3, "the run was too calm to show anything"
    assert len(simulation.world.acknowledged) > 50, "the run was too rough to show anything"


def test_without_trouble_the_first_primary_stays() -> None:
    simulation = simulate(1, GENTLE)
    assert list(simulation.world.claims) == [1]
    assert len(simulation.primaries()) == 1


@pytest.mark.parametrize("seed", range(8))
def test_once_the_trouble_ends_there_is_a_primary_again(seed: int) -> None:
    simulation = simulate(seed, ROUGH, steps=1500)
    simulation.faults = GENTLE
    ends_ns = simulation.world.now_ns + 3 * CONFIG.patience_ns
    while simulation.world.now_ns < ends_ns:
        simulation.run(1)
    assert len(simulation.primaries()) == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_store_that_takes_no_writes_ends_the_reign_but_nobody_is_killed_for_it(seed: int) -> None:
    simulation = Simulation(seed, GENTLE)
    simulation.run(500, step_ms=(1,))
    assert len(simulation.primaries()) == 1
    # Everybody finds the write lock taken, for thirty leases.
    simulation.world.transaction_of = Process(ANYBODY, LeaseProtocol(CONFIG, ANYBODY), 0)
    simulation.run(30 * CONFIG.ttl_ms, step_ms=(1,))
    assert simulation.primaries() == []
    simulation.world.transaction_of = None
    simulation.run(2 * CONFIG.ttl_ms, step_ms=(1,))
    assert len(simulation.primaries()) == 1
    assert simulation.killed == []


def test_appends_of_an_ended_reign_reach_the_store_late_and_are_fenced() -> None:
    assert sum(simulate(seed, LAWLESS).fenced for seed in range(6)) > 0


# --- planted mistakes ------------------------------------------------------------------------------------


class AppendsWithoutFence(World):
    def append(self, process: Process, epoch: int, event: int) -> int | None:
        self.writable(process)
        return self.write(epoch, event)


class AppendsTwice(World):
    def write(self, epoch: int, event: int) -> int:
        self.log.append((epoch, event))
        return len(self.log)


class AcknowledgesBeforeTheCommit(World):
    def append(self, process: Process, epoch: int, event: int) -> int | None:
        self.acknowledge(event, len(self.log) + 1)
        return super().append(process, epoch, event)


class ClaimsWithoutComparing(World):
    def claim(self, process: Process, expected_epoch: int) -> LeaseRow | None:
        self.writable(process)
        return self.begin_reign(process, expected_epoch + 1)


class ClaimsWithoutLock(World):
    class Protocol(LeaseProtocol):
        def step(self, state: LeaseState, now_ns: int, given: Input) -> Step:
            if state.phase is Phase.READING_WITHOUT_LOCK and isinstance(given, LeaseSeen):
                state = replace(state, phase=Phase.READING_WITH_LOCK)
            return super().step(state, now_ns, given)

    def protocol(self, me: Holder) -> LeaseProtocol:
        return self.Protocol(CONFIG, me)


class WritesAfterDroppingTheLock(World):
    class Protocol(LeaseProtocol):
        def writing_epoch(self, state: LeaseState, now_ns: int) -> int | None:
            return self.last_epoch or None

        last_epoch = 0

        def step(self, state: LeaseState, now_ns: int, given: Input) -> Step:
            self.last_epoch = state.epoch or self.last_epoch
            return super().step(state, now_ns, given)

    def protocol(self, me: Holder) -> LeaseProtocol:
        return self.Protocol(CONFIG, me)


@pytest.mark.parametrize(
    ("make_world", "faults"),
    [
        (AppendsWithoutFence, LAWLESS),
        (AppendsTwice, ROUGH),
        (AcknowledgesBeforeTheCommit, ROUGH),
        (ClaimsWithoutComparing, LAWLESS),
        (ClaimsWithoutLock, ROUGH),
        (WritesAfterDroppingTheLock, ROUGH),
    ],
)
def test_a_planted_mistake_is_caught(make_world: Callable[[], World], faults: Faults) -> None:
    with pytest.raises(InvariantBroken):
        for seed in range(60):
            simulate(seed, faults, make_world, steps=2000)
