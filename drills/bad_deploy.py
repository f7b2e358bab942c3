"""Drill: a bundle is deployed that should not be.

    python -m drills.bad_deploy --runs 3 --json --journal DIR
    python -m drills.bad_deploy --without judge     the negative control: nothing is held against a bundle

Hypothesis: a bundle that ranks wrongly, and one that ranks slowly, are rolled back by themselves within 10 s
of the start of the canary; no read fails, and every replica then serves the bundle from before.

Both are made of the bundle being served, by changing nothing but its rankers, so their checksums and golden
requests are good. The deploy is `muster deploy`, as an operator would run it, without the shadow phase, so
that callers are really served by the bad bundle. Reads go through `muster.client` beside it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc

from drills.book import watched_in
from drills.experiment import Experiment, Finding, Inconclusive, Judgement, Probe, conduct
from drills.faults import bundles as bad_bundles
from drills.faults.weakened import JUDGE, weakened_deployer
from drills.journal import Journal
from drills.judges.alerts import over_runs
from drills.judges.release import DeployLimits, judge_deploy, judge_deploy_runs
from drills.outcome import guarded, parser, positive, run_folder, say, tell
from drills.rig.cluster import (
    RANKING_SERVICE,
    ROOT,
    SERVER_COMMAND,
    Cluster,
    ClusterPlan,
    bundle_need,
    find_bundle,
)
from drills.rig.load import OK, OpenLoop, Stream, poisson_arrivals
from drills.rig.shop import Shop, choose_shop, fill
from drills.rig.traffic import ClientReads, RecordedLoad
from muster.v1 import admin_pb2, admin_pb2_grpc

NAME = "bad_deploy"
HYPOTHESIS = (
    "a wrong and a slow bundle are rolled back by themselves within 10 s of the canary's start,"
    " and no read fails"
)
EMPTY: dict[str, Any] = {
    "runs": 0,
    "canary_to_rolled_back_s": {"min": None, "p50": None, "max": None},
    "rolled_back": 0,
    "reads": 0,
    "read_errors": 0,
    "reads_by_bad_bundle": 0,
}
DEFAULT_PRODUCTS = 400
_DEPLOY_S = 300.0
_ABORT_S = 60.0


@dataclass
class Release:
    """The subject: the cluster, the bundle that is about to be deployed, and the load.

    without: a protection of the deployer's that is taken away.
    """

    cluster: Cluster
    bad: Path
    queries: Sequence[str]
    reads_per_s: float
    deadline_ms: float
    without: str | None = None
    load: RecordedLoad | None = field(default=None)
    deployer: subprocess.Popen[str] | None = field(default=None)

    def command(self, *arguments: str) -> list[str]:
        """`muster deploy` for this cluster."""
        target = ",".join(self.cluster.addresses)
        muster = weakened_deployer() if self.without == JUDGE else (sys.executable, "-m", "muster.cli")
        return [*muster, "deploy", "--target", target, "--json", *arguments]


def release_load(release: Release, journal: Journal, seed: int) -> RecordedLoad:
    """Reads through the client, open loop."""
    reads = ClientReads(release.cluster.addresses, release.queries, deadline_ms=release.deadline_ms)
    loop = OpenLoop([Stream("read", poisson_arrivals(release.reads_per_s, seed), reads)])
    release.load = RecordedLoad(loop, journal)
    return release.load


@dataclass(frozen=True)
class DeployBadBundle:
    """`muster deploy` of the bad bundle, to its end; undone by ending the deployer and what it left."""

    canary_share: float
    name: str = "deploy"

    def inject(self, release: Release) -> dict[str, Any]:
        """Runs the deploy; returns its exit code and what it told."""
        instant_s = time.monotonic()
        release.deployer = subprocess.Popen(
            release.command(
                str(release.bad),
                "--shadow-share",
                "0",
                "--canary-share",
                str(self.canary_share),
                "--min-requests",
                # Without a judge it goes on when so many were answered.
                "100" if release.without == JUDGE else "2000",
                "--patience",
                f"{_DEPLOY_S:g}s",
            ),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            told, complaint = release.deployer.communicate(timeout=2 * _DEPLOY_S)
            outcome = json.loads(told)
        except (subprocess.TimeoutExpired, ValueError) as error:
            raise Inconclusive(f"the deploy told nothing: {error}") from error
        return {
            "instant_s": instant_s,
            "exit_code": release.deployer.returncode,
            "phases": outcome["phases"],
            "windows": outcome["windows"],
            "reason": outcome["reason"],
            "bundle": outcome["bundle"],
            "previous_bundle": outcome["previous_bundle"],
            "complaint": complaint[-2000:],
        }

    def rollback(self, release: Release) -> None:
        """Ends the deployer, and a deploy that it left under way."""
        deployer = release.deployer
        if deployer is None:
            return
        if deployer.poll() is None:
            os.kill(deployer.pid, signal.SIGKILL)
            deployer.communicate()
        if deployer.returncode not in (0, 10):
            subprocess.run(
                release.command("--abort", "--patience", f"{_ABORT_S:g}s"),
                cwd=ROOT,
                capture_output=True,
                timeout=3 * _ABORT_S,
                check=False,
            )


def reads_are_answered(release: Release) -> Finding:
    """Every read that ended in the last second was answered, and some did."""
    assert release.load is not None
    since_s = time.monotonic() - 1.0
    ended = [sample.status for sample in release.load.samples if sample.done_s >= since_s]
    return Finding(set(ended) == {OK}, f"{len(ended)} reads ended in the last second: {sorted(set(ended))}")


def all_serve_reads(release: Release) -> Finding:
    """Every replica serves reads."""
    cluster = release.cluster
    ill = [replica.name for replica in cluster.replicas if not cluster.health(replica, RANKING_SERVICE)]
    return Finding(not ill, f"not serving: {', '.join(ill)}" if ill else "all serve")


def collect_bundles(release: Release, journal: Journal) -> None:
    """Writes what every replica holds into the history."""
    for replica in release.cluster.replicas:
        stub = admin_pb2_grpc.AdminServiceStub(release.cluster.channel(replica))
        try:
            held = stub.BundleStatus(admin_pb2.BundleStatusRequest(), timeout=5.0).bundles
        except grpc.RpcError as error:
            journal.write("bundles_failed", replica=replica.name, detail=error.details())
            continue
        journal.write(
            "bundles",
            replica=replica.name,
            serving=held.serving.bundle_id,
            candidate=held.candidate.bundle_id,
        )


def experiment(
    *, seed: int, bundle: Path | None, canary_share: float, limits: DeployLimits
) -> Experiment[Release]:
    """The deploy as a value."""
    everywhere = frozenset({"before", "during", "after"})
    return Experiment(
        name=NAME,
        hypothesis=HYPOTHESIS,
        seed=seed,
        load=release_load,
        probes=(
            Probe("reads are answered", reads_are_answered, everywhere),
            Probe("every replica serves reads", all_serve_reads, everywhere),
        ),
        fault=DeployBadBundle(canary_share),
        judge=lambda history: judge_deploy(history, limits),
        collect=collect_bundles,
        before_s=2.0,
        during_s=0.5,
        after_s=1.5,
        settle_s=20.0,
        needs=(bundle_need(bundle),),
    )


def run(
    *,
    folder: Path,
    shop: Shop,
    plan: ClusterPlan,
    kinds: Sequence[str],
    runs: int,
    seed: int,
    reads_per_s: float,
    deadline_ms: float,
    canary_share: float,
    limits: DeployLimits,
    keep_data: bool = False,
    without: str | None = None,
) -> tuple[Judgement, dict[str, Any]]:
    """The whole drill on a fresh cluster; returns the judgement over all runs and the details for the
    record."""
    outcomes: list[Judgement] = []
    each: list[dict[str, Any]] = []
    plan = replace(plan, alerts=watched_in(NAME, control=without is not None))
    cluster = Cluster(plan, folder / "cluster")
    try:
        with cluster:
            say(f"{NAME}: starting {plan.replicas} replicas, catalogue {shop.name}")
            cluster.start()
            products = list(shop.products())
            fill(cluster, products, total=len(products), progress=False)
            queries = [query.text for query in shop.queries]
            for number in range(1, runs + 1):
                for kind in kinds:
                    bad = folder / "bundles" / kind
                    if not bad.is_dir():
                        bad_bundles.make(kind, plan.bundle, bad)
                    release = Release(cluster, bad, queries, reads_per_s, deadline_ms, without)
                    one = experiment(
                        seed=seed + number - 1, bundle=plan.bundle, canary_share=canary_share, limits=limits
                    )
                    with Journal(
                        folder / f"run-{number:04d}-{kind}.jsonl",
                        drill=NAME,
                        seed=one.seed,
                        settings={"run": number, "kind": kind, "canary_share": canary_share},
                    ) as journal:
                        judgement = conduct(one, release, journal, alerts=cluster.alerts)
                    outcomes.append(judgement)
                    each.append(
                        {
                            "kind": kind,
                            "verdict": str(judgement.verdict),
                            **judgement.figures,
                            "reasons": list(judgement.reasons),
                        }
                    )
                    took_s = judgement.figures.get("canary_to_rolled_back_s")
                    shown = "no roll-back seen" if took_s is None else f"rolled back after {took_s:.1f} s"
                    say(f"{NAME}: run {number} of {runs}, {kind}: {judgement.verdict}, {shown}")
                    for reason in judgement.reasons:
                        say(f"  - {reason}")
    finally:
        if not keep_data:
            cluster.remove_data()
    judgement = judge_deploy_runs(outcomes)
    details = {
        "replicas": plan.replicas,
        "catalogue": shop.name,
        "products": len(products),
        "reads_per_s": reads_per_s,
        "canary_share": canary_share,
        "limit_s": limits.rolled_back_s,
        "without": without or "",
        "alerts": over_runs([one.get("alerts", {}) for one in each]),
        "each": each,
    }
    return judgement, details


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    options = parser(NAME, HYPOTHESIS)
    options.add_argument("--runs", type=positive(int), default=1, help="deploys of each bad bundle")
    options.add_argument("--kind", choices=sorted(bad_bundles.KINDS), help="one kind only")
    options.add_argument("--replicas", type=positive(int), default=3, help="1 to 8")
    options.add_argument("--reads", type=positive(float), default=60.0, metavar="PER_S")
    options.add_argument("--deadline-ms", type=positive(float), default=500.0, help="of a read")
    options.add_argument("--canary-share", type=positive(float), default=0.5, help="of one replica's reads")
    options.add_argument(
        "--products", type=positive(int), default=DEFAULT_PRODUCTS, help="synthetic, to be served"
    )
    options.add_argument(
        "--limit-s", type=positive(float), default=DeployLimits.rolled_back_s, help="to hold"
    )
    options.add_argument(
        "--without", choices=(JUDGE,), help="without this protection: the drill must then deviate"
    )
    given = options.parse_args(list(arguments))
    folder = run_folder(given.journal, NAME)

    def body() -> int:
        judgement, details = run(
            folder=folder,
            shop=choose_shop(given.products, given.seed),
            plan=ClusterPlan(
                bundle=find_bundle(given.bundle),
                replicas=given.replicas,
                # A change of primary is another drill's; a busy machine must not bring one into this.
                settings={"lease": {"ttl_ms": 5000}},
                command=SERVER_COMMAND,
            ),
            # What is not held back in a control is served: one kind will do.
            kinds=[given.kind or "wrong"]
            if given.without
            else [given.kind]
            if given.kind
            else sorted(bad_bundles.KINDS),
            runs=given.runs,
            seed=given.seed,
            reads_per_s=given.reads,
            deadline_ms=given.deadline_ms,
            canary_share=given.canary_share,
            limits=DeployLimits(rolled_back_s=given.limit_s),
            keep_data=given.keep_data,
            without=given.without,
        )
        return tell(NAME, judgement, as_json=given.json, folder=folder, details=details)

    return guarded(NAME, body, as_json=given.json, empty=EMPTY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
