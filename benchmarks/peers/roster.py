"""The peers: one folder each, with `peer.toml` (what it is), `requirements.txt` and `serve.py`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PROTOCOLS = ("grpc", "triton", "infinity", "json")


class RosterError(Exception):
    """A peer's folder is not as it should be; the message names file and key."""


@dataclass(frozen=True)
class Peer:
    """One server that people would pick instead.

    name: of its folder. title: for tables and plots. package: distribution whose version is reported; beside:
    those that matter too. protocol: how it is asked, one of PROTOCOLS. numbers: what it computes in.
    settings: its best documented ones, as they are reported. shares_torch: takes torch from the environment
    that runs the harness, which is some gigabytes. application: gRPC metadata of that name, "" for none.
    namespace: must not listen on the machine's own addresses, so it gets a network namespace.
    """

    name: str
    title: str
    package: str
    protocol: str
    numbers: str
    settings: list[str]
    beside: list[str] = field(default_factory=list)
    shares_torch: bool = False
    application: str = ""
    namespace: bool = False

    @property
    def requirements(self) -> Path:
        """What is installed for it."""
        return HERE / self.name / "requirements.txt"

    @property
    def module(self) -> str:
        """What its interpreter runs."""
        return f"benchmarks.peers.{self.name}.serve"


def read_peer(folder: Path) -> Peer:
    """One peer. Raises: RosterError."""
    path = folder / "peer.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        peer = Peer(name=folder.name, **values)
    except (OSError, tomllib.TOMLDecodeError, TypeError) as error:
        raise RosterError(f"{path}: {error}") from error
    if peer.protocol not in PROTOCOLS:
        raise RosterError(f"{path}: protocol must be one of {', '.join(PROTOCOLS)}, not {peer.protocol!r}")
    return peer


def roster() -> list[Peer]:
    """All peers, in the order of their names."""
    return [read_peer(path.parent) for path in sorted(HERE.glob("*/peer.toml"))]


def chosen(names: list[str]) -> list[Peer]:
    """The peers of these names, all where none is given. Raises: RosterError naming an unknown one."""
    known = {peer.name: peer for peer in roster()}
    for name in names:
        if name not in known:
            raise RosterError(f"no peer is called {name!r}; known: {', '.join(known)}")
    return [known[name] for name in names or known]
