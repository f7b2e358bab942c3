"""Exit codes, and what they come with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from tests.muster.commands.command_line import muster
from tests.muster.conftest import Start
from tests.muster.scripted_replica import fails

ROOT = Path(__file__).parents[3]
CODE = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "exit_code", "words"),
    [
        (CODE.INVALID_ARGUMENT, 2, "refused"),
        (CODE.NOT_FOUND, 2, "scripted"),
        (CODE.UNAVAILABLE, 3, "muster serve"),
        (CODE.RESOURCE_EXHAUSTED, 3, "sheds load"),
        (CODE.DEADLINE_EXCEEDED, 4, "longer --deadline"),
        (CODE.INTERNAL, 1, "the service failed"),
    ],
)
def test_failures_have_their_exit_code_and_say_what_to_do(
    start_replicas: Start, code: grpc.StatusCode, exit_code: int, words: str
) -> None:
    replica = start_replicas(1)[0]
    replica.always = fails(code)
    done = muster("search", "tea", "--target", replica.endpoint, "--deadline", "20s")
    assert done.exit_code == exit_code
    assert words in done.stderr and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) <= 2


def test_the_process_exits_3_when_nothing_listens() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "muster.cli", "search", "tea", "--target", "127.0.0.1:1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 3
    assert "no replica is available" in done.stderr and "Traceback" not in done.stderr
