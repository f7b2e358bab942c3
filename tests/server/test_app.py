"""Telling a busy follower from a lagging one."""

from __future__ import annotations

from typing import Any

import pytest

from server.app import Lag, fit_to_read, wait_applied


def test_a_follower_that_keeps_up_with_a_steady_stream_does_not_lag() -> None:
    lag = Lag()
    for step in range(1000):
        assert lag.behind_s(step * 0.05, head_sequence=step * 10, applied_sequence=step * 10 - 3) <= 0.05


def test_the_oldest_head_that_is_not_applied_counts() -> None:
    lag = Lag()
    assert lag.behind_s(0.0, 10, 10) == 0.0
    assert lag.behind_s(1.0, 20, 15) == 0.0
    assert lag.behind_s(2.0, 30, 19) == 1.0
    assert lag.behind_s(3.0, 30, 20) == 1.0
    assert lag.behind_s(4.0, 30, 30) == 0.0


def test_a_frozen_follower_lags_ever_more() -> None:
    lag = Lag()
    assert [lag.behind_s(float(second), 5, 0) for second in range(4)] == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("served", "behind_s", "unseen_s", "caught_up", "serves"),
    [
        (True, 1.9, 0.0, False, True),
        (True, 2.1, 0.0, False, False),
        # The store is away: nobody is known to be behind.
        (True, 0.0, 60.0, True, True),
        (False, 0.0, 0.0, False, False),
        (False, 0.0, 60.0, True, False),
        (False, 0.0, 0.1, True, True),
    ],
)
def test_a_replica_leaves_when_it_is_behind_and_comes_back_when_it_has_caught_up(
    served: bool, behind_s: float, unseen_s: float, caught_up: bool, serves: bool
) -> None:
    assert serves is fit_to_read(
        served=served, behind_s=behind_s, unseen_s=unseen_s, caught_up=caught_up, bound_s=2.0
    )


class Following:
    """A tailer as it is asked: applied from the given look on, and why it may not move."""

    def __init__(
        self, applied_at: int | None = None, *, refused_s: float = 0.0, stalled_s: float = 0.0
    ) -> None:
        self.looks = 0
        self._applied_at = applied_at
        self._refused_s = refused_s
        self._stalled_s = stalled_s

    def wait_applied(self, sequence: int, timeout_s: float) -> bool:
        self.looks += 1
        return self._applied_at is not None and self.looks >= self._applied_at

    def refused_s(self) -> float:
        return self._refused_s

    def stalled_s(self) -> float:
        return self._stalled_s


@pytest.mark.parametrize(
    ("following", "found", "looks"),
    [
        (Following(3), True, 3),
        (Following(refused_s=0.6), False, 1),
        (Following(stalled_s=2.1), False, 1),
        # What is there already needs nobody to follow.
        (Following(1, refused_s=60.0), True, 1),
        (Following(2, refused_s=0.4, stalled_s=1.9), True, 2),
    ],
)
def test_a_sequence_that_cannot_come_soon_is_not_waited_for(following: Any, found: bool, looks: int) -> None:
    assert wait_applied(following, 7, 3600.0, stalled_max_s=2.0) is found
    assert following.looks == looks


def test_without_time_one_look_is_all() -> None:
    following: Any = Following()
    assert wait_applied(following, 7, 0.0, stalled_max_s=2.0) is False
    assert following.looks == 1
