"""The choice for a deadline, on made-up students."""

from __future__ import annotations

import pytest

from muster.bundle import BUNDLE_BYTES_MAX
from training.choice import Choice, Option, choose, front

QUERIES = [str(number) for number in range(40)]
LATE = {"shop": {query: 0.6 + 0.005 * number for number, query in enumerate(QUERIES)}}


def option(trial: int, ms: float, gain: float, *, spread: float = 0.01, mib: float = 20.0) -> Option:
    """A student that gains the same on most queries, more on some and less on others."""
    quality = {
        query: late + gain + (spread if number % 2 else -spread)
        for number, (query, late) in enumerate(LATE["shop"].items())
    }
    return Option(trial, f"student {trial}", 8, ms, int(mib * 2**20), {"shop": quality})


def chosen(options: list[Option], deadline_ms: float) -> Choice:
    return choose(options, LATE, deadline_ms=deadline_ms, usable_share=0.7, query_ms=2.0, seed=3, rounds=400)


SMALL, MIDDLE, LARGE = option(0, 8.0, 0.02), option(1, 20.0, 0.04), option(2, 60.0, 0.06)


@pytest.mark.parametrize(
    ("deadline_ms", "taken"), [(8.0, None), (15.0, SMALL), (50.0, MIDDLE), (85.0, MIDDLE), (90.0, LARGE)]
)
def test_a_longer_deadline_buys_a_better_student(deadline_ms: float, taken: Option | None) -> None:
    assert chosen([SMALL, MIDDLE, LARGE], deadline_ms).option == taken


def test_of_two_that_look_alike_the_surer_one_is_taken() -> None:
    sure, lucky = option(0, 10.0, 0.03, spread=0.001), option(1, 10.0, 0.035, spread=0.2)
    choice = chosen([lucky, sure], 50.0)
    assert choice.option == sure
    assert choice.gain is not None and 0.0 < choice.gain.low <= choice.gain.mean


def test_what_is_worth_hardly_more_does_not_make_a_student_dearer() -> None:
    cheap, dear = option(0, 10.0, 0.03), option(1, 20.0, 0.0305)
    choice = chosen([dear, cheap], 50.0)
    assert choice.option == cheap
    assert "within 0.001" in choice.reasons[-1] and "student 1" in choice.reasons[-1]
    assert chosen([cheap, option(1, 20.0, 0.033)], 50.0).option != cheap


def test_a_gain_that_may_be_none_is_no_reason_for_a_cross_encoder() -> None:
    choice = chosen([option(0, 10.0, 0.001, spread=0.2), option(1, 12.0, -0.02)], 50.0)
    assert choice.option is None and choice.gain is None
    assert "surely better than the cheap scores alone" in choice.reasons[-1]
    assert "So no cross-encoder is used" in choice.reasons[-1]


def test_a_student_that_no_bundle_has_room_for_is_not_taken() -> None:
    too_large = option(0, 10.0, 0.05, mib=BUNDLE_BYTES_MAX / 2**20 + 0.1)
    assert chosen([too_large, SMALL], 50.0).option == SMALL
    alone = chosen([too_large], 50.0)
    assert alone.option is None and "0 of them into a bundle of 24 MiB" in alone.reasons[1]


def test_where_nothing_fits_the_reason_names_what_the_cheapest_takes() -> None:
    choice = chosen([SMALL, MIDDLE], 8.0)
    assert choice.reasons[0].startswith("Of the deadline of 8 ms, 70% is planned with")
    assert choice.reasons[-1].endswith("The cheapest, student 0, depth 8, takes 6.00 ms.")


def test_the_front_is_what_nothing_as_cheap_betters() -> None:
    assert front([3.0, 1.0, 2.0, 2.0, 5.0], [0.7, 0.5, 0.6, 0.4, 0.65]) == [1, 2, 0]
    assert front([1.0, 1.0], [0.5, 0.6]) == [1]
    assert front([], []) == []
