from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.catalogue.errors import StoreDamaged
from server.catalogue.following import Following, Range
from server.catalogue.store import Head


def test_a_look_is_due_at_first_after_a_commit_and_while_something_is_left() -> None:
    following = Following(0, 10)
    assert following.due(1)
    following.saw(Head(3, 1), 0)
    following.looked(1)
    assert following.due(1), "three events are left to apply"
    following.delivered(Range(1, 3, 10), 3, 3)
    assert not following.due(1)
    assert following.due(2)
    following.looked(2)
    following.lost()
    assert following.due(2), "the versions of another connection say nothing"


def test_the_next_events_are_wanted_in_batches() -> None:
    following = Following(4, 3)
    following.saw(Head(9, 2), 4)
    assert following.wanted() == Range(5, 9, 3)
    following.delivered(Range(5, 9, 3), 3, 7)
    assert following.wanted() == Range(8, 9, 3)
    following.delivered(Range(8, 9, 3), 2, 9)
    assert following.wanted() is None
    assert (following.applied, following.head, following.epoch) == (9, 9, 2)


def test_a_log_that_lacks_events_is_damaged() -> None:
    following = Following(4, 3)
    with pytest.raises(StoreDamaged, match="has applied event 4, but the log ends at 3"):
        following.saw(Head(3, 1), 4)
    following.saw(Head(9, 1), 4)
    wanted = following.wanted()
    assert wanted is not None
    with pytest.raises(StoreDamaged, match="event 5 is missing"):
        following.read(wanted, 0)


def test_a_target_that_applied_less_than_it_was_given_is_not_followed_further() -> None:
    following = Following(0, 10)
    following.saw(Head(3, 1), 0)
    with pytest.raises(RuntimeError, match="only 2 are applied"):
        following.delivered(Range(1, 3, 10), 3, 2)
    assert following.applied == 0


def test_another_target_is_brought_up_from_where_it_is() -> None:
    following = Following(9, 10)
    following.saw(Head(9, 1), 9)
    following.looked(1)
    following.switch(6)
    assert following.due(1)
    assert following.wanted() == Range(7, 9, 10)


@given(st.integers(0, 50), st.integers(1, 7), st.lists(st.integers(1, 20), max_size=8))
def test_everything_is_applied_once_and_in_sequence(applied: int, at_once: int, grown: list[int]) -> None:
    following = Following(applied, at_once)
    head, delivered = applied, []
    for version, more in enumerate(grown):
        head += more
        assert following.due(version)
        following.saw(Head(head, 1), following.applied)
        while (wanted := following.wanted()) is not None:
            before = following.applied
            events = list(range(wanted.first, min(wanted.last, wanted.first + wanted.events_max - 1) + 1))
            following.read(wanted, len(events))
            delivered += events
            following.delivered(wanted, len(events), events[-1])
            assert following.applied > before
        following.looked(version)
    assert delivered == list(range(applied + 1, head + 1))
