"""Ways between the parties going wrong: cut, slow, broken off. A fault knows the links, never the judge."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from drills.faults.process import sole_primary
from drills.rig.cluster import Cluster
from drills.rig.namespace import TABLE, filter_packets
from drills.rig.proxy import Link, Proxy


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


@dataclass(frozen=True)
class SlowLinks:
    """Packets to and from replicas take longer; undone by healing the links.

    link: the name of a replica's link, from that of the replica. latency_ms: added to the way there and back
    together, half to each. jitter_ms: as much again at random, likewise. everyone: all replicas, not just the
    primary.
    """

    link: Callable[[str], str]
    latency_ms: float
    jitter_ms: float
    everyone: bool
    name: str = "latency"

    def inject(self, subject: Networked) -> dict[str, Any]:
        """Slows them. Raises Inconclusive where there is no single primary."""
        proxy = proxy_of(subject)
        primary = sole_primary(subject.cluster)
        slowed = list(subject.cluster.replicas) if self.everyone else [primary]
        for replica in slowed:
            proxy.links[self.link(replica.name)].slow(
                latency_ms=self.latency_ms / 2, jitter_ms=self.jitter_ms / 2
            )
        return {
            "replica": primary.name,
            "slowed": [replica.name for replica in slowed],
            "latency_ms": self.latency_ms,
            "jitter_ms": self.jitter_ms,
        }

    def rollback(self, subject: Networked) -> None:
        """Heals every link."""
        proxy_of(subject).heal()


@dataclass(frozen=True)
class DropPackets:
    """The kernel drops packets between clients and links, at random; undone by taking the filter away. For a
    drill that is inside a namespace of its own.

    share: of the packets, in each direction, 0 to 1. everyone: those of all links, not just the primary's.
    """

    link: Callable[[str], str]
    share: float
    everyone: bool
    name: str = "loss"

    def inject(self, subject: Networked) -> dict[str, Any]:
        """Drops from now on. Raises Inconclusive where the filter is refused, or there is no single
        primary."""
        proxy = proxy_of(subject)
        primary = sole_primary(subject.cluster)
        losing = list(subject.cluster.replicas) if self.everyone else [primary]
        ports = ", ".join(str(proxy.links[self.link(replica.name)].port) for replica in losing)
        # Of a thousand there is no thousandth: all of them need no draw.
        drawn = f"numgen random mod 1000 < {round(self.share * 1000)} " if self.share < 1 else ""
        dropping = f"{drawn}counter drop"
        chain = f"inet {TABLE} out"
        instant_s = time.monotonic()
        filter_packets(
            f"add table inet {TABLE}",
            f"add chain {chain} {{ type filter hook output priority 0; }}",
            f"flush chain {chain}",
            # On loopback every packet goes out once: those to a link, and those back from it.
            f"add rule {chain} tcp dport {{ {ports} }} {dropping}",
            f"add rule {chain} tcp sport {{ {ports} }} {dropping}",
        )
        return {"replica": primary.name, "share": self.share, "by": "nft", "instant_s": instant_s}

    def rollback(self, subject: Networked) -> dict[str, Any]:
        """Drops no more; "dropped": how many packets were."""
        listed = filter_packets(f"add table inet {TABLE}", f"list table inet {TABLE}")
        filter_packets(f"delete table inet {TABLE}")
        return {"dropped": sum(int(found) for found in re.findall(r"counter packets (\d+)", listed))}


@dataclass
class BreakConnections:
    """What can be done about packets without root: now and then a link's connections are reset, or nothing
    passes it for a while, as a lost packet holds up those behind it. Undone by healing. For one run.

    every_s: from one to the next. stall_s: how long nothing passes. everyone: of all replicas; else nothing
    passes the primary's link at all.
    """

    link: Callable[[str], str]
    everyone: bool
    seed: int = 1
    every_s: float = 0.25
    stall_s: float = 0.2
    name: str = "loss"
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _done: int = 0

    def inject(self, subject: Networked) -> dict[str, Any]:
        """Begins. Raises Inconclusive where there is no single primary."""
        proxy = proxy_of(subject)
        primary = sole_primary(subject.cluster)
        instant_s = time.monotonic()
        if self.everyone:
            links = [proxy.links[self.link(replica.name)] for replica in subject.cluster.replicas]
            self._thread = threading.Thread(target=self._break, args=(links,), name="breaking", daemon=True)
            self._thread.start()
        else:
            proxy.links[self.link(primary.name)].cut()
            self._done = 1
        return {"replica": primary.name, "by": "proxy", "instant_s": instant_s}

    def _break(self, links: Sequence[Link]) -> None:
        chance = random.Random(self.seed)
        while not self._ended.wait(self.every_s):
            link = chance.choice(links)
            if chance.random() < 0.5:
                link.reset()
            else:
                link.cut()
                self._ended.wait(self.stall_s)
                link.heal()
            self._done += 1

    def rollback(self, subject: Networked) -> dict[str, Any]:
        """Breaks no more; "dropped": how often something was."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        proxy_of(subject).heal()
        return {"dropped": self._done}
