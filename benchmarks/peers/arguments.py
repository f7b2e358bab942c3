"""What every peer is started with. Read by the interpreters of all peers: it needs nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Arguments:
    """What every peer is started with.

    model: folder of the student. port: of loopback. threads: of the runtime. in_flight_max: requests accepted
    at once; beyond it a caller is refused at once rather than kept waiting for what it no longer wants.
    deadline_ms: that callers will have.
    """

    model: Path
    port: int
    threads: int
    in_flight_max: int
    deadline_ms: float


def arguments(argv: Sequence[str] | None = None) -> Arguments:
    """Parse the command line of a peer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--in-flight-max", type=int, required=True)
    parser.add_argument("--deadline-ms", type=float, required=True)
    return Arguments(**vars(parser.parse_args(argv)))
