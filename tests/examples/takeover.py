"""An example client in another language, built, and run against a real pair whose primary is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from muster.client import Client
from muster.v1 import admin_pb2
from tests.examples.service import PRODUCTS, running_pair

ROOT = Path(__file__).parents[2]
BUILT = ROOT / ".build" / "examples"
MISSING = 4
WRITES = 25
KILL_AFTER = 5
WRITE = re.compile(r"write (\d+): sequence (\d+), epoch (\d+), sent (\d+) times")


def build(language: str) -> Path:
    """The folder it was built in. Skips where its tools or a network are absent, with the script's reason."""
    script = [str(ROOT / "scripts" / "examples.sh"), language]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == MISSING:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    return BUILT / language


@dataclass(frozen=True)
class Outcome:
    """What the program wrote, and what the log says. writes: number, sequence, epoch and sendings of each.
    logged: stock of each patch of its product, in the order of the log."""

    code: int
    text: str
    writes: list[tuple[int, ...]]
    logged: list[int]


def run_over_a_takeover(command: list[str], product_id: str, folder: Path) -> Outcome:
    """Runs the program with a placeholder TARGETS in its command; kills the primary after some writes."""
    with running_pair(folder) as endpoints, Client(endpoints) as client:
        primary = next(
            entry.status.pid
            for entry in client.status(deadline_ms=30_000)
            if entry.status is not None and entry.status.role == admin_pb2.ROLE_PRIMARY
        )
        line = [part.replace("TARGETS", ",".join(endpoints)) for part in command]
        program = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert program.stdout is not None
        text = ""
        try:
            for written in program.stdout:
                text += written
                if written.startswith(f"write {KILL_AFTER}:"):
                    os.kill(primary, signal.SIGKILL)
            code = program.wait(timeout=60)
        finally:
            program.kill()
            program.wait()
            program.stdout.close()
        head = max(e.status.head_sequence for e in client.status(deadline_ms=30_000) if e.status is not None)
        stream = client.watch(PRODUCTS + 1)
        events = [next(stream).event for _ in range(head - PRODUCTS)]
        stream.close()  # type: ignore[attr-defined]
    logged = [event.patch.stock for event in events if event.patch.product_id == product_id]
    return Outcome(code, text, [tuple(map(int, found)) for found in WRITE.findall(text)], logged)


def check(outcome: Outcome) -> None:
    """It searched before and after, read its own write, and the log has each of its writes once, in order."""
    assert outcome.code == 0, outcome.text
    assert outcome.text.count("receipt: tier TIER_") == 2
    assert "read its own write: Kettle" in outcome.text
    numbers, sequences, epochs, _ = zip(*outcome.writes, strict=True)
    assert list(numbers) == list(range(1, WRITES + 1))
    assert list(sequences) == sorted(set(sequences))
    assert epochs[-1] > epochs[0] and list(epochs) == sorted(epochs), "a new primary took over"
    assert outcome.logged == list(numbers)
