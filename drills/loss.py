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
from drills.experiment import Experiment, Fault, Judgement, Probe
from drills.failover import (
    Rehearsal,
    Rehearsed,
    Setup,
    all_serve_reads,
    check_replicas,
    each_run,
    load_options,
    one_primary,
    rehearse_on_cluster,
    setup_of,
    to_replica,
    writes_are_acknowledged,
)
from drills.faults.network import BreakConnections, DropPackets
from drills.journal import History
from drills.judges.network import LossLimits, judge_loss, over_kinds, over_runs
from drills.outcome import guarded, parser, positive, run_folder, tell
from drills.partition import DETECTION, collect, watched_load, without
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


def experiment(*, seed: int, setup: Setup, kind: str, by: str, share: float) -> Experiment[Rehearsal]:
    """One lossy spell as a value."""
    everywhere = frozenset({"before", "during", "after"})
    around = frozenset({"before", "after"})
    limits = LossLimits(detected_ms=600.0 if kind == PRIMARY else None)
    base = failover.experiment(
        seed=seed, bundle=setup["plan"].bundle, store=setup.get("store", failover.SQLITE)
    )

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
        fault=fault_of(kind, by, share, seed),
        judge=judge,
        collect=collect,
        before_s=2.0,
        during_s=8.0 if kind == SOME else 3.0,
        after_s=4.0,
        needs=(*base.needs, *((namespace_need(),) if by == NFT else ())),
    )


def run(setup: Setup, kind: str, *, by: str, share: float) -> tuple[Judgement, dict[str, Any]]:
    """All spells of one kind on a fresh cluster; the judgement over them, and the details for the record."""

    def shown(judgement: Judgement) -> str:
        figures = {**EMPTY, **judgement.figures}
        return (
            f"{kind} lost by {by}: {figures['dropped']} dropped, noticed after {figures['detection_ms']} ms, "
            f"{figures['read_errors']} of {figures['reads']} reads failed, p99 {figures['read_p99_ms']} ms"
        )

    drill = Rehearsed(
        NAME, lambda seed: experiment(seed=seed, setup=setup, kind=kind, by=by, share=share), shown
    )
    outcomes, settings = rehearse_on_cluster(drill, setup)
    details = {**settings, "by": by, "share": share, "each": each_run(outcomes)}
    return over_runs([one for one, _ in outcomes]), details


def share(text: str) -> float:
    """An argparse type: above 0, below 1."""
    value = float(text)
    if not 0.001 <= value <= 0.999:
        raise argparse.ArgumentTypeError(f"must be from 0.001 to 0.999, not {text}")
    return value


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    options = parser(NAME, HYPOTHESIS)
    options.add_argument("--runs", type=positive(int), default=1, help="spells of each kind")
    options.add_argument("--by", choices=(NFT, PROXY), default=NFT, help="what loses them (default: nft)")
    options.add_argument("--share", type=share, default=SHARE, help="of the packets, where some are lost")
    options.add_argument(
        "--kind", choices=KINDS, help="which packets (default: some of all, then the primary's)"
    )
    options.add_argument("--without", choices=(DETECTION,), help="switch this protection of the client off")
    load_options(options)
    given = options.parse_args(list(arguments))
    check_replicas(options, given)

    def body() -> int:
        if given.by == NFT:
            enter("drills.loss", arguments)
        folder = run_folder(given.journal, NAME)
        setup = setup_of(given, folder)
        setup["proxied"] = True
        setup["traffic"] = without(setup["traffic"], given.without)
        judgements, details = [], {}
        for kind in (given.kind,) if given.kind else KINDS:
            setup["folder"] = folder / kind
            judgement, details[kind] = run(setup, kind, by=given.by, share=given.share)
            judgements.append(judgement)
        return tell(NAME, over_kinds(judgements), as_json=given.json, folder=folder, details=details)

    return guarded(NAME, body, as_json=given.json, empty=EMPTY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
