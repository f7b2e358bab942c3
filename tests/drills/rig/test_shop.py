from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drills.rig import shop as shops
from drills.rig.cluster import Cluster, ClusterPlan
from drills.rig.shop import Loaded, choose_shop, fill, ndcg_at_10, search_requests, synthetic_shop
from muster.v1 import ranking_pb2

Scripted = Callable[..., ClusterPlan]


def write_set(folder: Path, *, products: int, query: str) -> None:
    folder.mkdir(parents=True)
    rows = {"product_id": [f"{folder.name}-{n}" for n in range(products)], "title": ["a lamp"] * products}
    pq.write_table(pa.table(rows), folder / "products.parquet")
    pq.write_table(
        pa.table({"query_id": ["1"], "query": [query], "split": ["dev"]}), folder / "queries.parquet"
    )
    labels = {"query_id": ["1"], "product_id": [f"{folder.name}-0"], "gain": [1.0], "split": ["dev"]}
    pq.write_table(pa.table(labels), folder / "labels.parquet")


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place where no real data is at hand."""
    monkeypatch.delenv("MUSTER_DATA", raising=False)
    monkeypatch.setattr(shops, "ROOT", tmp_path / "checkout")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_data_the_catalogue_is_synthetic_and_says_how_to_get_the_other(nowhere: Path) -> None:
    shop = choose_shop(None, 1)
    assert shop.name == "synthetic"
    assert "muster data get esci" in shop.note
    assert "MUSTER_DATA" in shop.note
    assert len(list(shop.products())) == shop.expected_products


def test_the_folder_that_the_environment_names_comes_first(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(nowhere / "elsewhere" / "esci", products=3, query="esci lamp")
    write_set(nowhere / "elsewhere" / "chorus", products=2, query="chorus lamp")
    write_set(nowhere / "data" / "esci", products=1, query="other")
    monkeypatch.setenv("MUSTER_DATA", str(nowhere / "elsewhere"))
    shop = choose_shop(None, 1)
    assert shop.name == "esci+chorus"
    assert [product.product_id for product in shop.products()] == [
        "esci-0", "esci-1", "esci-2", "chorus-0", "chorus-1",
    ]  # fmt: skip
    assert [(query.text, query.origin) for query in shop.queries] == [
        ("esci lamp", "esci"),
        ("chorus lamp", "chorus"),
    ]
    assert shop.queries[0].gains == {"esci-0": 1.0}
    assert all(query.held_back for query in shop.queries)


def test_what_was_fetched_into_data_is_found(nowhere: Path) -> None:
    write_set(nowhere / "data" / "esci", products=1, query="lamp")
    assert choose_shop(None, 1).name == "esci"


def test_wands_is_taken_where_nothing_else_is_there(nowhere: Path) -> None:
    write_set(nowhere / "data" / "wands", products=1, query="lamp")
    assert choose_shop(None, 1).name == "wands"


def test_a_size_asks_for_the_synthetic_catalogue(nowhere: Path) -> None:
    write_set(nowhere / "data" / "esci", products=1, query="lamp")
    assert choose_shop(7, 1).expected_products == 7


def test_a_large_file_is_cut(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shops, "PRODUCTS_MAX", 4)
    write_set(nowhere / "data" / "esci", products=9, query="lamp")
    shop = choose_shop(None, 1)
    assert (len(list(shop.products())), shop.expected_products) == (4, 4)
    assert "the first 4 of 9" in shop.note


def test_synthetic_queries_are_judged_and_repeat_for_a_seed() -> None:
    shop, again = synthetic_shop(50, 3, queries=5), synthetic_shop(50, 3, queries=5)
    assert shop.queries == again.queries
    assert all(any(gain > 0 for gain in query.gains.values()) for query in shop.queries)


def test_requests_are_ready_to_send() -> None:
    requests = search_requests(synthetic_shop(20, 1, queries=3).queries, page_size=5)
    decoded = [ranking_pb2.SearchRequest.FromString(request) for request in requests]
    assert len(decoded) == 3
    assert all(request.query and request.page_size == 5 for request in decoded)


def test_a_catalogue_is_loaded_once_whole(scripted: Scripted, tmp_path: Path) -> None:
    shop = synthetic_shop(1201, 1, queries=1)
    with Cluster(scripted(1), tmp_path / "cluster") as cluster:
        cluster.start()
        loaded = fill(cluster, shop.products(), total=shop.expected_products, progress=False)
        assert loaded == Loaded(1201, 1201)
        assert cluster.status(cluster.replicas[0]).head_sequence == 1201


def test_a_catalogue_too_large_for_its_time_is_loaded_in_part(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = synthetic_shop(1500, 1, queries=3)
    # A sample takes at least half a second by definition: 400 in 0.5 s, so 800 in one.
    monkeypatch.setattr(shops, "BUILD_OVERHEAD_S", 1e9)
    with Cluster(scripted(1), tmp_path / "cluster") as cluster:
        cluster.start()
        loaded = fill(cluster, shop.judged_first(), total=1500, progress=False, within_s=1.0)
        assert loaded == Loaded(1200, 1500)
        assert cluster.status(cluster.replicas[0]).head_sequence == 1200


def test_products_with_labels_come_first() -> None:
    shop = synthetic_shop(300, 1, queries=4)
    labelled = {name for query in shop.queries for name in query.gains}
    names = [product.product_id for product in shop.judged_first()]
    assert set(names[: len(labelled)]) == labelled
    assert len(set(names)) == 300


def test_ndcg_counts_linear_gains_of_the_first_ten() -> None:
    gains = {"a": 3.0, "b": 1.0, "c": 0.0}
    assert ndcg_at_10(["a", "b"], gains) == pytest.approx(1.0)
    expected = (1.0 + 3.0 / math.log2(3)) / (3.0 + 1.0 / math.log2(3))
    assert ndcg_at_10(["b", "a"], gains) == pytest.approx(expected)
    assert ndcg_at_10(["x"] * 10 + ["a"], gains) == 0.0
    assert ndcg_at_10(["a"], {"a": 0.0}) is None
