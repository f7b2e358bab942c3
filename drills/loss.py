"""Drill: packets between clients and replicas are lost, first some of all, then all of the primary's.

    python -m drills.loss --json                 in a network namespace of its own; needs root and nft
    python -m drills.loss --by proxy --json      without: connections are reset and held up instead
    python -m drills.loss --without detection    the negative control: no hedges, no pings

Hypothesis: no read fails, nothing acknowledged is lost, and a client knows within 600 ms of a replica from
which nothing comes any more.

With nft the kernel drops packets of the connections to a proxy, so the network's own remedies are rehearsed
too: what is lost is sent again, and a connection whose packets nobody confirms is given up. A proxy cannot
lose a packet; its resets and stalls are what a caller sees of losses.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from drills import failover
from drills.experiment import Experiment, Fault, Judgement, Probe, in_words
from drills.failover import (
    Rehearsal,
    Traffic,
    all_serve_reads,
    one_primary,
    to_replica,
    writes_are_acknowledged,
)
from drills.faults.network import BreakConnections, DropPackets
from drills.journal import History
from drills.judges.network import LossLimits, judge_loss
from drills.partition import DETECTION, collect, watched_load, without
from drills.rehearsal import Changes, Rehearsable
from drills.rig.namespace import enter, namespace_need

NAME = "loss"
HYPOTHESIS = (
    "no read fails when packets are lost, and a client knows within 600 ms of a replica that is silent"
)
EMPTY: dict[str, Any] = {
    "runs": 0,
    "detection_ms": None,
    "connection_lost_ms": None,
    "back_after_healing_ms": None,
    "dropped": 0,
    "read_p99_ms": None,
    "reads": 0,
    "read_errors": 0,
    "replica_reads": 0,
    "replica_read_errors": 0,
    "writes_acknowledged": 0,
    "write_errors": 0,
    "writes_lost": 0,
    "writes_doubled": 0,
    "epochs_monotone": True,
}
NFT = "nft"
PROXY = "proxy"
SOME = "some"
PRIMARY = "primary"
KINDS = (SOME, PRIMARY)
SHARE = 0.02
"""Of the packets, in each direction: far more than any network that is looked after loses."""


def fault_of(kind: str, by: str, share: float, seed: int) -> Fault[Any]:
    """The fault of one run. kind: SOME packets of all replicas, or all of the PRIMARY's."""
    everyone = kind == SOME
    if by == PROXY:
        return BreakConnections(to_replica, everyone, seed)
    return DropPackets(to_replica, share if everyone else 1.0, everyone)


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """One lossy spell as a value. given.part: SOME or PRIMARY."""
    everywhere = frozenset({"before", "during", "after"})
    around = frozenset({"before", "after"})
    limits = LossLimits(detected_ms=600.0 if given.part == PRIMARY else None)
    base = failover.experiment(seed=seed, bundle=given.bundle, store=given.store)

    def judge(history: History) -> Judgement:
        return judge_loss(history, limits)

    return replace(
        base,
        name=NAME,
        hypothesis=HYPOTHESIS,
        load=watched_load,
        probes=(
            Probe("writes are acknowledged", writes_are_acknowledged, around),
            Probe("there is one primary", one_primary, everywhere),
            Probe("every replica serves reads", all_serve_reads, everywhere),
        ),
        fault=fault_of(given.part, given.by, given.share, seed),
        judge=judge,
        collect=collect,
        before_s=2.0,
        during_s=8.0 if given.part == SOME else 3.0,
        after_s=4.0,
        needs=(*base.needs, *((namespace_need(),) if given.by == NFT else ())),
    )


def changes(given: argparse.Namespace) -> Changes:
    """The proxy, and the client without what it detects silence by."""
    return Changes(
        proxied=True,
        client=without(Traffic(), given.without).client,
        noted={"by": given.by, "share": given.share},
    )


def shown(judgement: Judgement) -> str:
    """One run in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return in_words(
        f"{figures['dropped']} dropped",
        ("noticed", figures["detection_ms"]),
        f"{figures['read_errors']} of {figures['reads']} reads failed, p99 {figures['read_p99_ms']} ms",
    )


def share(text: str) -> float:
    """An argparse type: above 0, below 1."""
    value = float(text)
    if not 0.001 <= value <= 0.999:
        raise argparse.ArgumentTypeError(f"must be from 0.001 to 0.999, not {text}")
    return value


def add_options(options: argparse.ArgumentParser) -> None:
    """The drill's own options."""
    options.add_argument("--by", choices=(NFT, PROXY), default=NFT, help="what loses them (default: nft)")
    options.add_argument("--share", type=share, default=SHARE, help="of the packets, where some are lost")
    options.add_argument(
        "--kind", choices=KINDS, help="which packets (default: some of all, then the primary's)"
    )


def begin(given: argparse.Namespace, arguments: Sequence[str]) -> None:
    """The kernel drops packets in a namespace alone."""
    if given.by == NFT:
        enter("drills.loss", arguments)


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    options=add_options,
    experiment=experiment,
    changes=changes,
    shown=shown,
    protections=(DETECTION,),
    runs_help="spells of each kind",
    parts=lambda given: (given.kind,) if given.kind else KINDS,
    begin=begin,
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
