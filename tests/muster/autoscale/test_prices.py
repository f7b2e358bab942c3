"""Prices in units that mean the same for every bundle."""

from __future__ import annotations

import pytest

from muster.autoscale.prices import Looks, price_units
from muster.v1 import admin_pb2
from tests.muster.conftest import Start


def status(price: float, *plans: tuple[float, float]) -> admin_pb2.StatusResponse:
    return admin_pb2.StatusResponse(
        price=price,
        plans=[admin_pb2.PlanStatus(expected_ndcg=ndcg, cost_ms=cost) for ndcg, cost in plans],
    )


def test_one_unit_is_the_price_at_which_the_best_plan_is_worth_no_more_than_the_cheapest() -> None:
    cheap, best = (0.60, 1.0), (0.70, 21.0)
    assert price_units(status(0.0, cheap, (0.65, 5.0), best)) == 0.0
    # At .005 a millisecond both are worth .595.
    assert price_units(status(0.005, cheap, (0.65, 5.0), best)) == pytest.approx(1.0)


@pytest.mark.parametrize("plans", [(), ((0.6, 1.0),), ((0.7, 1.0), (0.6, 5.0)), ((0.6, 0.0), (0.7, 0.0))])
def test_where_plans_do_not_differ_the_price_says_nothing(plans: tuple[tuple[float, float], ...]) -> None:
    assert price_units(status(0.5, *plans)) is None


def test_replicas_that_do_not_answer_are_passed_over(start_replicas: Start) -> None:
    replica = start_replicas(1)[0]
    with Looks() as looks:
        assert list(looks.statuses([replica.endpoint, "127.0.0.1:1"])) == [replica.endpoint]
        assert looks.units(["127.0.0.1:1"]) is None
