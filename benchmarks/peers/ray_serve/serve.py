"""Ray Serve's gRPC proxy round the student in ONNX Runtime."""

from __future__ import annotations

import logging
import os
import time

import ray
from ray import serve as ray_serve
from ray.serve.config import gRPCOptions

from benchmarks.peers.arguments import arguments
from benchmarks.peers.ray_serve.deployment import Reranker

APPLICATION = "reranker"
SERVICER = "benchmarks.peers.ray_serve.servicer.add_reranker"


def main() -> None:
    """Serve until the process is ended."""
    settings = arguments()
    # A small machine that is busy starting other things takes longer than Ray's default of 60 seconds.
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")
    ray.init(
        address="local",
        include_dashboard=False,
        num_cpus=2,
        log_to_driver=False,
        logging_level=logging.WARNING,
        object_store_memory=100 * 2**20,
        _node_ip_address="127.0.0.1",
    )
    ray_serve.start(
        proxy_location="HeadOnly",
        http_options={"host": "127.0.0.1", "port": settings.port + 1},
        grpc_options=gRPCOptions(
            port=settings.port,
            grpc_servicer_functions=[SERVICER],
            request_timeout_s=max(1.0, settings.deadline_ms / 1000.0),
        ),
    )
    # One computed at a time, and so many waiting as fit; beyond them a caller is refused at once.
    deployed = ray_serve.deployment(Reranker).options(
        num_replicas=1,
        max_ongoing_requests=1,
        max_queued_requests=max(1, settings.in_flight_max - 1),
        ray_actor_options={
            "num_cpus": 1,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(settings.threads)}},
        },
    )
    ray_serve.run(deployed.bind(str(settings.model), settings.threads), name=APPLICATION, route_prefix="/")
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
