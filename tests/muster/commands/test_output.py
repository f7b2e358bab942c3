"""Messages as JSON."""

from __future__ import annotations

from muster.commands.output import plain
from muster.v1 import admin_pb2, catalogue_pb2, ranking_pb2


def test_messages_become_plain_json_values() -> None:
    message = ranking_pb2.SearchResponse(
        receipt=ranking_pb2.Receipt(
            tier=ranking_pb2.TIER_CROSS_SMALL, applied_sequence=2**60, price=float("nan")
        ),
        results=[ranking_pb2.RankedProduct(product_id="P")],
    )
    found = plain(message)
    assert found["receipt"]["tier"] == "cross_small"
    assert found["receipt"]["applied_sequence"] == 2**60 and found["receipt"]["price"] is None
    assert "stock" not in found["results"][0] and "timings" not in found["receipt"]
    assert plain(admin_pb2.StatusResponse(role=admin_pb2.ROLE_PRIMARY))["role"] == "primary"
    assert plain(catalogue_pb2.Product(attributes={"b": "2", "a": "1"}))["attributes"] == {
        "a": "1",
        "b": "2",
    }
