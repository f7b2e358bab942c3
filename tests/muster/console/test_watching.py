"""Rates from what replicas count."""

from __future__ import annotations

from muster.console.watching import Counts, rates

PAGE = """\
# TYPE muster_answered_total counter
muster_answered_total {answered}
# TYPE muster_refused_total counter
muster_refused_total {refused}
# TYPE muster_answered_by_tier_total counter
muster_answered_by_tier_total{{tier="late"}} {answered}
# TYPE muster_price gauge
muster_price {price}
# TYPE something_else gauge
something_else 4
"""


def counts(answered: int, refused: int = 0, price: float = 0.0) -> Counts:
    return Counts.read(PAGE.format(answered=answered, refused=refused, price=price))


def test_rates_are_of_all_replicas_together() -> None:
    before = {"a": counts(100), "b": counts(50, 10)}
    after = {"a": counts(130, price=0.25), "b": counts(60, 20)}
    per_s, in_time, tiers, price = rates(before, after, 2.0)
    assert (per_s, in_time, tiers, price) == (20.0, 40 / 50, {"late": 20.0}, 0.25)


def test_a_counter_that_began_anew_and_a_new_replica_make_no_rate() -> None:
    assert rates({"a": counts(100)}, {"a": counts(5)}, 2.0)[0] == 0.0
    assert rates({"a": counts(100)}, {"b": counts(500)}, 2.0) == (None, None, {}, None)


def test_without_requests_there_is_no_share_in_time() -> None:
    assert rates({"a": counts(1)}, {"a": counts(1)}, 2.0)[1] is None
