"""What the best plan can do on this machine: the unit in which a load is told."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drills.experiment import Inconclusive
from drills.rig.cluster import SERVER_COMMAND, Cluster, ClusterPlan
from drills.rig.load import OK, Sample, SearchFlood, closed_loop, decode

CALIBRATION_DEADLINE_MS = 2000.0
FULL_SHARE_MIN = 0.8
"""Only full answers are counted, so a few others in between (a replica with a share of a core stalls now and
then, and falls back) make the capacity a little smaller, not wrong.
"""


@dataclass(frozen=True)
class Capacity:
    """What the best plan can do on this machine.

    per_s: full answers a second. tier, depth: the best plan, as the receipts named it. p50_ms: at that load.
    """

    per_s: float
    tier: str
    depth: int
    p50_ms: float


def measure_capacity(
    cluster: Cluster, requests: Sequence[bytes], *, concurrency: int, duration_s: float
) -> Capacity:
    """Counts full answers in a closed loop with long deadlines; a first third warms up and is not counted.

    Raises: Inconclusive where fewer than ``FULL_SHARE_MIN`` of the answers were the best plan's.
    """

    def measure(seconds: float) -> list[Sample]:
        caller = SearchFlood(cluster.addresses, requests, deadline_ms=CALIBRATION_DEADLINE_MS)
        samples = asyncio.run(closed_loop(caller, concurrency=concurrency, duration_s=seconds))
        decode(samples)
        return samples

    measure(duration_s / 3)
    samples = measure(duration_s)
    full = [s for s in samples if s.status == OK and s.fields["reason"] == "best"]
    if len(full) < FULL_SHARE_MIN * len(samples) or not full:
        outcomes = Counter(s.fields.get("reason", s.status) for s in samples)
        raise Inconclusive(
            f"the best plan's capacity could not be measured: with {CALIBRATION_DEADLINE_MS:.0f} ms each, "
            f"only {len(full)} of {len(samples)} searches were answered in full ({dict(outcomes)})"
        )
    elapsed_s = max(s.done_s for s in samples) - min(s.intended_s for s in samples)
    latencies = sorted(s.latency_s for s in full)
    (tier, depth), _ = Counter((s.fields["tier"], s.fields["depth"]) for s in full).most_common(1)[0]
    return Capacity(len(full) / elapsed_s, tier, depth, round(latencies[len(latencies) // 2] * 1000, 1))


def workers_beside_generator() -> int:
    """Ranking workers that leave one core to the load generator: a flood that starves its own sender offers
    less than it says."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


def plan_beside_generator(
    bundle: Path, given: argparse.Namespace, *, replicas: int
) -> tuple[ClusterPlan, int]:
    """Replicas that share the machine with a load generator, and how many searches to keep in flight while
    their capacity is measured: two for each worker. given: as of `machine_options`."""
    workers = given.workers or workers_beside_generator()
    plan = ClusterPlan(
        bundle=bundle,
        replicas=replicas,
        settings={"ranking": {"workers": workers}, "generation": {"niceness": 0}},
        command=SERVER_COMMAND,
    )
    return plan, 2 * workers * replicas
