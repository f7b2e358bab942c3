"""Golden requests hold what another implementation must give, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from muster.v1 import catalogue_pb2
from training.golden import STEADY, Reference, golden_cases


class Moved:
    """Scores that move by so much beside a product of that name."""

    def __init__(self, by: dict[str, float]) -> None:
        self._by = by

    def scores(self, query: str, product: catalogue_pb2.Product) -> dict[str, float | None]:
        return {
            "dense": 0.5,
            "late": 0.25,
            "cross_small": self.cross("cross_small", query, [product]),
            "cross_large": None,
        }

    def cross(self, tier: str, query: str, products: Sequence[catalogue_pb2.Product]) -> float:
        return 1.0 + max(self._by.get(other.product_id, 0.0) for other in products[1:] or products)


def told(by: dict[str, float]) -> list[float | None]:
    pairs = [(name, catalogue_pb2.Product(product_id=name)) for name in ("a", "b", "c")]
    reference = cast(Reference, Moved(by))
    return [case["cross_small"] for case in golden_cases(reference, pairs)["cases"]]


def test_a_score_that_stays_whatever_is_beside_it_is_told() -> None:
    assert told({}) == [1.0, 1.0, 1.0]
    assert told({"b": STEADY / 2}) == [1.0, 1.0 + STEADY / 2, 1.0]


@pytest.mark.parametrize("by", [{"b": 2 * STEADY}, {"b": -2 * STEADY, "a": -2 * STEADY, "c": 2 * STEADY}])
def test_one_that_any_company_moves_is_left_out(by: dict[str, float]) -> None:
    assert told(by) == [None, None, None]
