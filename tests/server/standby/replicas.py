"""Replica processes without gRPC on one store, and the judgement of what they wrote."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from muster.v1.catalogue_pb2 import SequencedEvent
from server.catalogue.opening import open_store
from server.standby.lease import LeaseRow

ROOT = Path(__file__).parents[3]
LONG_S = 60.0


def until(condition: Callable[[], bool], what: str) -> None:
    gives_up_at_s = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < gives_up_at_s, f"waited in vain for {what}"
        time.sleep(0.01)


class Cluster:
    """Replica processes on one store."""

    def __init__(self, folder: Path, location: str = "") -> None:
        """location: of the store; empty: a file in the folder."""
        self.folder = folder
        self.location = location or str(folder / "catalogue.sqlite3")
        self.store = open_store(self.location)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *options: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.server.standby.replica_process",
                    str(self.folder),
                    self.location,
                    name,
                    *options,
                ],
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    def start_and_wait(self, *names: str) -> LeaseRow:
        """Start the replicas; the lease once the first has it and all of them run."""
        for name in names:
            self.start(name)
        until(lambda: self.writes_in(1), "the first primary")
        until(lambda: all((self.folder / f"{n}.acknowledged").exists() for n in names), "every replica")
        return self.lease()

    def log(self, name: str) -> str:
        """What a replica has written so far."""
        return (self.folder / f"{name}.log").read_text()

    def lease(self) -> LeaseRow:
        row = self.store.lease()
        assert row is not None
        return row

    def writes_in(self, epoch: int) -> bool:
        return any(acknowledged_epoch >= epoch for _, acknowledged_epoch, _ in self.acknowledged())

    def acknowledged(self) -> list[tuple[int, int, str]]:
        """(sequence, epoch, event_id) of every append a replica was told is durable."""
        lines = []
        for path in self.folder.glob("*.acknowledged"):
            whole = path.read_text().rpartition("\n")[0]
            lines += [line.split() for line in whole.splitlines()]
        return [(int(sequence), int(epoch), event_id) for sequence, epoch, event_id in lines]

    def check_history(self) -> None:
        """No acknowledged event is missing or moved, none is doubled, epochs only rise."""
        # Read first: writes go on, and the log must hold whatever was acknowledged before.
        acknowledged = self.acknowledged()
        log: list[SequencedEvent] = []
        while events := self.store.read_range(len(log) + 1):
            log += [SequencedEvent.FromString(data) for data in events]
        event_ids = [entry.event.event_id for entry in log]
        epochs = [entry.epoch for entry in log]
        assert len(set(event_ids)) == len(event_ids)
        assert epochs == sorted(epochs)
        for sequence, epoch, event_id in acknowledged:
            assert (event_ids[sequence - 1], epochs[sequence - 1]) == (event_id, epoch)

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.store.close()
