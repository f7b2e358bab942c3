"""A network of the drill's own between two parties of this machine: links that can be slow, cut or reset.

The bytes are carried by a process of its own (`drills.rig.relay`), so that neither the load generator nor a
replica shares an interpreter with it.

    with Proxy() as proxy:
        link = proxy.link("a", "127.0.0.1:7461")
        ...  # clients call link.address
        link.cut()
        link.heal()
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from drills.experiment import Inconclusive
from drills.rig.cluster import ROOT

TO = "to"
"""From whoever connects to where the link leads."""

BACK = "back"
BOTH = (TO, BACK)


@dataclass(frozen=True)
class Link:
    """One way through the proxy. address: host:port, to connect to instead of what it leads to."""

    name: str
    address: str
    proxy: Proxy

    @property
    def port(self) -> int:
        """Of the address."""
        return int(self.address.rpartition(":")[2])

    def slow(
        self,
        *,
        latency_ms: float = 0.0,
        jitter_ms: float = 0.0,
        bytes_per_s: float = 0.0,
        directions: tuple[str, ...] = BOTH,
    ) -> None:
        """Every piece of these directions waits for the latency and up to the jitter, at random; no more
        bytes a second pass than that (0: any number). For connections there are, and those to come."""
        self.proxy.tell(
            "shape",
            self.name,
            latency_ms=latency_ms,
            jitter_ms=jitter_ms,
            bytes_per_s=bytes_per_s,
            directions=directions,
        )

    def cut(self, *directions: str) -> None:
        """Nothing passes in these directions (both, where none is named), and nobody is told: bytes, ends of
        connections and new connections wait until `heal`, and pass then."""
        self.proxy.tell("cut", self.name, directions=directions or BOTH)

    def reset(self, *, refusing: bool = False) -> int:
        """Resets every connection; returns their ends. refusing: new ones are reset too, until `heal`."""
        return int(self.proxy.tell("reset", self.name, refusing=refusing)["connections"])

    def heal(self) -> None:
        """As it was at first. What was held by a cut passes now."""
        self.proxy.tell("heal", self.name)


class Proxy:
    """The process that carries the bytes. A context manager: ended on the way out.

    Raises: Inconclusive where it does not answer.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self.links: dict[str, Link] = {}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "drills.rig.relay"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            # A terminal's Ctrl-C reaches the drill alone, which heals its links first.
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        # It ends when its input does; what it still carries ends with it.
        process.stdin.close()
        try:
            process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    @property
    def pid(self) -> int:
        """Of the process that carries the bytes."""
        assert self._process is not None
        return self._process.pid

    def link(self, name: str, upstream: str) -> Link:
        """A new way, by a name of its own. upstream: host:port, or the path of a socket."""
        address = self.tell("link", name, upstream=upstream)["address"]
        self.links[name] = Link(name, address, self)
        return self.links[name]

    def heal(self) -> None:
        """Heals every link."""
        for link in self.links.values():
            link.heal()

    def tell(self, what: str, name: str, **details: Any) -> dict[str, Any]:
        """Has one command done; returns its answer."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({"do": what, "name": name, **details}) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline() or '{"error": "it has ended"}')
        except (OSError, ValueError) as error:
            raise Inconclusive(f"the drill's own proxy does not answer: {error}") from error
        if "error" in answer:
            raise Inconclusive(f"the drill's own proxy cannot {what} {name}: {answer['error']}")
        found: dict[str, Any] = answer
        return found
