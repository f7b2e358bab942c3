"""Muster and the servers that people would pick instead, side by side: same student, same queries, same
machine.

    make compare
    python -m benchmarks.peers.compare [--only NAME]... [--quick] [--out DIR]

**Question.** How long does re-ranking 50 candidates take, and what is a server worth under a storm, when all
of them serve the same model?

**How.** Each peer is a real process of its own environment on loopback; whoever is not being measured is held
still. One caller: passes over all queries, interleaved between servers. Capacity: a closed loop at the best
of some concurrencies. Storm: open-loop Poisson arrivals at 1, 2, 5 and 10 times each one's own capacity, then
at the same rates for all (multiples of the best peer's capacity), 50 ms each, and once more with 200 ms each;
interleaved, counted from the intended moment; late, refused and unanswered requests are worth nothing. Not
counted: start, load, build, connecting.

Writes compare.json, compare.md, latency.png and storm.png. Exit codes: 0; 1 where nothing could be compared.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

from benchmarks.peers.callers import muster_caller, muster_order, peer_caller, peer_order
from benchmarks.peers.environment import Environment, EnvironmentFailed
from benchmarks.peers.measure import (
    VIEWS,
    Cell,
    ServerSilent,
    Subject,
    answered,
    capacity,
    drained,
    in_flight_max,
    latency,
    ndcg,
    plans_of,
    storm,
    summarise,
)
from benchmarks.peers.process import Server, ServerFailed, free_port, memory_mib
from benchmarks.peers.report import write_report
from benchmarks.peers.roster import ROOT, Peer, RosterError, chosen
from benchmarks.peers.service import Replica
from benchmarks.peers.student import Student, StudentFailed, make_student
from benchmarks.peers.workload import Workload
from drills.experiment import Inconclusive
from drills.journal import machine
from drills.rig.cluster import find_bundle, interrupted_by_sigterm
from drills.rig.load import Sample
from drills.rig.shop import Shop, choose_shop

BUILD = ROOT / ".build" / "peers"
OUT = ROOT / "benchmarks" / "results"
LOADS = (1.0, 2.0, 5.0, 10.0)
DEADLINE_MS = 50.0
PATIENT_DEADLINE_MS = 200.0
"""Of a second storm: on a slow machine no peer may fit the first deadline even when idle."""
PATIENT_LOADS = (1.0, 5.0)
REQUESTS_MIN = 40
STRETCH_MAX = 3.0
"""A cell of few requests lasts longer, up to this many times, until it has about REQUESTS_MIN."""
QUERIES_MAX = 60
START_S = 240.0
WARM_UP_S = 0.4
IN_FLIGHT_MAX = 8
"""Where latency and capacity are measured, so that no peer refuses what is asked of it there."""
MUSTER = "muster"
MUSTER_OWN = "muster-own-plan"


@dataclass(frozen=True)
class Scope:
    """How much is measured. passes: over the queries, of one caller. seconds: of a cell; rounds: of all
    cells."""

    passes: int = 3
    capacity_s: float = 2.0
    seconds: float = 2.0
    rounds: int = 2
    loads: tuple[float, ...] = LOADS
    patient_loads: tuple[float, ...] = PATIENT_LOADS
    deadline_ms: float = DEADLINE_MS
    patient_deadline_ms: float = PATIENT_DEADLINE_MS
    seed: int = 1

    def stages(self) -> list[tuple[View, ...]]:
        """Views that are measured together, with one deadline each."""
        return [
            (
                View("storm", self.deadline_ms, self.loads),
                View("storm_absolute", self.deadline_ms, self.loads, absolute=True),
            ),
            (View("storm_patient", self.patient_deadline_ms, self.patient_loads),),
        ]

    def cell_s(self, rate_per_s: float) -> float:
        """How long a cell lasts."""
        return min(max(self.seconds, REQUESTS_MIN / rate_per_s), STRETCH_MAX * self.seconds)


@dataclass(frozen=True)
class View:
    """One way to look at a storm. key: in a row. absolute: the same rates for all."""

    key: str
    deadline_ms: float
    loads: tuple[float, ...]
    absolute: bool = False


QUICK = Scope(passes=1, capacity_s=1.0, seconds=1.0, rounds=1)


class Held(Protocol):
    """What is measured, as a process: a peer's or Muster's."""

    def pause(self) -> None:
        """Holds it still."""

    def resume(self) -> None:
        """Lets it go on."""

    def end(self) -> None:
        """Ends it."""


@dataclass
class Contender:
    """One server under comparison.

    row: what is known of it so far, as in compare.json. failed: why it is not measured, "" while it is.
    start: brings it up for so many requests in flight and a deadline in milliseconds.
    """

    name: str
    row: dict[str, Any]
    start: Callable[[int, float], tuple[Held, Subject]]
    held: Held | None = None
    subject: Subject | None = None
    failed: str = ""
    samples: list[list[Sample]] = field(default_factory=list)
    cells: dict[tuple[str, float], list[Cell]] = field(default_factory=dict)

    def bring_up(self, in_flight: int, deadline_ms: float) -> None:
        """Starts it, warm and held still. Raises: ServerFailed, ServerSilent, EnvironmentFailed."""
        self.held, self.subject = self.start(in_flight, deadline_ms)
        self.subject.closed(concurrency=1, seconds=WARM_UP_S)
        self.held.pause()

    def end(self) -> None:
        """Ends it. Safe to call twice."""
        if self.held is not None:
            self.held.end()
        self.held = self.subject = None

    def measured(self, work: Callable[[Subject], None], note: Callable[[str], None]) -> None:
        """Lets it go on for as long as `work` takes; one that fails is left out from here on, with the
        reason."""
        if self.failed or self.held is None or self.subject is None:
            return
        try:
            self.held.resume()
            work(self.subject)
            self.held.pause()
        except (ServerSilent, ServerFailed) as error:
            self.fail(str(error), note)

    def fail(self, reason: str, note: Callable[[str], None]) -> None:
        """Leaves it out from here on."""
        self.failed = " ".join(reason.split())[:400]
        note(f"{self.name}: not run: {self.failed}")
        self.end()


class Comparison:
    """One run. contenders: in the order of their names, Muster first."""

    def __init__(
        self, contenders: Sequence[Contender], queries: int, scope: Scope, note: Callable[[str], None]
    ) -> None:
        self._contenders = list(contenders)
        self._queries = queries
        self._scope = scope
        self._note = note
        self._random = random.Random(scope.seed)

    def running(self) -> list[Contender]:
        """Those that have not failed, in a new random order."""
        left = [one for one in self._contenders if not one.failed]
        self._random.shuffle(left)
        return left

    def bring_up(self, deadline_ms: float | None = None) -> None:
        """Starts whoever is left, one after the other, each with so many requests in flight as fit the
        deadline (None: with more than any measurement of latency or capacity has)."""
        for one in self._contenders:
            if one.failed:
                continue
            one.end()
            began_s = time.monotonic()
            try:
                if deadline_ms is None:
                    one.bring_up(IN_FLIGHT_MAX, self._scope.deadline_ms)
                else:
                    one.bring_up(in_flight_max(one.row["p50_ms"], deadline_ms), deadline_ms)
            except (ServerSilent, ServerFailed, EnvironmentFailed) as error:
                one.fail(str(error), self._note)
            else:
                self._note(f"{one.name}: up after {time.monotonic() - began_s:.0f} s")

    def measure_latency(self) -> None:
        """Passes over all queries by one caller, interleaved."""
        for number in range(self._scope.passes):
            for one in self.running():
                one.measured(functools.partial(self._pass, one), self._note)
            self._note(f"latency: pass {number + 1} of {self._scope.passes}")
        for one in self.running():
            every = [sample for samples in one.samples for sample in samples]
            by_pass = [latency(samples)["p50_ms"] for samples in one.samples]
            one.row |= latency(every) | {
                "p50_ms_min": min(by_pass),
                "p50_ms_max": max(by_pass),
                "requests": len(every),
                "ndcg10": ndcg(every, self._queries),
            }
            if plans := plans_of(every):
                one.row["plans_idle"] = plans

    def _pass(self, one: Contender, subject: Subject) -> None:
        subject.closed(concurrency=1, seconds=WARM_UP_S)
        samples = subject.closed(concurrency=1, seconds=120.0, requests_max=self._queries)
        answered(samples)
        one.samples.append(samples)

    def measure_capacity(self) -> None:
        """Full answers a second."""

        def of(one: Contender, subject: Subject) -> None:
            found = capacity(subject, seconds=self._scope.capacity_s)
            one.row |= {"capacity_per_s": found["per_s"], "capacity_concurrency": found["concurrency"]}

        for one in self.running():
            one.measured(functools.partial(of, one), self._note)
            if not one.failed:
                self._note(f"{one.name}: {one.row['capacity_per_s']:.1f} requests a second")

    def measure_storm(self, views: Sequence[View]) -> None:
        """Every load of the views on whoever is left, in rounds, each in a random order of its own."""
        peers = [one for one in self._contenders if not one.failed and not one.name.startswith(MUSTER)]
        of_best = max((float(one.row["capacity_per_s"]) for one in peers), default=0.0)

        def rate_per_s(view: View, load: float, one: Contender) -> float:
            return load * ((view.absolute and of_best) or float(one.row["capacity_per_s"]))

        cells = [(view, load, one) for view in views for load in view.loads for one in self.running()]
        began_s = time.monotonic()
        total, done = self._scope.rounds * len(cells), 0
        for number in range(self._scope.rounds):
            self._random.shuffle(cells)
            for view, load, one in cells:
                seed = self._scope.seed + 1000 * number + done
                work = functools.partial(
                    self._cell, one, view=view, load=load, rate_per_s=rate_per_s(view, load, one), seed=seed
                )
                one.measured(work, self._note)
                done += 1
                if done % 20 == 0:
                    left_s = (time.monotonic() - began_s) / done * (total - done)
                    self._note(f"storm: {done} of {total} cells, about {left_s / 60:.1f} minutes left")
        for one in self.running():
            for view in views:
                one.row[view.key] = [
                    summarise(load, rate_per_s(view, load, one), one.cells[view.key, load])
                    for load in view.loads
                ]

    def _cell(
        self, one: Contender, subject: Subject, *, view: View, load: float, rate_per_s: float, seed: int
    ) -> None:
        subject.closed(concurrency=1, seconds=WARM_UP_S)
        samples = storm(
            subject,
            rate_per_s=rate_per_s,
            seconds=self._scope.cell_s(rate_per_s),
            deadline_ms=view.deadline_ms,
            seed=seed,
        )
        one.cells.setdefault((view.key, load), []).append(Cell.of(samples, view.deadline_ms))
        p50_ms = float(one.row["p50_ms"])
        if not drained(subject, p50_ms):
            # What it still works off would slow the next cell: a new process is as good as an idle one.
            one.end()
            one.bring_up(in_flight_max(p50_ms, view.deadline_ms), view.deadline_ms)
            assert one.held is not None
            one.held.resume()

    def end(self) -> None:
        """Ends every process."""
        for one in self._contenders:
            one.end()


def peer_contender(peer: Peer, student: Student, workload: Workload, log: Path) -> Contender:
    """A peer, to be started in an environment of its own."""
    row: dict[str, Any] = {
        "name": peer.name,
        "title": peer.title,
        "protocol": peer.protocol,
        "numbers": peer.numbers,
        "settings": peer.settings,
    }
    environment = Environment(BUILD / peer.name, peer.requirements, shares_torch=peer.shares_torch)

    def start(in_flight: int, deadline_ms: float) -> tuple[Held, Subject]:
        environment.make(say)
        versions = environment.versions([peer.package, *peer.beside])
        row["version"] = versions.get(peer.package, "unknown")
        row["beside"] = {name: versions[name] for name in peer.beside if name in versions}
        port = free_port()
        command = [str(environment.python), "-m", peer.module, "--model", str(student.model.resolve())]
        command += ["--port", str(port), "--threads", str(machine()["cores"])]
        command += ["--in-flight-max", str(in_flight), "--deadline-ms", str(deadline_ms)]
        server = Server(command, log / f"{peer.name}.log", namespace=peer.namespace)
        address = f"127.0.0.1:{port}"
        subject = Subject(
            peer.name,
            workload.asked,
            lambda deadline_ms: peer_caller(
                peer, address, workload.asked, deadline_ms=deadline_ms, inside=server.namespace_pid
            ),
            peer_order(peer),
        )
        try:
            server.wait_until(subject.answers, START_S)
        except BaseException:
            server.end()
            raise
        row["memory_mib"] = round(memory_mib(server.pid))
        return server, subject

    return Contender(peer.name, row, start)


def muster_contender(
    name: str, title: str, bundle: Path, shop: Shop, workload: Workload, settings: list[str]
) -> Contender:
    """Muster with one bundle; its data stays between runs."""
    row: dict[str, Any] = {
        "name": name,
        "title": title,
        "protocol": "grpc",
        "numbers": "int8",
        "settings": settings,
        "bundle": bundle.name,
    }

    def start(in_flight: int, deadline_ms: float) -> tuple[Held, Subject]:
        del in_flight, deadline_ms  # the planner sees to it
        replica = Replica.start(bundle, shop, say)
        row["version"] = replica.version()
        row["memory_mib"] = round(replica.memory_mib())
        subject = Subject(
            name,
            workload.asked,
            lambda deadline_ms: muster_caller(replica.address, workload.asked, deadline_ms=deadline_ms),
            muster_order,
            lambda sample: sample.fields.get("reason") == "best",
        )
        return replica, subject

    return Contender(name, row, start)


def say(text: str) -> None:
    """Progress, on standard error."""
    print(f"compare: {text}", file=sys.stderr, flush=True)


def prepare_workload(shop: Shop, bundle: Path, student: Student) -> Workload:
    """Queries and candidates, found once for these bundles and this catalogue. Raises: ServerFailed."""
    path = BUILD / f"workload-{student.opened().bundle_id}-{shop.name}.json"
    if path.is_file():
        return Workload.load(path)
    replica = Replica.start(bundle, shop, say)
    try:
        workload = replica.workload(shop, student.bundle, most=QUERIES_MAX)
    finally:
        replica.end()
    if not workload.asked:
        raise ServerFailed("no judged query has 50 candidates in this catalogue")
    workload.save(path)
    return workload


def compare(peers: Sequence[Peer], scope: Scope, *, with_muster: bool = True) -> dict[str, Any]:
    """Everything about re-ranking. Returns: what compare.json says of it.

    Raises: StudentFailed, ServerFailed; Inconclusive where there is no bundle to serve.
    """
    student = make_student(say)
    bundle = find_bundle()
    shop = choose_shop(None, scope.seed)
    say(shop.note)
    workload = prepare_workload(shop, bundle, student)
    contenders = [peer_contender(peer, student, workload, BUILD / "logs") for peer in peers]
    if with_muster:
        api = "Rerank of 50 product ids (its API); it holds the products' word pieces already"
        contenders = [
            muster_contender(
                MUSTER,
                "Muster, the same student",
                student.bundle,
                shop,
                workload,
                [api, "the student admitted to the plans: with time to spare it re-ranks all 50"],
            ),
            muster_contender(
                MUSTER_OWN,
                "Muster, its own plan",
                bundle,
                shop,
                workload,
                [api, "the committed bundle; the deadline picks the plan"],
            ),
            *contenders,
        ]
    run = Comparison(contenders, len(workload.asked), scope, say)
    try:
        run.bring_up()
        run.measure_latency()
        run.measure_capacity()
        for views in scope.stages():
            deadline_ms = views[0].deadline_ms
            say(f"storm: every server starts anew, with so many requests in flight as fit {deadline_ms:g} ms")
            run.bring_up(deadline_ms)
            run.measure_storm(views)
    finally:
        run.end()
    rows = {}
    for one in contenders:
        identity = {key: one.row[key] for key in ("name", "title", "protocol", "numbers", "settings")}
        rows[one.name] = {**identity, "not_run": one.failed} if one.failed else one.row
        rows[one.name]["date"] = today()
    return {
        "peers": [row for name, row in rows.items() if not name.startswith(MUSTER)],
        "muster": rows.get(MUSTER),
        "muster_own_plan": rows.get(MUSTER_OWN),
        "workload": {
            "catalogue": workload.name,
            "products": workload.products,
            "queries": len(workload.asked),
            "held_back": workload.held_back,
            "candidates": len(workload.asked[0].product_ids),
            "deadline_ms": scope.deadline_ms,
            "patient_deadline_ms": scope.patient_deadline_ms,
            "loads": list(scope.loads),
            "patient_loads": list(scope.patient_loads),
            "seconds": scope.seconds,
            "rounds": scope.rounds,
            "seed": scope.seed,
        },
        "student": student.about,
        "machine": machine() | {"memory_gib": round(psutil.virtual_memory().total / 2**30, 1)},
        "date": today(),
    }


def today() -> str:
    """The moment of measuring, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")


def merged(new: dict[str, Any], old: dict[str, Any] | None) -> dict[str, Any]:
    """A run of some servers, with the rows that an earlier run on the same kind of machine has of the others.

    Each row has its own date. Ratios are worked out again.
    """
    result = dict(new)
    if old is not None and old.get("machine", {}).get("cpu") == new["machine"]["cpu"]:
        result["peers"] = _joined(new["peers"], old.get("peers", []))
        for key in ("muster", "muster_own_plan", "retrieval"):
            if not result.get(key):
                result[key] = old.get(key)
        if new.get("retrieval") and old.get("retrieval"):
            rows = _joined(new["retrieval"]["peers"], old["retrieval"]["peers"])
            result["retrieval"] = {**new["retrieval"], "peers": rows}
    result["ratios"] = ratios(result)
    return result


def _joined(new: list[dict[str, Any]], old: list[dict[str, Any]]) -> list[dict[str, Any]]:
    fresh = {row["name"] for row in new}
    return sorted([*new, *(row for row in old if row["name"] not in fresh)], key=lambda row: str(row["name"]))


def ratios(result: dict[str, Any]) -> dict[str, Any]:
    """Muster against the best peer: p50 (theirs by ours) and quality in time at each load (ours by theirs).

    A ratio is None where the best peer's quality is 0 or either side is missing.
    """
    peers = [row for row in result["peers"] if "not_run" not in row]
    ours = result.get("muster")
    if not peers or not ours or "not_run" in ours:
        return {}
    fastest = min(peers, key=lambda row: float(row["p50_ms"]))
    found: dict[str, Any] = {
        "fastest_peer": fastest["name"],
        "p50": round(fastest["p50_ms"] / ours["p50_ms"], 3),
    }
    for view in VIEWS:
        found[view] = []
        for at, cell in enumerate(ours.get(view, [])):
            best = max(peers, key=lambda row: _quality(row, view, at))
            theirs = _quality(best, view, at)
            found[view].append(
                {
                    "load": cell["load"],
                    "best_peer": best["name"] if theirs else None,
                    "quality_in_time": round(cell["quality_in_time"] / theirs, 3) if theirs else None,
                }
            )
    return found


def _quality(row: dict[str, Any], view: str, at: int) -> float:
    """Quality in time of one cell; 0 where nothing was offered, or the view was not measured."""
    cells = row.get(view) or []
    quality = cells[at]["quality_in_time"] if at < len(cells) else None
    return quality if quality is not None and math.isfinite(quality) else 0.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run it from a command line."""
    parser = argparse.ArgumentParser(prog="make compare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="this peer (may be repeated)"
    )
    parser.add_argument("--quick", action="store_true", help="one short round: to see that everything runs")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of the results (default {OUT})")
    parser.add_argument("--without", choices=["rerank", "retrieval"], help="leave one half out")
    parsed = parser.parse_args(argv)
    from benchmarks.peers.retrieval.compare import compare_retrieval, finders

    scope = QUICK if parsed.quick else Scope()
    known = [one.name for one in finders()]
    path = parsed.out / "compare.json"
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    try:
        peers = chosen([name for name in parsed.only if name not in known])
        if parsed.only and all(name in known for name in parsed.only):
            peers = []
        result: dict[str, Any] = {"peers": [], "machine": machine(), "date": today()}
        with interrupted_by_sigterm():
            if parsed.without != "rerank" and (peers or not parsed.only):
                result = compare(peers, scope)
            elif old is not None:
                result = {**old, "machine": machine()}
            if parsed.without != "retrieval" and (
                not parsed.only or any(name in known for name in parsed.only)
            ):
                result["retrieval"] = compare_retrieval(
                    [name for name in parsed.only if name in known], say, quick=parsed.quick
                )
    except (RosterError, StudentFailed, ServerFailed, Inconclusive) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted; every server was ended")
        return 1
    result = merged(result, old)
    compared = [row for row in result["peers"] if "not_run" not in row]
    found = [row for row in (result.get("retrieval") or {}).get("peers", []) if "not_run" not in row]
    write_report(result, parsed.out)
    say(f"written to {parsed.out}")
    print((parsed.out / "compare.md").read_text(encoding="utf-8"))
    muster = result.get("muster") or {}
    if not (compared and "p50_ms" in muster) and not found:
        say("nothing could be compared: see the reasons above")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
