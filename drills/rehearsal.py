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
    client_streams,
    each_run,
    head_of,
    load_options,
    rehearse,
    rehearse_on_cluster,
    setup_of,
    to_replica,
)
from drills.faults.weakened import PROTECTIONS, weakened
from drills.journal import Journal
from drills.judges.promises import over_parts, over_runs
from drills.outcome import guarded, parser, positive, run_folder, tell
from drills.rig.cluster import ClusterPlan, Replica
from drills.rig.direct import KIND, DirectReads
from drills.rig.load import OpenLoop, Stream, even_arrivals, poisson_arrivals
from drills.rig.proxy import Proxy
from drills.rig.service import asked_of_service, refuse_control, service_options, with_leave
from drills.rig.traffic import ClientReads, ClientWrites, RecordedLoad, Watch
from muster.client import ClientSettings


@dataclass(frozen=True)
class Changes:
    """What a drill changes about the cluster and the load that were asked for.

    settings: sections of the replicas' settings file. plan: what else is started otherwise.
    write_deadline_ms: of a write. client: how reads are hedged and retried; None: as asked for. proxied: a
    proxy stands between the parties. around: entered with the run's folder before the cluster starts, left
    after it has ended. noted: beside the settings of the record.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    plan: Callable[[ClusterPlan], ClusterPlan] = lambda plan: plan
    write_deadline_ms: float = Traffic.write_deadline_ms
    client: ClientSettings | None = None
    proxied: bool = False
    around: Callable[[Path], contextlib.AbstractContextManager[None]] | None = None
    noted: Mapping[str, Any] = field(default_factory=dict)


def one_part(given: argparse.Namespace) -> Sequence[str]:
    """Of a drill that is not done in several parts."""
    return ("",)


def nothing_changed(given: argparse.Namespace) -> Changes:
    """Of a drill that is done to the cluster as it was asked for."""
    return Changes()


@dataclass(frozen=True)
class OnService:
    """How a drill is done to a running service, whose replicas are not the drill's to break.

    fault: what its operators must allow. experiment: for a seed and what was asked for, which says in
    `harmed` how many replicas may be harmed, and in `rate_per_s` how many requests a second may be added.
    everyone: whether it harms all replicas. parts: as of the drill.
    """

    fault: str
    experiment: Callable[[int, argparse.Namespace], Experiment[Rehearsal]]
    everyone: Callable[[argparse.Namespace], bool] = lambda given: False
    parts: Callable[[argparse.Namespace], Sequence[str]] = one_part


@dataclass(frozen=True)
class Rehearsable:
    """One drill as a command.

    empty: its figures as they are before anything was measured, "runs" among them. options: adds its own to
    those of every drill. experiment: for a seed and what was asked for. changes: to the cluster and the load.
    protections: what can be switched off, to see the drill deviate. shown: a run's outcome in a few words.
    runs: how often by default, of each part. runs_help: what a run is.
    parts: of what was asked for, the kinds of its fault, each done to a fresh cluster; what `experiment`,
    `changes` and `shown` are given says in `part` which one it is, and in `folder` where its record goes.
    begin: before anything else, with the command line; may become another process.
    on_service: how it is done to a running service; None: not at all.
    """

    name: str
    hypothesis: str
    empty: Mapping[str, Any]
    experiment: Callable[[int, argparse.Namespace], Experiment[Rehearsal]]
    shown: Callable[[Judgement], str]
    options: Callable[[argparse.ArgumentParser], None] = lambda options: None
    changes: Callable[[argparse.Namespace], Changes] = nothing_changed
    protections: Sequence[str] = ()
    runs: int = 1
    runs_help: str = "how often the fault is injected"
    parts: Callable[[argparse.Namespace], Sequence[str]] = one_part
    begin: Callable[[argparse.Namespace, Sequence[str]], None] = lambda given, arguments: None
    on_service: OnService | None = None

    def command(self, arguments: Sequence[str]) -> int:
        """Runs the drill from a command line; returns the exit code."""
        options = self.parser()
        given = options.parse_args(list(arguments))
        check_replicas(options, given)
        service = getattr(given, "target", None)
        try:
            parts = self.on_service.parts(given) if self.on_service and service else self.parts(given)
        except ValueError as error:
            options.error(str(error))

        def body() -> int:
            if not service:
                self.begin(given, arguments)
            folder = run_folder(given.journal, self.name)
            judgement, details = self.whole(given, parts, folder)
            return tell(self.name, judgement, as_json=given.json, folder=folder, details=details)

        return guarded(self.name, body, as_json=given.json, empty=dict(self.empty))

    def parser(self) -> argparse.ArgumentParser:
        """The command line: what every drill takes, what this frame adds, and the drill's own."""
        options = parser(self.name, self.hypothesis)
        options.add_argument("--runs", type=positive(int), default=self.runs, help=self.runs_help)
        load_options(options)
        if self.protections:
            options.add_argument(
                "--without",
                choices=sorted(self.protections),
                help="without this protection: the drill must then deviate",
            )
        if self.on_service:
            service_options(options)
        self.options(options)
        return options

    def whole(
        self, given: argparse.Namespace, parts: Sequence[str], folder: Path
    ) -> tuple[Judgement, dict[str, Any]]:
        """Every part on a fresh cluster; the judgement over all, and the details for the record, by part
        where there are several. Raises: Inconclusive where the machine lacks something."""
        judgements: list[Judgement] = []
        details: dict[str, Any] = {}
        for part in parts:
            below = folder / part if part else folder
            asked = argparse.Namespace(**{**vars(given), "part": part, "folder": below})
            if getattr(given, "target", None):
                judgement, details[part] = self.run_on_service(asked)
            else:
                judgement, details[part] = self.run(asked, setup_of(given, below))
            judgements.append(judgement)
        if parts == ("",):
            return judgements[0], details[""]
        return over_parts(judgements, self.empty), details

    def _shown(self, part: str) -> Callable[[Judgement], str]:
        return (lambda judgement: f"{part}: {self.shown(judgement)}") if part else self.shown

    def run(self, given: argparse.Namespace, setup: Setup) -> tuple[Judgement, dict[str, Any]]:
        """One part of the drill on a fresh cluster; returns the judgement over its runs and the details for
        the record.

        given: the drill's own options. Raises: Inconclusive where the machine lacks something.
        """
        without = getattr(given, "without", None)
        missing = missing_needs(self.experiment(setup["seed"], given).needs)
        # Before the cluster: a machine that cannot do it should say so at once.
        if missing:
            raise Inconclusive("; ".join(missing))
        changes = self.changes(given)
        setup = changed(setup, changes)
        if without in PROTECTIONS:
            plan = setup["plan"]
            setup["plan"] = replace(plan, command=weakened(without, plan.command))
        setup["noted"] = {**changes.noted, "without": without or ""}
        setup["control"] = bool(without)
        drill = Rehearsed(self.name, lambda seed: self.experiment(seed, given), self._shown(given.part))
        try:
            with _around(changes, setup["folder"]):
                outcomes, settings = rehearse_on_cluster(drill, setup)
        except grpc.RpcError as error:
            # While the catalogue is loaded, say: a busy machine may change its primary.
            raise Inconclusive(f"a replica did not answer, apart from any fault: {error}") from error
        judgement = over_runs([one for one, _ in outcomes], self.empty)
        return judgement, {**settings, "each": each_run(outcomes)}

    def run_on_service(self, given: argparse.Namespace) -> tuple[Judgement, dict[str, Any]]:
        """One part of the drill on the service at `given.target`; returns as `run` does. Reads only: a
        running service's catalogue is not the drill's to change. Raises: Inconclusive where the service does
        not allow it, or where it is aborted."""
        how = self.on_service
        assert how is not None
        refuse_control(given)
        asked = asked_of_service(given, how.fault, everyone=how.everyone(given))
        with contextlib.ExitStack() as stack:
            service = stack.enter_context(
                with_leave(
                    given.target, self.name, how.fault, replicas=asked.harmed, rate_per_s=asked.rate_per_s
                )
            )
            proxy = stack.enter_context(Proxy()) if self.changes(asked).proxied else None
            for replica in service.replicas if proxy is not None else ():
                assert proxy is not None
                proxy.link(to_replica(replica.name), replica.address)
            traffic = Traffic(reads_per_s=asked.reads, read_deadline_ms=given.deadline_ms)
            rehearsal = Rehearsal(
                service, asked.queries, (), traffic, from_sequence=head_of(service)[0] + 1, proxy=proxy
            )
            settings = {
                "target": given.target,
                "replicas": len(service.replicas),
                "reads_per_s": asked.reads,
                "read_deadline_ms": given.deadline_ms,
                "rate_per_s": asked.rate_per_s,
                "harmed": asked.harmed,
            }
            drill = Rehearsed(
                self.name,
                lambda seed: replace(how.experiment(seed, asked), needs=()),
                self._shown(given.part),
            )
            outcomes = rehearse(
                rehearsal, drill, runs=given.runs, folder=given.folder, seed=given.seed, settings=settings
            )
        judgement = over_runs([one for one, _ in outcomes], self.empty)
        return judgement, {**settings, "each": each_run(outcomes)}


def read_load(rehearsal: Rehearsal, journal: Journal, seed: int, *watches: Watch) -> RecordedLoad:
    """Searches through the client alone, for a service whose catalogue is not to be changed."""
    reads, _ = client_streams(rehearsal, seed)
    rehearsal.load = RecordedLoad(OpenLoop([reads]), journal, watches)
    return rehearsal.load


def changed(setup: Setup, changes: Changes) -> Setup:
    """What was asked for, with a drill's changes."""
    after, plan, traffic = setup.copy(), setup["plan"], setup["traffic"]
    after["plan"] = changes.plan(replace(plan, settings={**plan.settings, **changes.settings}))
    after["traffic"] = replace(
        traffic,
        write_deadline_ms=changes.write_deadline_ms,
        client=changes.client or traffic.client,
    )
    after["proxied"] = changes.proxied
    return after


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
    direct_per_s: Callable[[Replica], float],
    deadline_ms: float,
    told_ms: float | None = None,
) -> RecordedLoad:
    """A stream of searches to each replica alone, beside reads and writes through the client.

    direct_per_s: of the former, by replica. deadline_ms, told_ms: of them, as for `DirectReads`.
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
        streams.append(Stream(KIND, poisson_arrivals(direct_per_s(replica), 1000 * number + seed), alone))
    rehearsal.load = RecordedLoad(OpenLoop(streams), journal)
    return rehearsal.load


@contextlib.contextmanager
def _around(changes: Changes, folder: Path) -> Iterator[None]:
    if changes.around is None:
        yield
    else:
        with changes.around(folder):
            yield
