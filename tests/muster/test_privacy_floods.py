"""Actors that are faster than people are left out, and only those."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.privacy.floods import NO_RECEIPT, NOBODY, FloodRule, actor_of, outliers

SECOND_US = 1_000_000
RULE = FloodRule(per_minute_max=10, per_day_max=50, per_receipt_max=5)
BOT, PERSON = 3, 8
Event = tuple[int, int, int]


def clicks(actor: int, count: int, every_s: float, receipt: int = NO_RECEIPT) -> list[Event]:
    return [(actor, int(number * every_s * SECOND_US), receipt) for number in range(count)]


def found(events: list[Event], rule: FloodRule = RULE) -> dict[int, str]:
    actors, times_us, receipts = np.array(events, dtype=np.int64).reshape(-1, 3).T
    return dict(outliers(actors, times_us, receipts, rule))


def test_a_burst_is_an_outlier_and_a_steady_hand_is_not() -> None:
    assert found(clicks(BOT, 11, 1.0)) == {BOT: "more than 10 events a minute"}
    assert found(clicks(PERSON, 40, 6.1)) == {}


def test_a_slow_bot_is_caught_by_the_day_and_two_days_are_two() -> None:
    assert found(clicks(BOT, 51, 600.0)) == {BOT: "more than 50 events a day"}
    assert found(clicks(PERSON, 100, 1800.0)) == {}


def test_many_events_on_one_answer_are_an_outlier() -> None:
    assert found(clicks(BOT, 6, 100.0, 1)) == {BOT: "more than 5 events on one answer"}
    assert found(clicks(PERSON, 5, 100.0, 1) + clicks(PERSON, 5, 100.0, 2)) == {}


def test_events_of_nobody_count_for_nobody_and_without_bounds_everybody_stays() -> None:
    assert found(clicks(NOBODY, 500, 0.1)) == {}
    assert found(clicks(BOT, 500, 0.1, 1), FloodRule(0, 0, 0)) == {}
    assert found([]) == {}


def test_a_shopper_comes_before_a_session() -> None:
    assert actor_of("who", "visit") == "who"
    assert actor_of("", "visit") == "visit"


events = st.lists(
    st.tuples(st.integers(-1, 2), st.integers(0, 200).map(lambda s: s * SECOND_US), st.integers(-1, 2)),
    max_size=40,
)


@settings(derandomize=True, max_examples=200)
@given(events, st.integers(0, 6), st.integers(0, 3))
def test_the_rule_is_what_counting_every_window_says(drawn: list[Event], minute: int, receipt: int) -> None:
    wanted = set()
    for actor, at_us, _ in drawn:
        inside = sum(who == actor and at_us <= one < at_us + 60 * SECOND_US for who, one, _ in drawn)
        if actor != NOBODY and minute and inside > minute:
            wanted.add(actor)
    for (actor, on), count in Counter((who, on) for who, _, on in drawn).items():
        if actor != NOBODY and on != NO_RECEIPT and receipt and count > receipt:
            wanted.add(actor)
    assert set(found(drawn, FloodRule(minute, 0, receipt))) == wanted
