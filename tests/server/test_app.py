"""Telling a busy follower from a lagging one."""

from __future__ import annotations

import pytest

from server.app import Lag, fit_to_read


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
