"""A shop with a bundle that recommends: a primary, a standby, and how feedback gets there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from muster.client import Client
from muster.v1 import feedback_pb2
from tests.server.conftest import Pair

# No test here takes the primary away, and a busy machine must not either.
SETTINGS = {"generation.rebuild": "false", "metrics.listen": "127.0.0.1:0", "lease.ttl_ms": "10000"}


@dataclass(frozen=True)
class Serving(Pair):
    """Two replicas, and what others would need to join them."""

    bundle: Path
    data_dir: Path


def record(shop: Serving, *events: feedback_pb2.FeedbackEvent) -> int:
    """Record feedback. Returns the sequence at which it can be seen."""
    with Client([shop.primary.address, shop.standby.address]) as client:
        return int(client.record(list(events)).sequence)
