"""Actors that are faster than people are left out, and only those."""

from __future__ import annotations

from server.feedback.floods import FloodRule, actor_of, outliers

SECOND_US = 1_000_000
RULE = FloodRule(per_minute_max=10, per_day_max=50, per_receipt_max=5)


def clicks(
    actor: str, count: int, every_s: float, receipt: str = "", view: bool = False
) -> list[tuple[str, int, str, bool]]:
    return [(actor, int(number * every_s * SECOND_US), receipt, view) for number in range(count)]


def test_a_burst_is_an_outlier_and_a_steady_hand_is_not() -> None:
    assert outliers(clicks("bot", 11, 1.0), RULE) == {"bot": "more than 10 events a minute"}
    assert outliers(clicks("person", 40, 6.1), RULE) == {}


def test_a_slow_bot_is_caught_by_the_day_and_two_days_are_two() -> None:
    assert outliers(clicks("bot", 51, 600.0), RULE) == {"bot": "more than 50 events a day"}
    assert outliers(clicks("person", 100, 1800.0), RULE) == {}


def test_many_events_on_one_answer_are_an_outlier() -> None:
    assert outliers(clicks("bot", 6, 100.0, "r"), RULE) == {"bot": "more than 5 events on one answer"}
    assert outliers(clicks("person", 5, 100.0, "r") + clicks("person", 5, 100.0, "s"), RULE) == {}


def test_views_and_events_of_nobody_count_for_nobody() -> None:
    assert outliers(clicks("person", 500, 0.1, view=True), RULE) == {}
    assert outliers(clicks("", 500, 0.1), RULE) == {}
    assert outliers(clicks("bot", 500, 0.1), FloodRule(0, 0, 0)) == {}


def test_a_shopper_comes_before_a_session() -> None:
    assert actor_of("who", "visit") == "who"
    assert actor_of("", "visit") == "visit"
