from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from drills.rig.cluster import Cluster, ClusterPlan
from drills.rig.rude import RudeClients
from muster.v1 import ranking_pb2

LONG_S = 30.0


def wait_until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_they_ask_again_at_once_and_come_back_after_an_outage(
    scripted: Callable[..., ClusterPlan], tmp_path: Path
) -> None:
    request = ranking_pb2.SearchRequest(query="shoe").SerializeToString()
    with Cluster(scripted(1), tmp_path) as cluster:
        cluster.start()
        [replica] = cluster.replicas
        rude = RudeClients(cluster.addresses, [request], clients=3, deadline_ms=2_000.0)
        rude.start()
        try:
            wait_until(lambda: rude.answered >= 20)
            connected = rude.connections
            assert connected == 3
            cluster.kill(replica)
            # Each tries anew, without end.
            wait_until(lambda: rude.connections >= connected + 10)
            before = rude.answered
            cluster.restart(replica)
            wait_until(lambda: rude.answered > before)
        finally:
            rude.stop()
        sent = rude.sent
        rude.stop()
        assert rude.sent == sent
