from __future__ import annotations

import subprocess
import sys

import pytest

from drills.faults.weakened import PROTECTIONS, weakened
from drills.rig.cluster import ROOT, SERVER_COMMAND


@pytest.mark.parametrize("protection", sorted(PROTECTIONS))
def test_each_protection_is_still_where_it_is_taken_from(protection: str) -> None:
    """In a process of its own: it would be gone from this one."""
    done = subprocess.run(
        [*weakened(protection, SERVER_COMMAND), "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--config" in done.stdout


def test_what_cannot_be_weakened_is_refused() -> None:
    with pytest.raises(ValueError, match="no protection named 'luck'"):
        weakened("luck", SERVER_COMMAND)
    with pytest.raises(ValueError, match="only the server can be weakened"):
        weakened("shedding", (sys.executable, "-m", "tests.drills.fake_replica"))
