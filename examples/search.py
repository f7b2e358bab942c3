"""Search with a deadline, and read the receipt: `python examples/search.py [HOST:PORT,...] [QUERY]`."""

from __future__ import annotations

import sys

from muster.client import Client, DeadlineExceeded, Unavailable, search_filter
from muster.v1 import ranking_pb2


def main(target: str = "127.0.0.1:50051", query: str = "usb c cable") -> int:
    """Ask the same query with more and more time. Returns: the exit code."""
    with Client(target) as client:
        for deadline_ms in (5, 20, 50, 200):
            try:
                answer = client.search(
                    query, deadline_ms=deadline_ms, page_size=3, filter=search_filter(in_stock=True)
                )
            except DeadlineExceeded as error:
                print(f"{deadline_ms:>4} ms: no answer ({error})")
                continue
            except Unavailable as error:
                print(f"no replica answers at {target}: {error}", file=sys.stderr)
                return 3
            receipt = answer.receipt
            tier = ranking_pb2.Tier.Name(receipt.tier).removeprefix("TIER_").lower()
            print(
                f"{deadline_ms:>4} ms: tier {tier}, depth {receipt.depth}, worth {receipt.expected_ndcg:.0%}"
            )
            for result in answer.results:
                print(f"         {result.product_id}  {result.title}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
