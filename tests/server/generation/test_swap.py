"""Exchanging the served generation: nothing applied is ever lost from sight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from server.catalogue.errors import EventsFolded
from server.generation.swap import LogReader, Served


class Generation:
    """Counts what was applied; each text change is one product of the delta."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.applied = sequence

    def apply(self, events: list[bytes]) -> int:
        for event in events:
            if int(event) == self.applied + 1:
                self.applied += 1
        return self.applied

    def applied_sequence(self) -> int:
        return self.applied

    def delta_products(self) -> int:
        return self.applied - self.sequence


class Engine:
    def __init__(self) -> None:
        self.serving: Any = None
        self.applied_when_served = -1

    def serve(self, generation: Any) -> None:
        self.serving = generation
        self.applied_when_served = generation.applied_sequence()


def events(first: int, last: int) -> list[bytes]:
    return [str(sequence).encode() for sequence in range(first, last + 1)]


def reader(head: int) -> Any:
    def read(first: int, most: int) -> Sequence[bytes]:
        return events(first, min(head, first + most - 1))

    return read


@pytest.mark.parametrize("built_at", [0, 1, 2_500, 4_999, 5_000])
def test_a_newer_generation_is_served_only_when_it_has_all_the_old_one_had(built_at: int) -> None:
    engine, old, new = Engine(), Generation(0), Generation(built_at)
    served = Served(engine, old, LogReader(reader(5_000)))  # type: ignore[arg-type]
    served.start()
    served.apply(events(1, 5_000))
    served.replace(new)  # type: ignore[arg-type]
    assert engine.serving is new
    assert engine.applied_when_served == 5_000
    assert served.generation is new


def test_events_go_to_the_generation_being_served() -> None:
    engine, old, new = Engine(), Generation(0), Generation(3)
    served = Served(engine, old, LogReader(reader(3)))  # type: ignore[arg-type]
    served.start()
    assert served.apply(events(1, 3)) == 3
    served.replace(new)  # type: ignore[arg-type]
    assert served.apply(events(4, 6)) == 6
    assert (old.applied, new.applied) == (3, 6)


def test_a_log_that_lost_applied_events_is_a_broken_invariant() -> None:
    served = Served(Engine(), Generation(0), LogReader(reader(2)))  # type: ignore[arg-type]
    served.apply(events(1, 5))
    with pytest.raises(AssertionError, match="ends before"):
        served.replace(Generation(0))  # type: ignore[arg-type]


def test_only_a_change_of_text_ends_the_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("server.generation.swap.time.monotonic", lambda: now)
    generation = Generation(0)
    served = Served(Engine(), generation, LogReader(reader(9)))  # type: ignore[arg-type]
    now = 110.0
    served.apply(events(1, 1))
    now = 115.0
    assert served.quiet_s() == 5.0
    monkeypatch.setattr(generation, "delta_products", lambda: 1)
    served.apply(events(2, 9))
    assert served.quiet_s() == 5.0


def folded_reader(head: int, folded: int) -> Any:
    def read(first: int, most: int) -> Sequence[bytes]:
        if first <= folded:
            raise EventsFolded(first, folded + 1)
        return events(first, min(head, first + most - 1))

    return read


@pytest.mark.parametrize("folded", [1, 4_000, 4_999])
def test_a_newer_generation_that_is_behind_the_snapshot_loads_it_on_its_way(folded: int) -> None:
    def load(generation: Any) -> None:
        generation.applied = max(generation.applied, folded)

    engine, old, new = Engine(), Generation(5_000), Generation(0)
    served = Served(engine, old, LogReader(folded_reader(5_000, folded), load))  # type: ignore[arg-type]
    served.replace(new)  # type: ignore[arg-type]
    assert (engine.serving, engine.applied_when_served) == (new, 5_000)


def test_a_generation_that_cannot_follow_is_replaced_by_one_from_the_snapshot() -> None:
    def load(generation: Any) -> None:
        assert engine.serving is not generation
        generation.applied = 90

    engine, old, opened = Engine(), Generation(10), Generation(20)
    served = Served(engine, old, LogReader(folded_reader(100, 90), load))  # type: ignore[arg-type]
    served.start()
    assert served.reload(opened) == 90  # type: ignore[arg-type]
    assert (engine.serving, engine.applied_when_served) == (opened, 90)
