"""A drill under the load of `drills.failover`, as a command: what differs between such drills is data."""

from __future__ import annotations

import argparse
import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc

from drills.experiment import Experiment, Inconclusive, Judgement, Probe, missing_needs
from drills.failover import (
    Rehearsal,
    Rehearsed,
    Setup,
    Traffic,
    check_replicas,
    each_run,
    load_options,
    rehearse_on_cluster,
    setup_of,
)
from drills.faults.weakened import PROTECTIONS, weakened
from drills.journal import Journal
from drills.judges.promises import over_runs
from drills.outcome import guarded, parser, positive, run_folder, tell
from drills.rig.direct import KIND, DirectReads
from drills.rig.load import OpenLoop, Stream, even_arrivals, poisson_arrivals
from drills.rig.traffic import ClientReads, ClientWrites, RecordedLoad


@dataclass(frozen=True)
class Changes:
    """What a drill changes about the cluster and the load that were asked for.

    settings: sections of the replicas' settings file. write_deadline_ms: of a write. around: entered with the
    run's folder before the cluster starts, left after it has ended. noted: beside the settings of the record.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    write_deadline_ms: float = Traffic.write_deadline_ms
    around: Callable[[Path], contextlib.AbstractContextManager[None]] | None = None
    noted: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rehearsable:
    """One drill as a command.

    empty: its figures as they are before anything was measured, "runs" among them. options: adds its own to
    those of every drill. experiment: for a seed and what was asked for. changes: to the cluster and the load.
    protections: what can be switched off, to see the drill deviate. shown: a run's outcome in a few words.
    """

    name: str
    hypothesis: str
    empty: Mapping[str, Any]
    options: Callable[[argparse.ArgumentParser], None]
    experiment: Callable[[int, argparse.Namespace], Experiment[Rehearsal]]
    changes: Callable[[argparse.Namespace], Changes]
    shown: Callable[[Judgement], str]
    protections: Sequence[str] = ()

    def command(self, arguments: Sequence[str]) -> int:
        """Runs the drill from a command line; returns the exit code."""
        options = parser(self.name, self.hypothesis)
        options.add_argument("--runs", type=positive(int), default=1, help="how often the fault is injected")
        load_options(options)
        if self.protections:
            options.add_argument(
                "--without",
                choices=sorted(self.protections),
                help="serve without this protection: the drill must then deviate",
            )
        self.options(options)
        given = options.parse_args(list(arguments))
        check_replicas(options, given)
        folder = run_folder(given.journal, self.name)

        def body() -> int:
            judgement, details = self.run(given, setup_of(given, folder))
            return tell(self.name, judgement, as_json=given.json, folder=folder, details=details)

        return guarded(self.name, body, as_json=given.json, empty=dict(self.empty))

    def run(self, given: argparse.Namespace, setup: Setup) -> tuple[Judgement, dict[str, Any]]:
        """The whole drill on a fresh cluster; returns the judgement over all runs and the details for the
        record.

        given: the drill's own options. Raises: Inconclusive where the machine lacks something.
        """
        changes = self.changes(given)
        plan = replace(setup["plan"], settings={**setup["plan"].settings, **changes.settings})
        without = getattr(given, "without", None)
        if without in PROTECTIONS:
            plan = replace(plan, command=weakened(without, plan.command))
        setup["plan"] = plan
        setup["traffic"] = replace(setup["traffic"], write_deadline_ms=changes.write_deadline_ms)
        setup["noted"] = {**changes.noted, "without": without or ""}
        # Before the cluster: a machine that cannot do it should say so at once.
        missing = missing_needs(self.experiment(setup["seed"], given).needs)
        if missing:
            raise Inconclusive("; ".join(missing))
        drill = Rehearsed(self.name, lambda seed: self.experiment(seed, given), self.shown)
        try:
            with _around(changes, setup["folder"]):
                outcomes, settings = rehearse_on_cluster(drill, setup)
        except grpc.RpcError as error:
            # While the catalogue is loaded, say: a busy machine may change its primary.
            raise Inconclusive(f"a replica did not answer, apart from any fault: {error}") from error
        judgement = over_runs([one for one, _ in outcomes], dict(self.empty))
        return judgement, {**settings, "each": each_run(outcomes)}


def except_during(probes: Sequence[Probe[Rehearsal]], *names: str) -> tuple[Probe[Rehearsal], ...]:
    """The probes, those of these names not while the fault lasts."""
    return tuple(
        replace(probe, phases=probe.phases - {"during"}) if probe.name in names else probe for probe in probes
    )


def direct_load(
    rehearsal: Rehearsal,
    journal: Journal,
    seed: int,
    *,
    direct_per_s: float,
    deadline_ms: float,
    told_ms: float | None = None,
) -> RecordedLoad:
    """A stream of searches to each replica alone, beside reads and writes through the client.

    deadline_ms, told_ms: of the former, as for `DirectReads`.
    """
    traffic, addresses = rehearsal.traffic, rehearsal.cluster.addresses
    reads = ClientReads(addresses, rehearsal.queries, deadline_ms=traffic.read_deadline_ms)
    writes = ClientWrites(
        addresses,
        rehearsal.product_ids,
        deadline_ms=traffic.write_deadline_ms,
        prefix=f"drill-{seed}-{uuid.uuid4().hex[:8]}",
    )
    streams = [
        Stream("read", poisson_arrivals(traffic.reads_per_s, seed), reads),
        Stream("write", even_arrivals(traffic.writes_per_s), writes),
    ]
    for number, replica in enumerate(rehearsal.cluster.replicas, 1):
        alone = DirectReads(
            replica.name, replica.address, rehearsal.queries, deadline_ms=deadline_ms, told_ms=told_ms
        )
        streams.append(Stream(KIND, poisson_arrivals(direct_per_s, 1000 * number + seed), alone))
    rehearsal.load = RecordedLoad(OpenLoop(streams), journal)
    return rehearsal.load


@contextlib.contextmanager
def _around(changes: Changes, folder: Path) -> Iterator[None]:
    if changes.around is None:
        yield
    else:
        with changes.around(folder):
            yield
