"""Ways between the parties going wrong: cut, slow, broken off. A fault knows the links, never the judge."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from drills.faults.process import sole_primary
from drills.rig.cluster import Cluster
from drills.rig.proxy import Proxy


class Networked(Protocol):
    """A subject whose replicas are reached through links."""

    @property
    def cluster(self) -> Cluster:
        """The replicas."""
        ...

    @property
    def proxy(self) -> Proxy | None:
        """The links."""
        ...


def proxy_of(subject: Networked) -> Proxy:
    """The proxy of a subject that was started with one."""
    assert subject.proxy is not None, "the drill was started without its proxy"
    return subject.proxy


@dataclass(frozen=True)
class CutPrimary:
    """Cuts one of the primary's links in both directions, without a word to either side; undone by healing
    it.

    link: the name of the link, from that of the replica.
    """

    link: Callable[[str], str]
    name: str = "cut"

    def inject(self, subject: Networked) -> dict[str, Any]:
        """Cuts it. Raises Inconclusive where there is no single primary."""
        primary = sole_primary(subject.cluster)
        link = proxy_of(subject).links[self.link(primary.name)]
        instant_s = time.monotonic()
        link.cut()
        return {"replica": primary.name, "link": link.name, "instant_s": instant_s}

    def rollback(self, subject: Networked) -> None:
        """Heals every link."""
        proxy_of(subject).heal()
