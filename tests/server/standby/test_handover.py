"""Giving the lease away, step by step, on a made-up clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from server.catalogue.errors import StoreUnavailable
from server.standby.handover import Handover
from server.standby.lease import Holder, LeaseRow


class World:
    """A replica with `under_way` writes, of which one ends each 10 ms."""

    def __init__(self, under_way: int = 0, *, stuck: bool = False) -> None:
        self.now_s = 100.0
        self.under_way = under_way
        self.stuck = stuck
        self.done: list[str] = []
        self.row: Callable[[], LeaseRow | None] = lambda: None

    def handover(self) -> Handover:
        return Handover(
            tell=lambda: self.done.append("tell"),
            refuse=lambda: self.done.append("refuse"),
            under_way=self.writes,
            step_down=lambda: self.done.append(f"step down with {self.writes()} writes") is None,
            lease=lambda: self.row(),
            notice_s=0.02,
            clock=lambda: self.now_s,
            sleep=self.sleep,
        )

    def writes(self) -> int:
        return self.under_way if self.stuck else max(0, self.under_way - int((self.now_s - 100.0) / 0.01))

    def sleep(self, seconds: float) -> None:
        if "refuse" not in self.done and seconds >= 0.02:
            self.done.append("wait")
        self.now_s += seconds


def row(replica: str, epoch: int) -> LeaseRow:
    return LeaseRow(epoch, Holder(f"{replica}/token", 1, 1, "boot"), 1)


def test_writers_are_told_before_they_are_refused_and_what_is_under_way_is_finished() -> None:
    world = World(under_way=30)
    world.handover().give_away()
    assert world.done == ["tell", "wait", "refuse", "step down with 0 writes"]


def test_a_write_that_does_not_end_holds_nothing_up_for_good() -> None:
    world = World(under_way=1, stuck=True)
    world.handover().give_away()
    assert world.done[-1] == "step down with 1 writes"
    assert world.now_s < 102.0


def test_the_successor_is_whoever_has_the_lease_in_a_later_epoch() -> None:
    world = World()
    world.row = lambda: row("a", 3) if world.now_s < 100.5 else row("b", 4)
    assert world.handover().successor(3, wait_s=2.0) == ("b", 4)


@pytest.mark.parametrize("seen", [None, row("a", 3)])
def test_without_a_successor_the_wait_ends(seen: LeaseRow | None) -> None:
    world = World()
    world.row = lambda: seen
    assert world.handover().successor(3, wait_s=0.5) == ("", 0)
    assert world.now_s == pytest.approx(100.5, abs=0.01)


def test_a_store_that_cannot_be_read_for_a_moment_is_asked_again() -> None:
    world = World()

    def seen() -> LeaseRow:
        if world.now_s < 100.1:
            raise StoreUnavailable("locked")
        return row("b", 4)

    world.row = seen
    assert world.handover().successor(3, wait_s=1.0) == ("b", 4)
