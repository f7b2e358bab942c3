"""On a shop whose truth is known the analysis finds it, within its own intervals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from muster.insight.analysis import Choice, Insight, analyse, write_parquet
from muster.insight.errors import InsightError
from muster.insight.rates import BY_CHANCE, PLAIN, STRATIFIED
from muster.insight.simulate import TIERS, Shop, Simulated
from muster.insight.trial import held
from tests.muster.insight.conftest import NOW_US
from tests.muster.insight.event_rows import events, row


def _holds(found: dict[str, float], truth: float) -> bool:
    return found["low"] <= truth <= found["high"]


def test_the_funnel_has_the_true_rates_of_its_steps(insight: Insight, shop: Simulated) -> None:
    rows = insight.table("funnel").rows
    assert [one["step"] for one in rows] == ["saw products", "clicked", "put in the cart", "bought"]
    counts = [one["count"] for one in rows]
    assert counts == sorted(counts, reverse=True)
    clicks, carts, buys = (_counted(shop, kind) for kind in ("click", "cart", "buy"))
    means = {one["figure"]: one for one in insight.table("means").rows}
    # 40 clicks with wrong clocks were planted, and are kept.
    assert means["clicks a session"]["count"] == clicks
    assert means["purchases a session"]["count"] == buys
    assert abs(carts / (clicks - 40) - shop.truth.cart_given_click) < 0.03


def test_clicks_by_position_are_those_that_were_drawn(insight: Insight, shop: Simulated) -> None:
    shown = shop.impressions
    for one in insight.table("clicked_by_position").rows:
        here = shown.position == one["position"]
        assert one["of"] == here.sum()
        assert one["count"] == shown.clicked[here].sum()
        assert _holds(one, one["value"])


def test_a_tier_drawn_by_chance_shows_its_true_lift_and_the_plain_difference_misses_it(
    insight: Insight, shop: Simulated
) -> None:
    rows = {
        (one["tier"], one["compared"]): one
        for one in insight.table("lift").rows
        if one["outcome"] == "clicked"
    }
    for tier in TIERS[1:]:
        truth = shop.truth.click_share[tier] - shop.truth.click_share[TIERS[0]]
        assert _holds(rows[tier, BY_CHANCE], truth)
        assert _holds(rows[tier, STRATIFIED], truth)
    late = shop.truth.click_share["late"] - shop.truth.click_share["lexical"]
    assert not _holds(rows["late", PLAIN], late)


def test_without_an_experiment_that_is_named_nothing_is_by_chance(read, shop: Simulated) -> None:  # type: ignore[no-untyped-def]
    found = analyse(read, {}, Choice(), NOW_US)
    assert {one["compared"] for one in found.table("lift").rows} == {PLAIN, STRATIFIED}
    assert "not what the tier does" in found.table("lift").note


def test_queries_without_results_have_their_true_share(insight: Insight, shop: Simulated) -> None:
    rows = insight.table("queries_without_results").rows
    assert _holds(rows[0], shop.truth.nothing_found_share)
    assert [one["query"] for one in rows[1:]] == ["no such thing"]


def test_shoppers_come_back_as_often_as_they_do(insight: Insight, shop: Simulated) -> None:
    rows = insight.table("returning").rows
    held = [
        _holds(one, truth)
        for one, truth in zip(rows, (*shop.truth.returning, 0.0), strict=True)
        if not one["hidden"]
    ]
    assert sum(held) >= len(held) - 1
    assert _holds(rows[0], shop.truth.returning[0])
    assert len(insight.table("cohorts").rows) == 7 + 6 + 5 + 4 + 3 + 2 + 1


def test_the_trend_holds_the_true_growth_and_the_weekdays_their_weights(
    insight: Insight, shop: Simulated
) -> None:
    (growth,) = insight.table("growth").rows
    assert _holds(growth, shop.truth.weekly_growth - 1)
    weights = np.array(Shop().weekday_weights)
    truth = weights / np.exp(np.mean(np.log(weights)))
    rows = insight.table("weekdays").rows
    assert rows[0]["weekday"] == "Monday"
    assert sum(_holds(one, value) for one, value in zip(rows, truth, strict=True)) >= 6


def test_segments_are_those_of_the_shop_and_carry_its_words(insight: Insight, shop: Simulated) -> None:
    rows = insight.table("segments").rows
    assert len(rows) == len(shop.truth.themes)
    for theme in shop.truth.themes:
        (found,) = [one for one in rows if theme in one["words"].split(", ")]
        assert found["count"] >= 10


def test_every_row_that_is_shown_is_of_enough_people_and_has_its_interval(insight: Insight) -> None:
    rows = [(table.name, one) for table in insight.tables for one in table.rows]
    assert len(rows) > 100
    for name, one in rows:
        if one["hidden"]:
            assert one["value"] is None
        else:
            assert one["people"] >= insight.least
            assert name == "daily" or one["low"] <= one["value"] <= one["high"], (name, one)


def test_the_trial_counts_what_was_found(insight: Insight, shop: Simulated) -> None:
    found = dict(held(shop, insight))
    assert found["what was planted is left out"]
    assert found["number of groups"]
    assert not found["effect of late, plain"]
    assert len(found) == 13


def test_json_and_parquet_hold_the_same_rows(insight: Insight, tmp_path: Path) -> None:
    plain = json.loads(json.dumps(insight.plain()))
    for path in write_parquet(insight, tmp_path / "tables"):
        assert pq.read_table(path).to_pylist() == plain["tables"][path.stem]["rows"]
    assert (tmp_path / "tables" / "funnel.parquet").is_file()
    assert not list((tmp_path / "tables").glob("*.part"))


def test_too_few_people_are_not_looked_at() -> None:
    with pytest.raises(InsightError, match="of 9 people"):
        analyse(events([row(person=at) for at in range(9)]), {}, Choice(), NOW_US)
    with pytest.raises(InsightError, match="fewer than 10 people may not be shown"):
        Choice(least=5)


def test_what_is_not_in_the_data_is_said_and_not_made_up() -> None:
    found = analyse(events([row("click", at, product_id="p") for at in range(30)]), {}, Choice(), NOW_US)
    for name in (
        "clicked_by_position",
        "clicked_by_tier",
        "lift",
        "queries",
        "segments",
        "returning",
        "growth",
    ):
        table = found.table(name)
        assert not table.rows, name
        assert table.note, name


def _counted(shop: Simulated, kind: str) -> int:
    rows = shop.events.select(["kind", "event_id", "receipt", "shopper"]).to_pylist()
    return len(
        {
            one["event_id"]
            for one in rows
            if one["kind"] == kind and one["receipt"] != "unknown" and not one["shopper"].startswith("bot")
        }
    )
