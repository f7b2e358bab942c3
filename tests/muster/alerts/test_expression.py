"""What expressions mean, and that a text which is none is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.alerts.expression import ExpressionError, Value, duration_s, parse
from muster.alerts.series import Sample, SeriesStore, labels_of

A, B = labels_of({"instance": "a"}), labels_of({"instance": "b"})
NOTHING = labels_of({})


def store() -> SeriesStore:
    """Two replicas, looked at every 10 s until 60 s. The counter of b begins again at 40 s."""
    kept = SeriesStore({"up", "calls_total", "level"}, keep_s=1000.0)
    for at_s in range(0, 70, 10):
        kept.add(
            at_s,
            "all",
            [
                Sample("up", A, 1.0),
                Sample("up", B, 0.0),
                Sample("calls_total", A, at_s * 2.0),
                Sample("calls_total", B, float(at_s if at_s < 40 else at_s - 40)),
                Sample("level", A, float(at_s % 40)),
                Sample("ignored", A, 1.0),
            ],
        )
    return kept


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("up", {A: 1.0, B: 0.0}),
        ('up{instance="b"}', {B: 0.0}),
        ('up{instance!="b"}', {A: 1.0}),
        ('up{instance=~"a|c"}', {A: 1.0}),
        ('up{instance!~".*"}', {}),
        ('up{colour=""}', {A: 1.0, B: 0.0}),
        ("ignored", {}),
        ("up == 0", {B: 0.0}),
        ("0 < up", {A: 1.0}),
        ("1 + 2 * 3", 7.0),
        ("(1 + 2) * 3", 9.0),
        ("8 / 4 / 2 - 1", 0.0),
        ("time() - 10", 50.0),
        ("up - up", {A: 0.0, B: 0.0}),
        ("level / 0", {A: math.inf}),
        ("up + level", {A: 21.0}),
        ("rate(calls_total[30s])", {A: 2.0, B: 1.0}),
        # From 30 to 60 s b counted 0 and 20 after it began again; the samples lie 20 s apart.
        ("increase(calls_total[31s])", {A: 60.0, B: 20.0}),
        ("delta(level[21s])", {A: 20.0 - 0.0}),
        ("changes(up[1m])", {A: 0.0, B: 0.0}),
        ("changes(level[25s])", {A: 2.0}),
        ("max_over_time(level[1m])", {A: 30.0}),
        ("min_over_time(level[11s])", {A: 10.0}),
        ("avg_over_time(level[21s])", {A: 10.0}),
        ("sum(up)", {NOTHING: 1.0}),
        ("count(up)", {NOTHING: 2.0}),
        ("avg(calls_total)", {NOTHING: 70.0}),
        ("max by (instance) (up)", {A: 1.0, B: 0.0}),
        ("min(up) by (colour)", {NOTHING: 0.0}),
        ("sum(nothing)", {}),
        ("up == 1 and level", {A: 1.0}),
        ("up unless level", {B: 0.0}),
        ("up and on (colour) level", {A: 1.0, B: 0.0}),
        ("up > 0 and up < 0", {}),
    ],
)
def test_an_expression_means_what_prometheus_says(text: str, meaning: Value) -> None:
    found = parse(text).value(store(), 60.0)
    if isinstance(meaning, dict):
        assert isinstance(found, dict)
        assert found == pytest.approx(meaning)
    else:
        assert found == pytest.approx(meaning)


def test_zero_divided_by_zero_meets_no_condition() -> None:
    kept = SeriesStore({"up"}, keep_s=10.0)
    kept.add(0.0, "b", [Sample("up", B, 0.0)])
    found = parse("up / up").value(kept, 0.0)
    assert isinstance(found, dict)
    assert math.isnan(found[B])
    assert parse("up / up > 0").value(kept, 0.0) == {}
    assert parse("up / up <= 0").value(kept, 0.0) == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the end"),
        ("up ==", "the end"),
        ("up)", "')' is not expected at character 2"),
        ("up[5m]", "'['"),
        ("rate(up)", "'[' is wanted"),
        ("rate(up[5])", "a duration is wanted"),
        ("histogram_quantile(0.9, up)", "'histogram_quantile' is not known"),
        ("up or down", "'or'"),
        ("up{instance}", "one of = !="),
        ("up{instance<'a'}", "one of = != =~ !~"),
        ('up{instance=~"(a"}', "pattern"),
        ("up @ 5", "not understood at character"),
        ("(" * 200 + "up" + ")" * 200, "too deeply"),
        ("up" * 3000, "longer than"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(text: str, told: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        parse(text)
    assert told in str(raised.value)


@given(st.text(alphabet='abup_ 0123456789.smhd+-*/()[]{}<>=!~",', max_size=60))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        parsed = parse(text)
    except ExpressionError:
        return
    try:
        parsed.value(store(), 60.0)
    except ExpressionError:
        return


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30.0), ("5m", 300.0), ("1h30m", 5400.0), ("3d", 259_200.0), ("1w", 604_800.0)],
)
def test_durations_are_prometheus_s(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


def test_a_scaled_expression_looks_back_less_far_and_compares_with_the_same() -> None:
    parsed = parse("max(rate(calls_total[5m])) > 3 and on (a) rate(calls_total[1h]) > 2")
    assert parsed.window_s() == 3600.0
    assert parsed.scaled(1 / 60) == parse(
        "max(rate(calls_total[5s])) > 3 and on (a) rate(calls_total[1m]) > 2"
    )
    assert parsed.names() == {"calls_total"}
