"""`muster search`: what it asks and prints."""

from __future__ import annotations

import json

from tests.muster.commands.command_line import muster
from tests.muster.conftest import Start


def test_a_search_prints_products_and_the_receipt(start_replicas: Start) -> None:
    replica = start_replicas(1)[0]
    done = muster("search", "tea", "--target", replica.endpoint, "--deadline", "20s", "--explain")
    assert done.exit_code == 0, done.output
    assert "a [bold] kettle" in done.stdout, "text of the catalogue is never markup"
    assert "9.50" in done.stdout and "bm25 2.5" in done.stdout
    assert "tier late, depth 200" in done.stdout and "97% of the best plan, reason deadline" in done.stdout


def test_a_search_prints_one_json_object(start_replicas: Start) -> None:
    replica = start_replicas(1)[0]
    done = muster("search", "tea", "--deadline", "20s", "--json", MUSTER_TARGET=replica.endpoint)
    answer = json.loads(done.stdout)
    assert answer["deadline_ms"] == 20000.0
    assert answer["receipt"]["tier"] == "late" and answer["receipt"]["reason"] == "deadline"
    assert answer["results"][0]["stock"] == 0
    assert answer["results"][0]["signals"] == [{"name": "bm25", "value": 2.5}, {"name": "cross"}]


def test_filters_reach_the_service(start_replicas: Start) -> None:
    replica = start_replicas(1)[0]
    done = muster(
        *("search", "tea", "--target", replica.endpoint, "--deadline", "20s", "--brand", "A", "--brand", "B"),
        *("--price-min", "1", "--price-max", "2.5", "--in-stock", "--attribute", "color=red"),
        *("--attribute", "color=blue", "-n", "3", "--facet", "brand"),
    )
    assert done.exit_code == 0, done.output
    sent = replica.requests[0]
    assert list(sent.filter.brands) == ["A", "B"] and sent.filter.price_max == 2.5 and sent.filter.in_stock
    assert [(entry.name, list(entry.values)) for entry in sent.filter.attributes] == [
        ("color", ["red", "blue"])
    ]
    assert sent.page_size == 3 and list(sent.facets) == ["brand"]


def test_a_priority_reaches_the_service_and_an_unknown_one_does_not(start_replicas: Start) -> None:
    replica = start_replicas(1)[0]
    line = ("search", "tea", "--target", replica.endpoint, "--deadline", "20s", "--priority")
    assert muster(*line, "sheddable").exit_code == 0
    assert muster(*line, "urgent").exit_code == 2
    assert [request.priority for request in replica.requests] == [3]


def test_whose_search_it_is_reaches_the_service(start_replicas: Start) -> None:
    replica = start_replicas(1)[0]
    line = ("search", "tea", "--target", replica.endpoint, "--deadline", "20s")
    done = muster(*line, "--shopper", "ada", "--session", "visit", "--history", "p1", "--history", "p2")
    assert done.exit_code == 0, done.output
    sent = replica.requests[0]
    assert (sent.shopper_id, sent.session_id) == ("ada", "visit")
    assert [item.product_id for item in sent.history] == ["p1", "p2"]
