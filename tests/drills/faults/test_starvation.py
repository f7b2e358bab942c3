"""Too little memory and too little of a core, on processes of a line. Skipped, with the reason, where no
control groups can be made."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from drills.experiment import Inconclusive
from drills.faults.groups import group_need
from drills.faults.memory import OutOfMemory
from drills.faults.processor import SlowCore
from drills.rig.cluster import ClusterError

WAITING = "import time; print('ready', flush=True); time.sleep(60)"
SPINNING = "print('ready', flush=True)\nwhile True: pass"


@dataclass
class Standing:
    """Stands in for a replica."""

    name: str
    process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None


@dataclass
class Trio:
    """Stands in for a cluster; a is its primary."""

    replicas: list[Standing]
    restarted: list[str]

    @property
    def cluster(self) -> Trio:
        return self

    def primary(self) -> Standing:
        if not self.replicas:
            raise ClusterError("one primary expected, found none")
        return self.replicas[0]

    def wake(self, replica: Standing) -> None:
        if replica.running:
            replica.process.send_signal(signal.SIGCONT)

    def restart(self, replica: Standing) -> None:
        if not replica.running:
            self.restarted.append(replica.name)


@pytest.fixture
def trio() -> Iterator[Callable[[str], Any]]:
    started: list[subprocess.Popen[str]] = []

    def start(program: str) -> Any:
        for _ in "abc":
            started.append(
                subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
            )
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        return Trio([Standing(name, process) for name, process in zip("abc", started, strict=True)], [])

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def skip_without(controller: str) -> None:
    missing = group_need(controller).missing()
    if missing is not None:
        pytest.skip(missing)


@pytest.mark.privileged
def test_a_process_out_of_memory_is_ended_alone(trio: Callable[[str], Any]) -> None:
    skip_without("memory")
    subject = trio(WAITING)
    fault = OutOfMemory(24)
    try:
        told = fault.inject(subject)
        assert (told["replica"], told["pid"]) == ("a", subject.replicas[0].pid)
        assert [replica.running for replica in subject.replicas] == [False, True, True]
    finally:
        fault.rollback(subject)
    assert fault.ended == {"a": -signal.SIGKILL}
    assert fault.kills >= 1
    assert subject.restarted == ["a"]


@pytest.mark.privileged
def test_processes_in_one_group_are_all_at_risk(trio: Callable[[str], Any]) -> None:
    skip_without("memory")
    subject = trio(WAITING)
    fault = OutOfMemory(24, together=True)
    try:
        fault.inject(subject)
        # What the dead one held belongs to another group, so the next one goes too.
        end_s = time.monotonic() + 10.0
        while any(replica.running for replica in subject.replicas) and time.monotonic() < end_s:
            time.sleep(0.02)
    finally:
        fault.rollback(subject)
    assert len(fault.ended) > 1


@pytest.mark.privileged
def test_a_busy_process_with_a_part_of_a_core_stands_still_for_the_rest(trio: Callable[[str], Any]) -> None:
    skip_without("cpu")
    subject = trio(SPINNING)
    fault = SlowCore(0.1, 10.0)
    try:
        assert fault.inject(subject)["replica"] == fault.victim == "b"
        # The others need not spin any longer.
        for replica in (subject.replicas[0], subject.replicas[2]):
            replica.process.kill()
        time.sleep(0.5)
    finally:
        fault.rollback(subject)
    # How much depends on how many cores the neighbours left it.
    assert fault.throttled_ms > 0.0
    assert subject.replicas[1].running
    assert sorted(subject.restarted) == ["a", "c"]


@pytest.mark.parametrize("fault", [OutOfMemory(24), SlowCore(0.1, 10.0)])
def test_without_a_primary_nobody_is_starved(fault: OutOfMemory | SlowCore) -> None:
    nobody: Any = Trio([], [])
    with pytest.raises(Inconclusive, match="one primary expected"):
        fault.inject(nobody)
    fault.rollback(nobody)
