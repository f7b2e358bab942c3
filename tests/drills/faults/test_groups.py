"""Control groups, on a process that only waits. Skipped, with the reason, where none can be made."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from drills.experiment import Inconclusive
from drills.faults import groups
from drills.faults.groups import Group, group_need


@pytest.fixture
def idle() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.privileged
@pytest.mark.parametrize("controller", ["memory", "cpu"])
def test_a_process_goes_into_a_group_and_comes_back(controller: str, idle: subprocess.Popen[bytes]) -> None:
    missing = group_need(controller).missing()
    if missing is not None:
        pytest.skip(missing)
    group = Group(controller)
    try:
        before = groups._home(idle.pid, controller, group._root, group.version)
        group.take(idle.pid)
        assert str(idle.pid) in (group.path / "cgroup.procs").read_text().split()
        with pytest.raises(Inconclusive, match="cannot be set"):
            group.set("no.such.file", "1")
    finally:
        group.remove()
    assert not group.path.exists()
    assert groups._home(idle.pid, controller, group._root, group.version) == before
    group.remove()


def test_a_controller_that_is_not_there_is_named() -> None:
    missing = group_need("no-such-controller").missing()
    assert missing is not None and "no control groups for no-such-controller" in missing
