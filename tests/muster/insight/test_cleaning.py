"""What cannot be believed is left out, counted, and named."""

from __future__ import annotations

from muster.insight.cleaning import Bounds, cleaned
from muster.insight.events import DAY_US, MINUTE_US, Events
from muster.insight.simulate import Simulated
from tests.muster.insight.conftest import NOW_US
from tests.muster.insight.event_rows import AT_US, events, row


def test_all_that_was_planted_is_found_and_nothing_else(read: Events, shop: Simulated) -> None:
    planted = dict(shop.truth.left_out)
    kept, left = cleaned(read, Bounds(), NOW_US)
    assert left.server_clock == planted.pop("wrong_clock")
    assert left.events == planted
    assert left.floods == 4
    assert len(kept) == len(read) - sum(planted.values())


def test_the_same_event_is_a_duplicate_with_an_id_and_without() -> None:
    same = [row(event_id="e1"), row(event_id="e1"), row(event_id="e2")]
    assert cleaned(events(same), Bounds(), NOW_US)[1].events == {"duplicate": 1}
    without = [row(product_id="p"), row(product_id="p"), row(product_id="q")]
    assert cleaned(events(without), Bounds(), NOW_US)[1].events == {"duplicate": 1}


def test_feedback_on_an_answer_that_is_not_among_the_answers_is_left_out() -> None:
    rows = [
        row("answer", 1, receipt_id="a1"),
        row("answer", 1, receipt_id="a2", at_unix_us=AT_US + MINUTE_US),
        row("click", 1, receipt_id="a1", at_unix_us=AT_US + 5),
        row("click", 1, receipt_id="made-up", at_unix_us=AT_US + 6),
        # After the last answer nobody knows whether there was one.
        row("click", 1, receipt_id="later", at_unix_us=AT_US + DAY_US),
    ]
    kept, left = cleaned(events(rows), Bounds(), NOW_US)
    assert left.events == {"unknown_receipt": 1}
    assert len(kept) == 4


def test_a_clock_that_jumps_is_corrected_by_the_commit_or_left_out() -> None:
    rows = [
        row(at_unix_us=AT_US - 400 * DAY_US, committed_unix_us=AT_US, product_id="a"),
        row(at_unix_us=AT_US + DAY_US, committed_unix_us=AT_US, product_id="b"),
        row(at_unix_us=NOW_US + 2 * DAY_US, product_id="c"),
        row(at_unix_us=86_400, product_id="d"),
    ]
    kept, left = cleaned(events(rows), Bounds(), NOW_US)
    assert left.server_clock == 2
    assert left.events == {"wrong_clock": 2}
    assert kept.at_us.tolist() == [AT_US, AT_US]


def test_the_bounds_are_the_most_that_a_person_does() -> None:
    def clicks(count: int, apart_us: int) -> list[dict[str, object]]:
        return [row(product_id=f"p{at}", at_unix_us=AT_US + at * apart_us) for at in range(count)]

    bounds = Bounds()
    assert not cleaned(events(clicks(60, 10)), bounds, NOW_US)[1].floods
    assert cleaned(events(clicks(61, 10)), bounds, NOW_US)[1].events == {"flood": 61}
    assert not cleaned(events(clicks(61, 1_100_000)), bounds, NOW_US)[1].floods
    assert cleaned(events(clicks(2_001, 10_000_000)), bounds, NOW_US)[1].floods == 1
    views = [one | {"kind": "view"} for one in clicks(500, 10)]
    assert not cleaned(events(views), bounds, NOW_US)[1].floods
    on_one = [one | {"receipt_id": "a"} for one in clicks(201, 10_000_000)]
    assert cleaned(events(on_one), bounds, NOW_US)[1].floods == 1
