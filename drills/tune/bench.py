"""Runs of a point on real replicas: one cluster for several runs, each with its faults and its flood."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import shutil
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import grpc

from drills import double_fault, failover, rolling_restart
from drills.experiment import Experiment, Fault, Inconclusive, Judgement, Verdict, conduct
from drills.failover import Rehearsal, Traffic, client_streams, head_of, revive
from drills.faults.process import KillPrimary, KillPrimaryStopStandby, PausePrimary, StopPrimary
from drills.hang import collect, reigns
from drills.journal import Journal
from drills.judges.checks import FailoverLimits
from drills.judges.hang import judge_hang, judge_hang_runs
from drills.rig.capacity import measure_capacity
from drills.rig.cluster import Cluster, ClusterError, ClusterPlan
from drills.rig.load import LATE_AFTER_S, OpenLoop, SearchFlood, Stream, decode, poisson_arrivals
from drills.rig.shop import Shop, fill, search_requests
from drills.rig.traffic import ClientReads, RecordedLoad
from drills.rolling_restart import RestartInTurn, judge_rolling_restart
from drills.tune.judge import (
    HANG,
    KILL,
    PAUSE,
    Step,
    judge_calm,
    judge_flood,
    judge_step,
)
from drills.tune.outcome import Outcome
from drills.tune.profile import Profile
from drills.tune.quiet import listen
from drills.tune.rules import Calibration
from drills.tune.space import REPLICAS, Point, file_sections
from muster.client import ClientSettings

BEFORE_S = 0.8
AFTER_S = 0.4
CALM_S = 5.0
CALM_READS_PER_S, CALM_WRITES_PER_S = 60.0, 60.0
CAPACITY_S = 2.0
RESTART_S = 6.0
"""For writes to come back after a kill, beyond what a hang may last."""

_CROSS_TIERS = ("cross_small", "cross_large")


@dataclass
class UntilWritesAreBack:
    """Another fault, left in place until a write that was due after it is acknowledged, at most limit_s."""

    fault: Fault[Rehearsal]
    limit_s: float

    @property
    def name(self) -> str:
        """That of the other one."""
        return self.fault.name

    def inject(self, rehearsal: Rehearsal) -> dict[str, Any]:
        """Injects it, and waits."""
        done = self.fault.inject(rehearsal)
        end_s = done["instant_s"] + self.limit_s
        assert rehearsal.load is not None
        while time.monotonic() < end_s:
            if any(
                one.kind == "write" and one.status == "OK" and one.intended_s >= done["instant_s"]
                for one in reversed(rehearsal.load.samples[-200:])
            ):
                break
            time.sleep(0.02)
        return done

    def rollback(self, rehearsal: Rehearsal) -> dict[str, Any] | None:
        """Undoes it."""
        return self.fault.rollback(rehearsal)


@dataclass
class Bench:
    """What all points are run on.

    folder: of the tune. sections: of the replicas' settings file, beside what is tuned. client: the client's
    settings, beside what is tuned. capacity_per_s: what a flood is a multiple of; 0: not measured yet.
    """

    folder: Path
    plan: ClusterPlan
    shop: Shop
    profile: Profile
    client: ClientSettings
    capacity_per_s: float = 0.0
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def prepare(self) -> None:
        """Makes, once, the data that every cluster begins with: catalogue and generation."""
        ready = self.folder / "template" / "ready"
        if ready.exists():
            return
        shutil.rmtree(ready.parent, ignore_errors=True)
        plan = replace(self.plan, replicas=1)
        with Cluster(plan, ready.parent) as cluster:
            cluster.start()
            products = list(self.shop.products())
            fill(cluster, products, total=len(products), progress=False)
        ready.touch()

    def has_cross_encoder(self) -> bool:
        """Whether the bundle has plans with one."""
        plans = json.loads((self.plan.bundle / "plans.json").read_text(encoding="utf-8"))["plans"]
        return any(plan["tier"] in _CROSS_TIERS for plan in plans)

    @contextlib.contextmanager
    def _cluster(self, point: Point, *, replicas: int | None = None) -> Iterator[Rehearsal]:
        replica, client = file_sections(point)
        settings = dict(self.plan.settings)
        for section, values in replica.items():
            settings[section] = {**settings.get(section, {}), **values}
        plan = replace(self.plan, settings=settings, replicas=replicas or int(point[REPLICAS]))
        folder = self.folder / "clusters" / f"{next(self._numbers):04d}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.folder / "template" / "data", folder / "data")
        cluster = Cluster(plan, folder)
        try:
            with cluster:
                cluster.start()
                yield Rehearsal(
                    cluster,
                    [query.text for query in self.shop.queries],
                    [one.product_id for one in itertools.islice(self.shop.products(), 200)],
                    self._traffic(client),
                    from_sequence=head_of(cluster)[0] + 1,
                )
        finally:
            cluster.remove_data()

    def _traffic(self, client: Mapping[str, float]) -> Traffic:
        profile = self.profile
        return Traffic(
            reads_per_s=profile.reads_per_s,
            writes_per_s=profile.writes_per_s,
            read_deadline_ms=profile.read_deadline_ms,
            client=replace(self.client, **dict[str, Any](client)),
        )

    def calibrate(self, start: Point) -> Calibration:
        """What the rules need, and the capacity, on the starting configuration without a fault.

        Raises: Inconclusive where the service does not answer as it should.
        """
        before = listen(self.folder)
        with self._cluster(start) as rehearsal:
            requests = search_requests(self.shop.queries)
            # One at a time for each replica: more would raise the price, and not only the best plan answer.
            capacity = measure_capacity(
                rehearsal.cluster,
                requests,
                concurrency=len(rehearsal.cluster.replicas),
                duration_s=CAPACITY_S,
            )
            calm = replace(rehearsal.traffic, reads_per_s=CALM_READS_PER_S, writes_per_s=CALM_WRITES_PER_S)
            rehearsal.traffic = calm
            with self._journal("calm", 0) as journal:
                load = failover.failover_load(rehearsal, journal, 1)
                load.start()
                time.sleep(1.0)
                journal.write("steady")
                time.sleep(CALM_S)
                load.stop()
                measured = judge_calm(journal.history())
        if measured is None:
            raise Inconclusive("without a fault, hardly a read or write was answered")
        return Calibration(
            **measured,
            pause_ms=before.wait_max_ms,
            capacity_per_s=round(capacity.per_s, 1),
            cross_encoder=self.has_cross_encoder(),
        )

    def measure(self, point: Point, seeds: Sequence[int]) -> Generator[Outcome]:
        """Runs the point once for each seed, on one cluster.

        Where the replicas do not do as they should, the rest of the runs are disturbed, and violations if
        they are taken all the same.
        """
        done = 0
        try:
            with self._cluster(point) as rehearsal:
                for seed in seeds:
                    outcome = self._run(rehearsal, seed)
                    done += 1
                    yield outcome
        except (ClusterError, grpc.RpcError) as error:
            why = f"the replicas could not be drilled: {str(error).partition(chr(10))[0]}"
            for _ in seeds[done:]:
                yield Outcome(
                    self.profile.hang_max_s, 1.0, 1.0, 1.0, 0.0, int(point[REPLICAS]), (why,), disturbed=why
                )

    def _run(self, rehearsal: Rehearsal, seed: int) -> Outcome:
        profile, began_s = self.profile, time.monotonic()
        faults = [KILL] * profile.kills + [HANG] * profile.hangs + [PAUSE] * bool(profile.pauses)
        sendings: list[ClientReads] = []
        steps = [self._step(rehearsal, kind, seed, sendings) for kind in faults]
        violations = dict.fromkeys(sentence for step in steps for sentence in step.violations)
        doubts = [doubt for step in steps for doubt in step.doubts]
        stall_ms = max(step.stall_ms for step in steps)
        if stall_ms > profile.noise.stall_max_ms:
            doubts.append(f"the load's own generator was kept waiting for {stall_ms:.0f} ms")
        flood = self._flood(rehearsal, seed)
        if flood.late_share > profile.noise.late_share_max:
            doubts.append(f"{flood.late_share:.0%} of the flood was sent late")
        away_s = [step.unavailable_s for step in steps if step.unavailable_s is not None]
        reads = sum(step.reads for step in steps)
        begun, sent = (sum(counts) for counts in zip(*(one.sendings() for one in sendings), strict=True))
        return Outcome(
            unavailable_s=round(fmean(away_s), 4) if away_s else profile.hang_max_s,
            read_missed_share=round(sum(step.missed for step in steps) / max(1, reads), 6),
            flood_missed_share=round(flood.missed / max(1, flood.offered), 6),
            quality_lost_share=flood.quality_lost,
            extra_load_share=round((sent - begun) / max(1, begun), 6),
            replicas=len(rehearsal.cluster.replicas),
            violations=tuple(violations),
            disturbed=doubts[0] if doubts else "",
            took_s=round(time.monotonic() - began_s, 2),
            figures={
                "unavailable_by_fault_s": {
                    kind: [step.unavailable_s for step, of in zip(steps, faults, strict=True) if of == kind]
                    for kind in (KILL, HANG)
                },
                "flood_offered": flood.offered,
                "flood_late_share": round(flood.late_share, 4),
                "reads": reads,
                "stall_ms": stall_ms,
            },
        )

    def _journal(self, name: str, seed: int) -> Journal:
        path = self.folder / "journals" / f"{next(self._numbers):04d}-{name}-{seed}.jsonl"
        return Journal(path, drill="tune", seed=seed, settings={"step": name})

    def _step(self, rehearsal: Rehearsal, kind: str, seed: int, sendings: list[ClientReads]) -> Step:
        with self._journal(kind, seed) as journal:
            revive(rehearsal.cluster, journal)
            rehearsal.from_sequence = max(rehearsal.from_sequence, head_of(rehearsal.cluster)[0])
            epochs = [reign["epoch"] for reign in reigns(rehearsal.cluster)]
            journal.write("epoch_before", epoch=max(epochs, default=0))
            conduct(self._experiment(kind, seed, sendings), rehearsal, journal)
            return judge_step(journal.history(), kind, read_within_ms=self.profile.read_within_ms)

    def _experiment(self, kind: str, seed: int, sendings: list[ClientReads]) -> Experiment[Rehearsal]:
        profile = self.profile
        fault: Fault[Rehearsal]
        if kind == PAUSE:
            fault = PausePrimary(profile.harmless_pause_ms, profile.pauses)
        elif kind == HANG:
            fault = UntilWritesAreBack(StopPrimary(), profile.hang_max_s)
        else:
            fault = UntilWritesAreBack(KillPrimary(), profile.hang_max_s + RESTART_S)

        def load(rehearsal: Rehearsal, journal: Journal, seed: int) -> RecordedLoad:
            reads, writes = client_streams(rehearsal, seed)
            assert isinstance(reads.caller, ClientReads)
            sendings.append(reads.caller)
            rehearsal.load = RecordedLoad(OpenLoop([reads, writes]), journal)
            return rehearsal.load

        base = failover.experiment(seed=seed, bundle=self.plan.bundle)
        # What must hold is judged from the history; a probe in the middle of a fault would only repeat it.
        probes = tuple(replace(probe, phases=probe.phases & {"before"}) for probe in base.probes)
        return replace(
            base,
            name=f"tune {kind}",
            load=load,
            probes=probes,
            fault=fault,
            collect=collect,
            before_s=BEFORE_S,
            during_s=0.1,
            after_s=AFTER_S,
        )

    def _flood(self, rehearsal: Rehearsal, seed: int) -> Any:
        profile, cluster = self.profile, rehearsal.cluster
        requests = search_requests(self.shop.queries)
        random.Random(seed).shuffle(requests)
        caller = SearchFlood(cluster.addresses, requests, deadline_ms=profile.flood_deadline_ms)
        rate_per_s = profile.flood_factor * self.capacity_per_s
        loop = OpenLoop(
            [Stream("read", poisson_arrivals(rate_per_s, seed), caller)], duration_s=profile.flood_s
        )
        loop.start()
        samples = loop.join()
        decode(samples)
        return judge_flood(
            [sample.record(loop.start_s) for sample in samples],
            deadline_ms=profile.flood_deadline_ms,
            late_after_ms=LATE_AFTER_S * 1000.0,
        )

    def survives(self, point: Point, replicas: int, seed: int) -> tuple[bool, str]:
        """Whether this many replicas hold double_fault and rolling_restart with the point's settings; and why
        not. A drill that deviates is done once more, and is not held if it deviates again: too few replicas
        deviate each time, a busy machine now and then.

        Raises: Inconclusive where a drill cannot tell.
        """
        for number in range(self.profile.limits.replica_runs):
            for one in self._survivals(seed + number):
                deviated: list[str] = []
                while len(deviated) < 2:
                    judgement = self._rehearse(point, replicas, one)
                    if judgement.verdict is Verdict.HELD:
                        break
                    deviated.append("; ".join(judgement.reasons))
                if len(deviated) == 2:
                    return False, f"{one.name} deviated: {deviated[-1]}"
        return True, f"{replicas} replicas held double_fault and rolling_restart"

    def _survivals(self, seed: int) -> tuple[Experiment[Rehearsal], Experiment[Rehearsal]]:
        """double_fault and rolling_restart as values."""
        base = failover.experiment(seed=seed, bundle=self.plan.bundle, during_s=double_fault.DURING_S)
        limits = FailoverLimits(rto_ms=double_fault.RTO_MS)
        return (
            replace(
                base,
                name=double_fault.NAME,
                fault=KillPrimaryStopStandby(),
                judge=lambda history: judge_hang_runs([judge_hang(history)], limits),
                collect=collect,
            ),
            replace(
                base,
                name=rolling_restart.NAME,
                fault=RestartInTurn(),
                judge=judge_rolling_restart,
                during_s=1.0,
            ),
        )

    def _rehearse(self, point: Point, replicas: int, one: Experiment[Rehearsal]) -> Judgement:
        """One drill on a fresh cluster. Raises: Inconclusive."""
        with self._cluster(point, replicas=replicas) as rehearsal:
            rehearsal.traffic = Traffic(client=rehearsal.traffic.client)
            with self._journal(one.name, one.seed) as journal:
                try:
                    judgement = conduct(one, rehearsal, journal)
                except (ClusterError, grpc.RpcError) as error:
                    raise Inconclusive(f"{one.name} could not be done: {error}") from error
        if judgement.verdict is Verdict.INCONCLUSIVE:
            raise Inconclusive(f"{one.name}: {'; '.join(judgement.reasons)}")
        return judgement
