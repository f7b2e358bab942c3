"""A garbled feed is seen by the check as what it was made to be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from drills.faults.feed import GARBLINGS, GOOD, MALFORMED, SUSPICIOUS, write_feed
from drills.rig.shop import synthetic_shop
from muster.products import read_products
from muster.products.feed import Fitness, inspect


def test_each_garbled_row_is_seen_as_its_kind_and_no_good_one_is(tmp_path: Path) -> None:
    shop = synthetic_shop(240, 3, queries=20)
    products = list(shop.products())
    garbled, good = products[: 2 * len(GARBLINGS)], products[2 * len(GARBLINGS) :]
    path = tmp_path / "feed.csv"
    written = write_feed(path, good, [query.text for query in shop.queries], garbled=garbled, seed=1)
    assert Counter(row.garbling for row in written) == {
        "": len(good),
        "repeated_id": 1,
        **{garbling.name: 2 for garbling in GARBLINGS},
    }
    report = inspect(path)
    seen = {fault.row: MALFORMED for fault in report.malformed}
    seen |= {suspect.row: SUSPICIOUS for suspect in report.suspects}
    assert {row.row: seen.get(row.row, GOOD) for row in written} == {row.row: row.kind for row in written}
    assert all(fault.column or "fields" in fault.problem for fault in report.malformed)
    assert report.fitness is Fitness.WARNED


def test_good_rows_come_back_as_the_products_they_were(tmp_path: Path) -> None:
    products = list(synthetic_shop(50, 1, queries=1).products())
    path = tmp_path / "feed.csv"
    write_feed(path, products, ["kettle"], garbled=[], seed=1)
    back = {product.product_id: product for product in read_products(path, refuse=lambda problem: None)}
    assert back == {product.product_id: product for product in products}
