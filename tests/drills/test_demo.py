from __future__ import annotations

from rich.console import Console

from drills.demo import Asked, answers_table, choose_queries
from drills.rig.shop import Query
from muster.v1 import ranking_pb2


def test_queries_are_taken_in_turn_from_each_origin() -> None:
    def query(text: str, origin: str, gain: float = 1.0) -> Query:
        return Query(text, origin, {"p": gain})

    queries = [
        query("red shoe", "esci"),
        query("unjudged words", "esci", gain=0.0),
        query("aaa", "esci"),
        query("blue shoe", "esci"),
        query("wide monitor", "chorus"),
    ]
    assert [one.text for one in choose_queries(queries, 3)] == ["red shoe", "wide monitor", "blue shoe"]
    assert [one.text for one in choose_queries([query("aaa", "x")], 2)] == ["aaa"]


def answered() -> Asked:
    response = ranking_pb2.SearchResponse(
        results=[ranking_pb2.RankedProduct(product_id="a", title="a red shoe", score=1.5, price=9.5)],
        receipt=ranking_pb2.Receipt(
            tier=ranking_pb2.TIER_LATE, depth=100, expected_ndcg=0.987, reason=ranking_pb2.REASON_DEADLINE
        ),
    )
    return Asked(Query("red shoe", "esci", {"a": 1.0}), 20.0, 7.123, 1, response)


def test_an_answer_is_described_as_promised() -> None:
    assert answered().describe() == {
        "query": "red shoe",
        "deadline_ms": 20.0,
        "took_ms": 7.12,
        "tier": "late",
        "depth": 100,
        "expected_ndcg": 0.987,
        "results": [
            {
                "product_id": "a",
                "title": "a red shoe",
                "brand": "",
                "score": 1.5,
                "price": 9.5,
                "stock": None,
            }
        ],
    }


def test_a_refused_query_is_shown_as_such() -> None:
    refused = Asked(Query("red shoe", "esci"), 5.0, 5.5, 5, None, "DeadlineExceeded: too little")
    described = refused.describe()
    assert (described["tier"], described["results"]) == (None, [])
    console = Console(width=120)
    with console.capture() as captured:
        console.print(answers_table([answered(), refused]))
    text = captured.get()
    for part in ("late@100", "deadline", "99%", "1.000", "a red shoe", "no answer", "DeadlineExceeded"):
        assert part in text
