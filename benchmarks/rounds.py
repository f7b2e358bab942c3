"""Rounds of calls to a service, and what is stored of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.service import Serving, commit
from drills.experiment import quantile
from drills.journal import machine
from drills.rig.load import tier_name
from muster.client import Client, MusterError
from muster.v1 import ranking_pb2

CALLS = 64
ROUNDS = 8
UNHURRIED_MS = 5000.0


class Answer(Protocol):
    """What a search and a recommendation answer alike."""

    @property
    def receipt(self) -> ranking_pb2.Receipt:
        """What was executed."""


Ask = Callable[[Client, int], Answer]
"""The call of this number. Raises: MusterError."""


def searching(serving: Serving, deadline_ms: float) -> Ask:
    """Searches for the shop's queries in turn."""
    queries = serving.queries
    return lambda client, index: client.search(queries[index % len(queries)], deadline_ms=deadline_ms)


@dataclass
class Round:
    """What one round of calls brought. latencies_ms: of the answered ones."""

    latencies_ms: list[float]
    plans: Counter[str]
    quality: list[float]
    failures: Counter[str]


def call_round(client: Client, ask: Ask, *, callers: int, calls: int) -> Round:
    """`calls` calls by `callers` threads, each with one in flight; every caller takes its share."""
    result = Round([], Counter(), [], Counter())

    def caller(number: int) -> None:
        for index in range(number, calls, callers):
            began_s = time.perf_counter()
            try:
                answer = ask(client, index)
            except MusterError as error:
                result.failures[type(error).__name__] += 1
                continue
            result.latencies_ms.append((time.perf_counter() - began_s) * 1000.0)
            receipt = answer.receipt
            result.plans[f"{tier_name(receipt.tier)}@{receipt.depth}"] += 1
            result.quality.append(receipt.expected_ndcg)

    if callers == 1:
        caller(0)
    else:
        with ThreadPoolExecutor(max_workers=callers) as pool:
            list(pool.map(caller, range(callers)))
    return result


def measure(
    benchmark: Any, serving: Serving, ask: Ask, *, callers: int, seed: int, **stored: Any
) -> list[Round]:
    """Runs the rounds and stores what they brought, and `stored`."""
    rounds: list[Round] = []
    with Client(serving.cluster.addresses) as client:

        def one() -> None:
            rounds.append(call_round(client, ask, callers=callers, calls=CALLS))

        benchmark.pedantic(one, rounds=ROUNDS, warmup_rounds=2)
    measured = rounds[-ROUNDS:]
    benchmark.extra_info.update(describe(serving, measured, seed=seed))
    benchmark.extra_info.update({"calls_a_round": CALLS, "callers": callers, **stored})
    seconds = sum(benchmark.stats.stats.data)
    answered = sum(len(one.latencies_ms) for one in measured)
    benchmark.extra_info["answered_per_s"] = round(answered / seconds, 1)
    return measured


def describe(serving: Serving, rounds: Sequence[Round], *, seed: int) -> dict[str, Any]:
    """What is stored beside the times: machine, commit, bundle, seed, and what was really executed."""
    latencies = [latency for one in rounds for latency in one.latencies_ms]
    plans: Counter[str] = sum((one.plans for one in rounds), Counter())
    failures: Counter[str] = sum((one.failures for one in rounds), Counter())
    quality = [value for one in rounds for value in one.quality]
    return {
        "machine": machine(),
        "commit": commit(),
        "bundle": serving.bundle_id,
        "seed": seed,
        "catalogue": serving.shop.name,
        "products": serving.products,
        "load_and_build_s": round(serving.build_s, 1),
        "latency_ms": {
            f"p{share}": round(quantile(latencies, share / 100), 3) if latencies else None
            for share in (50, 95, 99)
        },
        "plans": dict(plans),
        "expected_ndcg_share": round(sum(quality) / len(quality), 4) if quality else None,
        "failures": dict(failures),
    }
