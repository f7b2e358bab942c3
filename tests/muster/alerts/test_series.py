"""Samples over time: what ends, what grows old, and how much is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.alerts.series import Sample, SeriesStore, labels_of, read_exposition, total_increase

A = labels_of({"instance": "a"})
PAGE = """\
# HELP muster_primary 1 on the primary.
# TYPE muster_primary gauge
muster_primary 1.0
# TYPE muster_answered_by_tier_total counter
muster_answered_by_tier_total{tier="late"} 12.0
muster_answered_by_tier_total{tier="a \\"b\\" {c}"} 3.0
muster_products 5.0
"""


def every(labels: object) -> bool:
    return True


def test_the_named_samples_of_a_page_are_read_with_more_labels() -> None:
    names = {"muster_primary", "muster_answered_by_tier_total"}
    samples = list(read_exposition(PAGE, names, {"instance": "a"}))
    assert samples == [
        Sample("muster_primary", A, 1.0),
        Sample("muster_answered_by_tier_total", labels_of({"tier": "late", "instance": "a"}), 12.0),
        Sample("muster_answered_by_tier_total", labels_of({"tier": 'a "b" {c}', "instance": "a"}), 3.0),
    ]


@pytest.mark.parametrize("text", ["muster_primary", "muster_primary one", 'muster_primary{a="b 1'])
def test_a_line_that_is_no_sample_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        list(read_exposition(text, {"muster_primary"}, {}))


def test_a_series_that_a_scrape_no_longer_brings_has_ended_and_its_past_is_kept() -> None:
    kept = SeriesStore({"level"}, keep_s=100.0)
    kept.add(0.0, "a", [Sample("level", A, 3.0)])
    kept.add(10.0, "a", [])
    assert kept.instant("level", every, 10.0) == {}
    assert kept.window("level", every, 10.0, 20.0) == {A: [(0.0, 3.0)]}
    kept.add(20.0, "a", [Sample("level", A, 4.0)])
    assert kept.instant("level", every, 20.0) == {A: 4.0}


def test_a_target_that_is_not_scraped_any_more_grows_stale() -> None:
    kept = SeriesStore({"level"}, keep_s=100.0, stale_after_s=30.0)
    kept.add(0.0, "a", [Sample("level", A, 3.0)])
    assert kept.instant("level", every, 29.0) == {A: 3.0}
    assert kept.instant("level", every, 31.0) == {}


def test_three_days_of_a_counter_cost_some_hundred_points_and_still_tell_its_growth() -> None:
    kept = SeriesStore({"calls_total"}, keep_s=3 * 86_400.0)
    moments = range(0, 4 * 86_400, 15)
    for at_s in moments:
        kept.add(float(at_s), "a", [Sample("calls_total", A, at_s / 5)])
    now_s = float(moments[-1])
    points = kept.window("calls_total", every, now_s, 3 * 86_400.0)[A]
    assert len(points) < 1500
    for window_s in (300.0, 3600.0, 6 * 3600.0, 2.9 * 86_400.0):
        inside = kept.window("calls_total", every, now_s, window_s)[A]
        grown = total_increase(inside)
        assert grown == pytest.approx(window_s / 5, rel=0.06)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30), st.integers(0, 29))
def test_a_counter_that_begins_again_loses_no_growth(steps: list[int], reset: int) -> None:
    # Whole numbers: a small step on a large count is rounded away before anyone reads it.
    total, value, points = 0.0, 0.0, []
    for number, step in enumerate(steps):
        if number == reset:
            value = 0.0
        if points and value + step >= points[-1][1] and number == reset:
            return  # what nobody can see from the samples
        value += step
        if points:
            total += step
        points.append((float(number), value))
    assert total_increase(points) == pytest.approx(total)
