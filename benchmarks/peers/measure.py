"""What is measured of a server: latency of one caller, capacity, and what it is worth under a storm."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.callers import Order, read_answers
from benchmarks.peers.workload import Asked
from drills.experiment import quantile
from drills.rig.load import OK, Caller, OpenLoop, Sample, Stream, closed_loop, lateness, poisson_arrivals

PATIENT_MS = 5000.0
"""Deadline where latency and capacity are measured."""
CONCURRENCY = (1, 2, 4)
DRAIN_S = 6.0
VIEWS = ("storm", "storm_absolute", "storm_patient")
"""Keys of a row's cells: at multiples of its own capacity, at the same rates for all, with more time."""
GENERATOR_LATE_MAX = 0.05
"""Where more requests than this left late, a cell tells of the generator and the server together."""
MakeCaller = Callable[[float], Caller]
"""Deadline in milliseconds to a caller."""


class ServerSilent(Exception):
    """A server answers nothing; the message says what came instead."""


@dataclass(frozen=True)
class Subject:
    """One server as the measurements see it.

    name: for progress. caller: makes one for a deadline. order: reads an answer. counts: whether an answer is
    what was asked for in full; a peer's always is, Muster's where it ran its best plan.
    """

    name: str
    asked: Sequence[Asked]
    caller: MakeCaller
    order: Order
    counts: Callable[[Sample], bool] = lambda sample: True

    def closed(self, *, concurrency: int, seconds: float, requests_max: int = 1 << 62) -> list[Sample]:
        """Samples of a closed loop, read. Raises: ServerSilent where nobody listens."""
        try:
            samples = asyncio.run(
                closed_loop(
                    self.caller(PATIENT_MS),
                    concurrency=concurrency,
                    duration_s=seconds,
                    requests_max=requests_max,
                )
            )
        except (OSError, TimeoutError) as error:
            raise ServerSilent(str(error)) from error
        read_answers(samples, self.asked, self.order)
        return samples

    def answers(self) -> bool:
        """Whether one request is answered."""
        try:
            return any(one.status == OK for one in self.closed(concurrency=1, seconds=1.0, requests_max=1))
        except ServerSilent:
            return False


def answered(samples: Sequence[Sample]) -> list[Sample]:
    """Those that were. Raises: ServerSilent where none was."""
    found = [one for one in samples if one.status == OK]
    if not found:
        statuses = Counter(one.status for one in samples)
        details = next((one.fields["detail"] for one in samples if one.fields.get("detail")), "")
        raise ServerSilent(f"no request was answered: {dict(statuses)} {details}".strip())
    return found


def latency(samples: Sequence[Sample]) -> dict[str, float]:
    """p50_ms and p99_ms of the answered. Raises: ServerSilent."""
    found = [one.latency_s * 1000.0 for one in answered(samples)]
    return {"p50_ms": round(quantile(found, 0.5), 2), "p99_ms": round(quantile(found, 0.99), 2)}


def ndcg(samples: Sequence[Sample], queries: int) -> float:
    """Mean nDCG@10 over the queries, each counted once however often it was sent. Raises: ServerSilent."""
    by_query: dict[int, list[float]] = {}
    for one in answered(samples):
        by_query.setdefault(one.index % queries, []).append(one.fields["ndcg"])
    return round(statistics.mean(statistics.mean(values) for values in by_query.values()), 4)


def plans_of(samples: Sequence[Sample]) -> dict[str, float]:
    """Shares of the plans by which answers were made, commonest first; empty for a server without plans."""
    plans = Counter(
        f"{one.fields['tier']}@{one.fields['depth']}" for one in answered(samples) if "tier" in one.fields
    )
    return {name: round(count / plans.total(), 4) for name, count in plans.most_common()}


def capacity(subject: Subject, *, seconds: float) -> dict[str, Any]:
    """Full answers a second at the best of some concurrencies. Raises: ServerSilent."""
    best: dict[str, Any] = {"per_s": 0.0, "concurrency": 0}
    for concurrency in CONCURRENCY:
        began_s = time.monotonic()
        samples = subject.closed(concurrency=concurrency, seconds=seconds)
        spent_s = max(one.done_s for one in samples) - began_s if samples else seconds
        full = sum(subject.counts(one) for one in answered(samples))
        per_s = full / spent_s
        if per_s > best["per_s"]:
            best = {"per_s": round(per_s, 2), "concurrency": concurrency}
    if not best["per_s"]:
        raise ServerSilent("no answer was one in full")
    return best


def storm(
    subject: Subject, *, rate_per_s: float, seconds: float, deadline_ms: float, seed: int
) -> list[Sample]:
    """Samples of Poisson arrivals at a rate, read. Raises: ServerSilent where nobody listens.

    What is still in flight at the end gets its whole deadline.
    """
    arrivals = poisson_arrivals(rate_per_s, seed)
    load = OpenLoop(
        [Stream("read", arrivals, subject.caller(deadline_ms))],
        duration_s=seconds,
        drain_s=deadline_ms / 1000.0 + 1.0,
    )
    try:
        load.start()
        samples = load.join()
    except (OSError, TimeoutError) as error:
        raise ServerSilent(str(error)) from error
    read_answers(samples, subject.asked, subject.order)
    return samples


@dataclass(frozen=True)
class Cell:
    """One load on one server, counted over one round.

    quality: sum of nDCG@10 over the answers in time. late_share: of requests that the generator sent late.
    """

    offered: int
    in_time: int
    quality: float
    statuses: Counter[str]
    plans: Counter[str]
    late_share: float

    @classmethod
    def of(cls, samples: Sequence[Sample], deadline_ms: float) -> Cell:
        """Counts samples. An answer after its deadline is worth as much as none."""
        statuses: Counter[str] = Counter()
        plans: Counter[str] = Counter()
        in_time, quality = 0, 0.0
        for one in samples:
            late = one.status == OK and one.latency_s * 1000.0 > deadline_ms
            statuses["late" if late else one.status] += 1
            if one.status == OK and not late:
                in_time += 1
                quality += one.fields["ndcg"]
                if "tier" in one.fields:
                    plans[f"{one.fields['tier']}@{one.fields['depth']}"] += 1
        return cls(len(samples), in_time, quality, statuses, plans, lateness(samples).late_share)


def summarise(load: float, rate_per_s: float, rounds: Sequence[Cell]) -> dict[str, Any]:
    """A cell over its rounds: sums over sums, and the least and most of the rounds' shares."""
    offered = sum(one.offered for one in rounds)
    statuses: Counter[str] = sum((one.statuses for one in rounds), Counter())
    plans: Counter[str] = sum((one.plans for one in rounds), Counter())

    def share(value: float, of: int) -> float:
        return round(value / of, 4) if of else math.nan

    known = [one for one in rounds if one.offered]
    found: dict[str, Any] = {
        "load": load,
        "rate_per_s": round(rate_per_s, 2),
        "offered": offered,
        "in_time_share": share(sum(one.in_time for one in rounds), offered),
        "quality_in_time": share(sum(one.quality for one in rounds), offered),
        "quality_min": min((share(one.quality, one.offered) for one in known), default=math.nan),
        "quality_max": max((share(one.quality, one.offered) for one in known), default=math.nan),
        "outcomes": dict(statuses.most_common()),
        "sent_late_share": round(max((one.late_share for one in rounds), default=0.0), 4),
    }
    if plans:
        found["plans"] = {name: round(count / plans.total(), 4) for name, count in plans.most_common()}
    return found


def generator_bound(cell: Mapping[str, Any]) -> bool:
    """Whether the generator could not send what a summarised cell offers, and tells nothing of the server."""
    return bool(cell["sent_late_share"] > GENERATOR_LATE_MAX)


def in_flight_max(p50_ms: float, deadline_ms: float) -> int:
    """How many requests a server may hold at once, one computed after the other, so that the last is in
    time."""
    return max(1, int(deadline_ms / p50_ms))


def drained(subject: Subject, p50_ms: float, *, timeout_s: float = DRAIN_S) -> bool:
    """Waits until a server answers as fast as when idle (three times its median); False if it does not."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        try:
            samples = subject.closed(concurrency=1, seconds=0.25)
        except ServerSilent:
            return False
        found = [one.latency_s * 1000.0 for one in samples if one.status == OK]
        if found and found[-1] <= 3.0 * p50_ms:
            return True
        time.sleep(0.1)
    return False
