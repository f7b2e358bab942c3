"""The simulated shop behaves as it says it does."""

from __future__ import annotations

import numpy as np
import pytest

from muster.insight.simulate import SCHEMA, TIERS, Shop, Simulated, simulate


def test_the_same_seed_gives_the_same_events(shop: Simulated) -> None:
    small = Shop(days=7, active_first_week=20)
    assert simulate(small, seed=5).events.equals(simulate(small, seed=5).events)
    assert not simulate(small, seed=5).events.equals(simulate(small, seed=6).events)


def test_events_have_the_columns_of_an_event_file_and_come_in_the_order_of_time(shop: Simulated) -> None:
    assert shop.events.schema.equals(SCHEMA)
    assert np.all(np.diff(shop.events["committed_unix_us"].to_numpy()) >= 0)


def test_clicks_follow_examination_times_attraction(shop: Simulated) -> None:
    shown, truth = shop.impressions, shop.truth
    calm = np.isin(_hours(shop)[shown.search], Shop().busy_hours, invert=True)
    likely = truth.examined[shown.position - 1] * truth.attraction[shown.query, shown.product]
    for position in range(1, Shop().places + 1):
        here = calm & (shown.position == position)
        spread = np.sqrt(np.sum(likely[here] * (1 - likely[here])))
        assert abs(shown.clicked[here].sum() - likely[here].sum()) < 4 * spread


def test_dearer_tiers_have_more_clicks_in_truth(shop: Simulated) -> None:
    shares = [shop.truth.click_share[tier] for tier in TIERS]
    assert shares == sorted(shares)
    assert shares[-1] - shares[0] > 0.03


def test_what_is_planted_is_counted(shop: Simulated) -> None:
    receipts = shop.events["receipt"].to_pylist()
    assert receipts.count("unknown") == shop.truth.left_out["unknown_receipt"]
    ids = shop.events["event_id"].to_pylist()
    assert len(ids) - len(set(ids)) == shop.truth.left_out["duplicate"]


@pytest.mark.parametrize("wrong", [{"themes": 0}, {"days": 3}, {"candidates": 5}, {"noise": (1.0,)}])
def test_an_impossible_shop_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be|needs|noise"):
        Shop(**wrong)  # type: ignore[arg-type]


def _hours(shop: Simulated) -> np.ndarray:
    """The hour of each search; sessions that run over the hour belong to the first."""
    answers = shop.events.filter(np.array(shop.events["kind"].to_pylist()) == "answer")
    search = np.array([int(one[8:], 16) for one in answers["receipt_id"].to_pylist()])
    start = np.array([int(one[:8], 16) for one in answers["receipt_id"].to_pylist()])
    session = np.array(answers["session"].to_pylist())
    first: dict[str, int] = {}
    for name, at_s in zip(session, start, strict=True):
        first[name] = min(first.get(name, at_s), at_s)
    hours = np.zeros(search.max() + 1, dtype=int)
    hours[search] = [first[name] // 3600 % 24 for name in session]
    return hours
