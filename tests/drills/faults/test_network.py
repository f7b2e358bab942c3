"""The network's faults, on links that are only written down."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from drills.faults import network
from drills.faults.network import BreakConnections, CutPrimary, DropPackets, SlowLinks

LONG_S = 30.0


class Links:
    """Stands for a proxy with a link to each replica; remembers what was done."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []
        self.changed = threading.Condition()
        self.links = {
            f"link-{name}": self._link(f"link-{name}", port) for port, name in enumerate("abc", 7000)
        }

    def _link(self, name: str, port: int) -> Any:
        def note(what: str) -> None:
            with self.changed:
                self.done.append((what, name))
                self.changed.notify_all()

        return SimpleNamespace(
            name=name,
            port=port,
            cut=lambda: note("cut"),
            heal=lambda: note("heal"),
            reset=lambda: note("reset"),
            slow=lambda **how: note(f"slow {how['latency_ms']:g}+{how['jitter_ms']:g}"),
        )

    def heal(self) -> None:
        self.done.append(("heal", "all"))


@pytest.fixture
def subject() -> Any:
    replicas = [SimpleNamespace(name=name, running=True) for name in "abc"]
    cluster = SimpleNamespace(replicas=replicas, primary=lambda: replicas[1])
    return SimpleNamespace(cluster=cluster, proxy=Links())


def link(name: str) -> str:
    return f"link-{name}"


def test_a_cut_takes_the_primarys_link_alone(subject: Any) -> None:
    fault = CutPrimary(link)
    assert fault.inject(subject)["replica"] == "b"
    fault.rollback(subject)
    assert subject.proxy.done == [("cut", "link-b"), ("heal", "all")]


@pytest.mark.parametrize(("everyone", "names"), [(False, "b"), (True, "abc")])
def test_latency_is_shared_between_the_way_there_and_back(subject: Any, everyone: bool, names: str) -> None:
    fault = SlowLinks(link, 20.0, 4.0, everyone)
    assert fault.inject(subject)["slowed"] == list(names)
    assert subject.proxy.done == [("slow 10+2", f"link-{name}") for name in names]
    fault.rollback(subject)
    assert subject.proxy.done[-1] == ("heal", "all")


def test_packets_are_dropped_by_the_ports_of_the_links(subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[str, ...]] = []

    def filter_packets(*commands: str) -> str:
        given.append(commands)
        return "tcp dport { 7000 } counter packets 5 bytes 9 drop\ncounter packets 7 bytes 1 drop\n"

    monkeypatch.setattr(network, "filter_packets", filter_packets)
    some, whole = DropPackets(link, 0.02, True), DropPackets(link, 1.0, False)
    some.inject(subject)
    assert "tcp dport { 7000, 7001, 7002 } numgen random mod 1000 < 20 counter drop" in given[0][-2]
    assert some.rollback(subject) == {"dropped": 12}
    whole.inject(subject)
    assert given[-1][-1] == f"add rule inet {network.TABLE} out tcp sport {{ 7001 }} counter drop"


def test_without_root_connections_are_broken_until_it_is_undone(subject: Any) -> None:
    fault = BreakConnections(link, True, seed=3, every_s=0.001, stall_s=0.001)
    fault.inject(subject)
    links = subject.proxy
    with links.changed:
        assert links.changed.wait_for(
            lambda: {"cut", "heal", "reset"} <= {what for what, _ in links.done}, LONG_S
        )
    told = fault.rollback(subject)
    assert told["dropped"] >= 2
    assert links.done[-1] == ("heal", "all")
    count = len(links.done)
    fault.rollback(subject)
    assert len(links.done) == count + 1


def test_all_of_the_primarys_are_a_cut(subject: Any) -> None:
    fault = BreakConnections(link, False)
    fault.inject(subject)
    assert subject.proxy.done == [("cut", "link-b")]
    assert fault.rollback(subject) == {"dropped": 1}
