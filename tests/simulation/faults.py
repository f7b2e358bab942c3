"""What goes wrong, how often, and how it is done to a world.

Rates are per second of simulated time, over all replicas together; chances are per message or statement.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.standby.lease import StepDown
from tests.simulation.clock import MS, S
from tests.simulation.network import STORE

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.simulation import World


@dataclass(frozen=True)
class Faults:
    """A mix of troubles.

    From crash to store_crash: rates. A power loss leaves what was synced, or everything, as a reboot does.
    error, lost_reply: chances of a statement. lost, repeated, delayed: chances of a message.
    disk_wait: chance that a hung process waits for the disk when somebody is about to kill it.
    skew_ms: how far the monotonic clocks of processes of one machine disagree, which real ones never do.
    """

    crash: float = 0.5
    pause: float = 1.0
    step_down: float = 0.2
    partition: float = 0.8
    generation: float = 1.0
    unreadable: float = 0.3
    failed_fsync: float = 0.1
    full_disk: float = 0.1
    slow_disk: float = 0.2
    clock_step: float = 0.3
    lock_file: float = 0.0
    power_loss: float = 0.1
    store_crash: float = 0.0
    error: float = 0.01
    lost_reply: float = 0.01
    lost: float = 0.01
    repeated: float = 0.05
    delayed: float = 0.02
    disk_wait: float = 0.3
    skew_ms: int = 0

    @property
    def rates(self) -> dict[str, float]:
        """The troubles that come by themselves, and how often."""
        names = (
            "crash",
            "pause",
            "step_down",
            "partition",
            "generation",
            "unreadable",
            "failed_fsync",
            "full_disk",
            "slow_disk",
            "clock_step",
            "lock_file",
            "power_loss",
            "store_crash",
        )
        return {name: getattr(self, name) for name in names if getattr(self, name) > 0}


NONE = Faults(
    crash=0,
    pause=0,
    step_down=0,
    partition=0,
    unreadable=0,
    failed_fsync=0,
    full_disk=0,
    slow_disk=0,
    clock_step=0,
    power_loss=0,
    error=0,
    lost_reply=0,
    lost=0,
    repeated=0,
    delayed=0,
)
ROUGH = Faults()
# The lock file is deleted under the replicas and their clocks disagree: only the epoch is left to keep order.
LAWLESS = Faults(lock_file=1.5, skew_ms=1500, pause=1.5)
# Several machines: partitions and restarts of the server instead of a shared kernel.
REMOTE = Faults(partition=1.5, store_crash=0.1, failed_fsync=0, disk_wait=0, lost=0.002)

MIXES = {"none": NONE, "rough": ROUGH, "lawless": LAWLESS, "remote": REMOTE}


class Trouble:
    """Does the faults of a mix to a world, until `end`."""

    def __init__(self, world: World, faults: Faults) -> None:
        self.world = world
        self.draw = world.draw
        self.faults = faults
        self.ended = False
        self._names = list(faults.rates)
        self._weights = list(faults.rates.values())
        network, store = world.network, world.store
        network.lost, network.repeated, network.delayed = faults.lost, faults.repeated, faults.delayed
        store.error, store.lost_reply = faults.error, faults.lost_reply
        if self._names:
            self._wait()

    def end(self) -> None:
        """No more faults; what is broken is mended."""
        self.ended = True
        network, store = self.world.network, self.world.store
        network.lost = network.repeated = network.delayed = 0.0
        network.heal()
        store.error = store.lost_reply = 0.0
        store.full = store.slow = False
        store.failing_fsyncs = 0
        store.unreadable.clear()
        now_ns = self.world.clock.now_ns
        for process in self.world.processes():
            process.paused_until_ns = min(process.paused_until_ns, now_ns)

    def _wait(self) -> None:
        pause_s = self.draw.expovariate(sum(self._weights))
        self.world.clock.after(int(pause_s * S), self._strike)

    def _strike(self) -> None:
        if self.ended:
            return
        name = self.draw.choices(self._names, self._weights)[0]
        self.world.witness.note(self.world.clock.now_ns, "trouble", name)
        getattr(self, f"_{name}")()
        self._wait()

    def _anybody(self) -> Process | None:
        running = self.world.processes()
        return self.draw.choice(running) if running else None

    def _writer(self) -> Process | None:
        """Half of the time whoever holds the write lock, so that it is struck inside its transaction."""
        holder = self.world.store.locked_by
        return holder if holder is not None and self.draw.random() < 0.5 else self._anybody()

    def _crash(self) -> None:
        process = self._writer()
        if process is not None:
            self.world.kill(process)

    def _pause(self) -> None:
        process = self._writer()
        if process is not None:
            longest_ms = self.draw.choices((700, 3000, 12_000), (6, 3, 1))[0]
            until_ns = self.world.clock.now_ns + self.draw.randint(1, longest_ms) * MS
            process.paused_until_ns = max(process.paused_until_ns, until_ns)

    def _step_down(self) -> None:
        process = self._anybody()
        if process is not None:
            process.tell_keeper(StepDown())

    def _partition(self) -> None:
        for_ns = self.draw.choices((500, 2000, 5000), (5, 3, 1))[0] * MS
        name = self.draw.choice(self.world.names)
        if self.world.remote and self.draw.random() < 0.5:
            self.world.network.cut(name, STORE, for_ns)
            self.world.cut_off(name, for_ns)
        else:
            shopper = self.draw.choice(self.world.shoppers)
            self.world.network.cut(name, shopper.name, for_ns)

    def _generation(self) -> None:
        process = self._anybody()
        if process is not None:
            self.world.generations[process.name] = (process.applied, dict(process.products))

    def _unreadable(self) -> None:
        self.world.store.unreadable.add(self.draw.choice(self.world.names))

    def _failed_fsync(self) -> None:
        self.world.store.failing_fsyncs += 1

    def _full_disk(self) -> None:
        store = self.world.store
        store.full = True

        def room() -> None:
            store.full = False

        self.world.clock.after(self.draw.randint(1, 1500) * MS, room)

    def _slow_disk(self) -> None:
        store = self.world.store
        store.slow = True

        def fast() -> None:
            store.slow = False

        self.world.clock.after(self.draw.randint(1, 2000) * MS, fast)

    def _clock_step(self) -> None:
        name = self.draw.choice(self.world.names)
        self.world.wall_offset_ns[name] = self.draw.randint(-3600, 3600) * S

    def _lock_file(self) -> None:
        self.world.lock.replace_file()

    def _power_loss(self) -> None:
        self.world.lose_power(kept=self.draw.random() < 0.3)

    def _store_crash(self) -> None:
        self.world.restart_store()


def scaled(faults: Faults, draw: random.Random) -> Faults:
    """The same mix, calmer or rougher: a run of a seed is not like that of another."""
    factor = draw.choice((0.3, 1.0, 1.0, 2.5))
    return Faults(
        **{name: value * factor if name in faults.rates else value for name, value in vars(faults).items()}
    )
