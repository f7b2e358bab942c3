"""The drill book: every rehearsed failure that this installation knows, by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from drills.judges.alerts import FASTER, Due, Watched


@dataclass(frozen=True)
class Drill:
    """One entry of the book.

    module: where its `main(arguments) -> exit code` lives; imported only when it runs.
    needs: what the machine must offer, in words; empty where any machine will do.
    control: the option by which the drill shows that it would notice; empty: there is none.
    alerts: those that an operations team would get, which must fire and end in each run; aside: those that
    may fire as well; silent: where none is due, why. faster: by how much time runs faster for them.
    target: whether it can be done to a running service (`--target`); others need processes or a store of
    their own to break.
    """

    name: str
    hypothesis: str
    injection: str
    module: str
    needs: tuple[str, ...] = ()
    control: str = ""
    alerts: tuple[Due, ...] = ()
    aside: tuple[str, ...] = ()
    silent: str = ""
    faster: float = FASTER
    target: bool = False

    def run(self, arguments: Sequence[str]) -> int:
        """Runs the drill with its own command line; returns 0 held, 10 deviated, 20 inconclusive, 2 bad
        usage."""
        main = cast(Callable[[Sequence[str]], int], importlib.import_module(self.module).main)
        return main(arguments)

    def describe(self) -> dict[str, Any]:
        """The entry as an object for `muster drill list --json`."""
        return {
            "name": self.name,
            "hypothesis": self.hypothesis,
            "injection": self.injection,
            "needs": list(self.needs),
            "control": self.control,
            "alerts": [due.name for due in self.alerts],
            "alerts_within_s": {due.name: due.within_s for due in self.alerts},
            "silent": self.silent,
            "target": self.target,
        }


DRILLS: tuple[Drill, ...] = (
    Drill(
        name="failover",
        hypothesis=(
            "writes are back within 300 ms (median), no read fails, no acknowledged write is lost or doubled"
        ),
        injection="kill -9 the primary under read and write load",
        module="drills.failover",
        needs=("a model bundle",),
        control="--without standby",
        alerts=(Due("MusterPrimaryDown", 3.0),),
        aside=("MusterReplicaDown", "MusterLeaseFlapping"),
    ),
    Drill(
        name="hang",
        hypothesis=(
            "writes are back within the lease's life + 200 ms (median), no read fails, nothing is lost or"
            " doubled, every epoch has one primary, and a primary that wakes late changes nothing"
        ),
        injection="SIGSTOP the primary under read and write load, SIGCONT later",
        module="drills.hang",
        needs=("a model bundle",),
        control="--without lease",
        alerts=(Due("MusterPrimaryDown", 3.0),),
        aside=("MusterReplicaDown", "MusterLeaseFlapping"),
    ),
    Drill(
        name="hang_in_transaction",
        hypothesis="as hang, though the primary holds the locks of an append",
        injection="stop the primary between the INSERT and the COMMIT of an append, SIGCONT later",
        module="drills.hang_in_transaction",
        needs=("a model bundle",),
        control="--without lease",
        alerts=(Due("MusterPrimaryDown", 3.0),),
        aside=("MusterReplicaDown", "MusterLeaseFlapping"),
    ),
    Drill(
        name="standby_hang",
        hypothesis="no read fails, and 99 of 100 are answered within 100 ms",
        injection="SIGSTOP a standby under read and write load, SIGCONT later",
        module="drills.standby_hang",
        needs=("a model bundle",),
        control="--without detection",
        alerts=(Due("MusterReplicaDown", 4.0),),
    ),
    Drill(
        name="double_fault",
        hypothesis="reads go on, writes are back within 1.5 s (median), nothing is lost or doubled",
        injection="kill -9 the primary and SIGSTOP a standby at once, under read and write load",
        module="drills.double_fault",
        needs=("a model bundle",),
        control="--without spare",
        alerts=(Due("MusterPrimaryDown", 3.0), Due("MusterReplicaDown", 4.0)),
        aside=("MusterLeaseFlapping",),
    ),
    Drill(
        name="rolling_restart",
        hypothesis="no read and no write fails, no acknowledged write is lost or doubled",
        injection="drain and restart every replica in turn under load, transfer the lease in the middle",
        module="drills.rolling_restart",
        needs=("a model bundle",),
        control="--without turns",
        target=True,
        silent="planned; a restart of a second counts as a minute here",
    ),
    Drill(
        name="deadline_storm",
        hypothesis="at 5 times the capacity, at least 95 % of all requests are answered within their 50 ms",
        injection=(
            "an open-loop flood at a multiple of the measured capacity of the best plan, with recommendations"
            " on top: a fifth of all calls"
        ),
        module="drills.deadline_storm",
        needs=("a model bundle",),
        control="--without core",
        target=True,
        alerts=(Due("MusterQualityLow", 6.0),),
        aside=("MusterRefusals", "MusterInTimeLow"),
    ),
    Drill(
        name="bad_deploy",
        hypothesis=(
            "a wrong and a slow bundle are rolled back by themselves within 10 s of the canary's start, and"
            " no read fails"
        ),
        injection="muster deploy of a bundle that ranks backwards, and of one that ranks slowly",
        module="drills.bad_deploy",
        needs=("a model bundle",),
        control="--without judge",
        alerts=(Due("MusterDeployRolledBack", 60.0),),
    ),
    Drill(
        name="partition",
        hypothesis=(
            "no read fails, clients know of a cut within 600 ms, there is one writer at all times, and what"
            " is stale says so"
        ),
        injection="cut the primary off from its clients, then from the PostgreSQL server of its store",
        module="drills.partition",
        needs=("a model bundle", "PostgreSQL for the second cut"),
        control="--without detection",
        silent="clients alone see the first cut, and the second is short",
    ),
    Drill(
        name="store_down",
        hypothesis=(
            "no read fails, answers say how stale they are, writes end within their deadline, and all heals"
            " by itself"
        ),
        injection="lock the SQLite file by another process; freeze, then kill the PostgreSQL server",
        module="drills.store_down",
        needs=("a model bundle",),
        control="--without deadline",
        alerts=(Due("MusterWritesFail", 5.0),),
        aside=("MusterNoPrimary", "MusterStale", "MusterReplicaLag"),
    ),
    Drill(
        name="standby_lag",
        hypothesis=(
            "a standby that stops following leaves health past the bound on staleness and comes back by"
            " itself, no read fails, and none is staler than it says"
        ),
        injection="freeze a standby's tailer before it looks at the log, then before it applies what it read",
        module="drills.standby_lag",
        needs=("a model bundle",),
        control="--without bound",
        alerts=(Due("MusterReadsNotServed", 6.0),),
        aside=("MusterStale", "MusterReplicaLag", "MusterRefusals", "MusterQualityLow"),
    ),
    Drill(
        name="latency",
        hypothesis=(
            "with 20 ms more on the network at least 99 % of all searches are answered within their 50 ms,"
            " and say truthfully with which quality"
        ),
        injection="a slow link between clients and one replica, then all of them",
        module="drills.latency",
        needs=("a model bundle",),
        control="--latency-ms 60",
        target=True,
        silent="the replicas are well; only clients see it",
    ),
    Drill(
        name="loss",
        hypothesis=(
            "no read fails when packets are lost, and a client knows within 600 ms of a replica that is"
            " silent"
        ),
        injection="drop packets between clients and replicas, some of all, then all of the primary's",
        module="drills.loss",
        needs=("a model bundle", "root and nft, or --by proxy"),
        control="--without detection",
        silent="the replicas are well; only clients see it",
    ),
    Drill(
        name="oversized_payload",
        hypothesis=(
            "what is over a limit is refused soon and with the right status, memory stays flat, nothing ends,"
            " and others are served"
        ),
        injection="messages, texts, lists and nesting over every limit, again and again",
        module="drills.oversized_payload",
        needs=("a model bundle",),
        control="--without limit",
        target=True,
        silent="refused as the callers' fault",
    ),
    Drill(
        name="poison_request",
        hypothesis=(
            "malformed and strange requests are refused or answered, none ends or fills a replica, and others"
            " are served"
        ),
        injection="malformed and strange requests to every replica, again and again",
        module="drills.poison_request",
        needs=("a model bundle",),
        control="--plant crash",
        target=True,
        silent="refused as the callers' fault",
    ),
    Drill(
        name="slow_disk",
        hypothesis=(
            "reads go on in time, writes beyond what the disk can do are refused within their deadline, no"
            " acknowledged write is lost, and all succeed again once the disk does"
        ),
        injection="200 ms more for every fsync of every replica, under more writes than that allows",
        module="drills.slow_disk",
        needs=("a model bundle", "strace and the right to attach it (ptrace)"),
        control="--without shedding",
        alerts=(Due("MusterSlowCommits", 6.0),),
        aside=("MusterWritesFail",),
    ),
    Drill(
        name="disk_full",
        hypothesis=(
            "on a full disk writes are refused as RESOURCE_EXHAUSTED, reads go on, and once there is room "
            "writes succeed by themselves; no acknowledged write is lost"
        ),
        injection="fill the small tmpfs that holds the data folder",
        module="drills.disk_full",
        needs=("a model bundle", "root, or a user namespace with mounts"),
        control="--without room",
        alerts=(Due("MusterDiskNearlyFull", 3.0),),
        aside=("MusterWritesFail",),
    ),
    Drill(
        name="fsync_error",
        hypothesis=(
            "a primary whose fsync fails ends by itself and acknowledges nothing more, a standby takes "
            "over, no read fails, no acknowledged write is lost"
        ),
        injection="EIO for every fsync of the primary",
        module="drills.fsync_error",
        needs=("a model bundle", "strace and the right to attach it (ptrace)"),
        control="--without exit",
        alerts=(Due("MusterPrimaryDown", 3.0),),
        aside=("MusterReplicaDown",),
    ),
    Drill(
        name="memory_pressure",
        hypothesis=(
            "a replica that runs out of memory dies alone, a standby takes over, no read fails, no "
            "acknowledged write is lost"
        ),
        injection="a memory group with too low a limit for the primary, and a ballast beside it",
        module="drills.memory_pressure",
        needs=("a model bundle", "root and control groups for memory"),
        control="--without isolation",
        alerts=(Due("MusterPrimaryDown", 6.0),),
        aside=("MusterReplicaDown",),
    ),
    Drill(
        name="cpu_starvation",
        hypothesis=(
            "a replica with a fifth of a core answers 98 % of what it does not refuse in time, with less"
            " quality, and callers of the client get 99 % of their answers in time"
        ),
        injection=(
            "a quota of a fifth of a core for a standby, under twice the searches that this can answer in"
            " full, with 50 ms deadlines"
        ),
        module="drills.cpu_starvation",
        needs=("a model bundle", "root and control groups for the processor"),
        control="--without deadlines",
        silent="callers get their answers",
    ),
    Drill(
        name="corrupt_bundle",
        hypothesis=(
            "damaged bundles and generations are refused by name and the last good ones serve on; no read "
            "fails"
        ),
        injection="flipped bits and missing ends in models, manifests, lexical index and vectors",
        module="drills.corrupt_bundle",
        needs=("a model bundle",),
        control="--without checksums",
        alerts=(Due("MusterReplicaDown", 90.0),),
    ),
    Drill(
        name="cold_start",
        hypothesis=(
            "a replica with empty caches is not SERVING before it is warm: each of its first answers comes in"
            " time"
        ),
        injection="restart a standby under load, its files dropped from the system's cache",
        module="drills.cold_start",
        needs=("a model bundle",),
        control="--without warming",
        silent="a start, not a fault; its seconds count as minutes here",
    ),
    Drill(
        name="retry_storm",
        hypothesis=(
            "after an outage of all replicas the service is back within 5 s after a storm of retries ends,"
            " and our client never exceeds its budget of retries"
        ),
        injection="stop all replicas for 2 s while many clients ask again at once, without a pause",
        module="drills.retry_storm",
        needs=("a model bundle",),
        control="--without budget",
        target=True,
        alerts=(Due("MusterNoReplica", 3.0),),
        aside=(
            "MusterPrimaryDown",
            "MusterReplicaDown",
            "MusterNoPrimary",
            "MusterInTimeLow",
            "MusterRefusals",
            "MusterQualityLow",
        ),
    ),
    Drill(
        name="hot_key",
        hypothesis=(
            "when one query is asked far more often than all others, as many of those are answered in time"
            " as before, but for 2 in 100"
        ),
        injection="one query at twice the capacity on top of an even mix",
        module="drills.hot_key",
        needs=("a model bundle",),
        control="--without core",
        target=True,
        silent="callers get their answers",
    ),
    Drill(
        name="clock_jump",
        hypothesis=(
            "when a wall clock jumps by an hour no request fails or runs past its deadline, and the lease"
            " stays where it is"
        ),
        injection="move the wall clock of callers, of the primary, then of a standby, an hour to and fro",
        module="drills.clock_jump",
        needs=("a model bundle", "root", "libfaketime but for the callers' clock"),
        control="--plant lease",
        silent="nothing depends on the clock",
    ),
    Drill(
        name="noisy_data",
        hypothesis=(
            "of a garbled feed each malformed row is refused by its number, each suspicious one held back, no"
            " good row is lost, nDCG@10 falls by at most .01, and no read fails"
        ),
        injection="a feed with a seventh of its rows garbled in fifteen ways, loaded under load",
        module="drills.noisy_data",
        needs=("a model bundle",),
        control="--without checks",
        silent="the feed's own report tells",
    ),
    Drill(
        name="traffic_surge",
        hypothesis=(
            "over a day with ten times the demand at noon, 99 % of what is not refused is in time, replicas"
            " come within 20 s of the need and go after it, and nothing fails while they do"
        ),
        injection="a day of a minute, while `muster autoscale` starts and drains replicas by price",
        module="drills.traffic_surge",
        needs=("a model bundle", "root and control groups for the processor, or --core-share 1"),
        control="--without scaling",
        silent="the demand of a day is no fault",
    ),
    Drill(
        name="model_drift",
        hypothesis=(
            "a demand that stays is not called drift; one that moves to new words is, before nDCG@10 has"
            " fallen by more than .3; products in these words and a new generation bring at least .6 of it"
            " back; no read fails"
        ),
        injection="more and more of the searches in words that nobody used before, then products in them",
        module="drills.model_drift",
        needs=("a model bundle",),
        control="--without measure",
        alerts=(Due("MusterDrift", 45.0),),
        faster=120,
    ),
    Drill(
        name="data_leak",
        hypothesis=(
            "of marked names, addresses, numbers and tokens in requests, metadata and feedback none is in any"
            " file, log, metric, refusal or export afterwards, in whatever form; an encrypted store's files"
            " hold no text of products or comments either"
        ),
        injection=(
            "canary texts in searches, metadata, feedback, comments, and in what must be refused; then in"
            " products of an encrypted store"
        ),
        module="drills.data_leak",
        needs=("a model bundle",),
        control="--without scrub",
        silent="nothing fails",
    ),
    Drill(
        name="auth_attack",
        hypothesis=(
            "no guessed, forged, replayed, expired or revoked token opens anything, those of an address that"
            " goes on are soon refused unseen, no caller with a good one fails, and metrics and audit tell of"
            " it"
        ),
        injection="bad tokens of eighteen kinds from three addresses, beside callers with good ones",
        module="drills.auth_attack",
        needs=("a model bundle",),
        control="--without limits",
        alerts=(Due("MusterAuthFailures", 8.0),),
    ),
    Drill(
        name="tls_expiry",
        hypothesis=(
            "certificates that are about to end are exchanged under load, a broken file in between, and no"
            " call and no new connection fails; the alert comes before the end and goes with the exchange"
        ),
        injection="certificates with seconds to live, then a file that is none, then good ones",
        module="drills.tls_expiry",
        needs=("a model bundle",),
        control="--without reload",
        alerts=(Due("MusterCertificateExpires", 12.0),),
    ),
)


def reference() -> str:
    """The book as a Markdown table, for docs/drills.md."""
    lines = [
        "| drill | breaks | must hold | control | alerts | `--target` | needs |",
        "|---|---|---|---|---|---|---|",
    ]
    for drill in DRILLS:
        needs = ", ".join(need for need in drill.needs if need != "a model bundle")
        target = "yes" if drill.target else ""
        control = f"`{drill.control}`" if drill.control else ""
        alerts = ", ".join(f"`{due.name}` {due.within_s:g} s" for due in drill.alerts)
        alerts = alerts or f"none: {drill.silent}"
        cells = (f"`{drill.name}`", drill.injection, drill.hypothesis, control, alerts, target, needs)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def watched_in(name: str, *, control: bool = False) -> Watched | None:
    """What is watched beside a drill; None beside what is not in the book. control: it is run without a
    protection, and what its alerts do does not count."""
    drill = next((drill for drill in DRILLS if drill.name == name), None)
    if drill is None:
        return None
    return Watched(drill.alerts, drill.aside, drill.faster, counts=not control)


class UnknownDrill(LookupError):
    """No drill of that name; the text lists those there are."""


def find(name: str) -> Drill:
    """The drill of that name (dashes and underscores are alike). Raises UnknownDrill."""
    wanted = name.replace("-", "_")
    for drill in DRILLS:
        if drill.name == wanted:
            return drill
    raise UnknownDrill(f"no drill named {name!r}; there are: {', '.join(drill.name for drill in DRILLS)}")


if __name__ == "__main__":
    print(reference(), end="")
