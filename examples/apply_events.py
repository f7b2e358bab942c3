"""Change the live catalogue, and read one's own write: `python examples/apply_events.py [HOST:PORT,...]`."""

from __future__ import annotations

import sys

from muster.client import Client, MusterError, delete, patch, upsert
from muster.v1 import catalogue_pb2


def main(target: str = "127.0.0.1:50051") -> int:
    """Insert a product, change its price and stock, find it, delete it. Returns: the exit code."""
    kettle = catalogue_pb2.Product(
        product_id="example-kettle",
        title="Electric kettle with a gooseneck spout",
        brand="Example",
        category=["Home & Kitchen", "Kettles"],
        attributes={"color": "teal"},
        price=39.0,
        stock=5,
    )
    with Client(target) as client:
        try:
            # Each event has an id of its own: if the primary dies now, it is sent again and applied once.
            written = client.apply([upsert(kettle)])
            print(f"inserted: sequence {written.sequence}, epoch {written.epoch}")

            written = client.apply(patch("example-kettle", price=29.0, stock=4))
            # Any replica may answer; min_sequence makes it wait until it has seen the write.
            seen = client.get("example-kettle", min_sequence=written.sequence, deadline_ms=2_000)
            print(f"changed:  price {seen.product.price}, stock {seen.product.stock}")

            answer = client.search("gooseneck kettle", min_sequence=written.sequence, deadline_ms=2_000)
            print(f"found:    {[result.product_id for result in answer.results[:3]]}")

            client.apply(delete("example-kettle"))
            print("deleted")
        except MusterError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
