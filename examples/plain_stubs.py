"""Search and recommend with nothing but gRPC and the generated stubs, as any language can:
`python examples/plain_stubs.py [HOST:PORT]`.

The deadline of the call is the time budget. Health checking under round_robin sends calls only to replicas
that serve reads, and retries go by standard service configuration.
"""

from __future__ import annotations

import json
import sys

import grpc

from muster.v1 import ranking_pb2, ranking_pb2_grpc

SERVICE = "muster.v1.RankingService"
CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": SERVICE},
    "methodConfig": [
        {
            "name": [{"service": SERVICE}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.005s",
                "maxBackoff": "0.05s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}


def main(target: str = "127.0.0.1:50051") -> int:
    """One search and one recommendation, 100 ms each. Returns: the exit code."""
    with grpc.insecure_channel(target, options=[("grpc.service_config", json.dumps(CONFIG))]) as channel:
        ranking = ranking_pb2_grpc.RankingServiceStub(channel)
        try:
            answer = ranking.Search(ranking_pb2.SearchRequest(query="usb c cable", page_size=3), timeout=0.1)
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
            return 3
        for result in answer.results:
            print(f"{result.product_id}  {result.title}")
        print(f"tier {ranking_pb2.Tier.Name(answer.receipt.tier)}, {answer.receipt.timings.total_us} us")
        # Whoever opened the first of them may take next:
        history = [ranking_pb2.HistoryItem(product_id=result.product_id) for result in answer.results[:1]]
        try:
            after = ranking.Recommend(ranking_pb2.RecommendRequest(history=history, page_size=3), timeout=0.1)
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
            return 3
        for result in after.results:
            print(f"{result.product_id}  {result.title}")
        print(f"tier {ranking_pb2.Tier.Name(after.receipt.tier)}, {after.receipt.timings.total_us} us")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
