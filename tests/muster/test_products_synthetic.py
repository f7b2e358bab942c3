"""The synthetic catalogue: repeatable, valid, and with relevance known by construction."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import pytest

from muster.products import read_judgements, read_products
from muster.products.synthetic import TYPES, Facts, Query, SyntheticCatalogue, grade, write_synthetic


def digest(catalogue: SyntheticCatalogue) -> str:
    found = hashlib.sha256()
    for product in catalogue.products():
        found.update(product.SerializeToString(deterministic=True))
    return found.hexdigest()


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert digest(SyntheticCatalogue(200, 7)) == digest(SyntheticCatalogue(200, 7))
    assert digest(SyntheticCatalogue(200, 7)) != digest(SyntheticCatalogue(200, 8))


def test_the_bytes_do_not_change_between_machines_and_versions() -> None:
    # Benchmarks and stored results name catalogues by seed alone.
    assert (
        digest(SyntheticCatalogue(50, 1))
        == "86a9b653c2be25608506b5b4a764806399cda6ed20fa426fd5d0578389739b8e"
    )


def test_a_small_catalogue_begins_a_large_one() -> None:
    small, large = SyntheticCatalogue(20), SyntheticCatalogue(10_000_000)
    assert [small.product(i) for i in range(20)] == [large.product(i) for i in range(20)]
    assert large.product(9_999_999).product_id == "S09999999"


def test_products_are_varied_and_valid() -> None:
    products = list(SyntheticCatalogue(1_000).products())
    assert len({product.product_id for product in products}) == 1_000
    assert len({product.title for product in products}) > 950
    assert all(product.title and product.brand and len(product.category) == 3 for product in products)
    assert 0 < sum(product.HasField("stock") and product.stock == 0 for product in products) < 200
    assert 0 < sum(not product.HasField("price") for product in products) < 150
    assert all(0 <= product.rating <= 5 and product.price >= 0 for product in products)
    assert len({product.category[2] for product in products}) == len(TYPES)


@pytest.mark.parametrize(
    ("kind", "brand", "color", "expected"),
    [
        (0, "A", "red", 3),
        (0, "A", "blue", 2),
        (0, "B", "blue", 1),
        (1, "A", "red", 1),
        (1, "A", "blue", 0),
        (9, "A", "red", 0),
    ],
)
def test_grades_follow_from_the_facts(kind: int, brand: str, color: str, expected: int) -> None:
    query = Query("Q", "red A", "dev", 0, (("brand", "A"), ("color", "red")))
    assert grade(query, Facts(0, kind, brand, {"color": color})) == expected


def test_every_query_has_a_product_of_the_best_grade() -> None:
    catalogue = SyntheticCatalogue(500, 3)
    queries = catalogue.queries(40)
    judged = catalogue.judgements(queries)
    assert all(max(judged.gains[query.query_id].values()) == 3.0 for query in queries)
    assert {query.split for query in queries} == {"train", "dev", "test"}
    facts = {f"S{number:08d}": catalogue.facts(number) for number in range(500)}
    for query in queries:
        expected = {name: float(grade(query, fact)) for name, fact in facts.items() if grade(query, fact)}
        assert judged.gains[query.query_id] == expected


def test_the_files_give_back_catalogue_and_judgements(tmp_path: Path) -> None:
    seen: list[int] = []
    write_synthetic(tmp_path / "a", products=300, queries=20, seed=5, progress=seen.append)
    write_synthetic(tmp_path / "b", products=300, queries=20, seed=5)
    catalogue = SyntheticCatalogue(300, 5)
    assert list(read_products(tmp_path / "a")) == list(catalogue.products())
    assert read_judgements(tmp_path / "a", None) == catalogue.judgements(catalogue.queries(20))
    for name in ("products", "queries", "labels"):
        assert (tmp_path / "a" / f"{name}.parquet").read_bytes() == (
            tmp_path / "b" / f"{name}.parquet"
        ).read_bytes()
    assert seen == [300, 600], "once for the products, once for the judgements"
    assert not list(tmp_path.rglob("*.part"))


def test_memory_does_not_grow_with_the_catalogue(tmp_path: Path) -> None:
    def peak(products: int) -> int:
        tracemalloc.start()
        try:
            write_synthetic(tmp_path / str(products), products=products, queries=20)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # Two batches of 4,096 rows are held at a time: both have as many, the larger has twice as many to write.
    assert peak(22_000) < 1.2 * peak(11_000)


def test_progress_is_told_while_files_are_written(tmp_path: Path) -> None:
    seen: list[int] = []
    write_synthetic(tmp_path, products=9_000, queries=20, progress=seen.append)
    assert seen[:3] == [4_096, 8_192, 9_000]
    assert seen == sorted(seen)
    assert len(seen) == 6
    assert seen[-1] == 18_000


def test_an_empty_catalogue_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        SyntheticCatalogue(0)
