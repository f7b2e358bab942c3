"""The service under measurement: one real replica, its catalogue loaded and built, its machine written
down."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from drills.experiment import quantile
from drills.journal import machine
from drills.rig.cluster import ROOT, Cluster, ClusterPlan
from drills.rig.load import tier_name
from drills.rig.shop import Shop, choose_shop, fill, synthetic_shop
from muster.bundle import read_bundle, write_bundle
from muster.client import Client, MusterError

REAL_SIZE = 26_000
"""At this size the real catalogue is taken where its data is at hand."""


@dataclass(frozen=True)
class Serving:
    """A replica that serves, and what it serves."""

    cluster: Cluster
    shop: Shop
    products: int
    bundle_id: str
    build_s: float

    @property
    def queries(self) -> list[str]:
        """Query texts."""
        return [query.text for query in self.shop.queries]


class Services:
    """One service at a time; asking for the same one again gives the running one."""

    def __init__(self, bundle: Path, folder: Path, *, seed: int) -> None:
        self._bundle = bundle
        self._folder = folder
        self._seed = seed
        self._numbers = itertools.count(1)
        self._running: tuple[object, Serving] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @staticmethod
    def plans_of(bundle: Path) -> list[dict[str, Any]]:
        """The plans of a bundle."""
        plans: list[dict[str, Any]] = json.loads((bundle / "plans.json").read_text(encoding="utf-8"))["plans"]
        return plans

    def serve(self, size: int, plan: dict[str, Any] | None = None) -> Serving:
        """A replica with a catalogue of `size`; with `plan`, one that can do nothing else.

        Raises: ClusterError, BundleError.
        """
        key = (size, json.dumps(plan, sort_keys=True))
        if self._running is not None and self._running[0] == key:
            return self._running[1]
        self._end()
        folder = self._folder / f"service-{next(self._numbers)}"
        folder.mkdir()
        bundle = self._bundle if plan is None else one_plan_bundle(self._bundle, plan, folder / "bundle")
        shop = synthetic_shop(size, self._seed)
        if size == REAL_SIZE and (real := choose_shop(None, self._seed)).name != "synthetic":
            shop = real
        cluster = Cluster(ClusterPlan(bundle=bundle, replicas=1), folder)
        try:
            cluster.start()
            began_s = time.monotonic()
            fill(cluster, shop.products(), total=shop.expected_products, progress=False)
            state = cluster.status(cluster.replicas[0])
            serving = Serving(cluster, shop, state.products, state.bundle_id, time.monotonic() - began_s)
        except BaseException:
            cluster.close()
            raise
        self._running = (key, serving)
        return serving

    def _end(self) -> None:
        if self._running is not None:
            self._running[1].cluster.close()
            self._running[1].cluster.remove_data()
            self._running = None


def one_plan_bundle(source: Path, plan: dict[str, Any], folder: Path) -> Path:
    """The bundle with this plan alone, written to `folder`, so that no deadline can choose another."""
    bundle = read_bundle(source)
    files: dict[str, bytes | Path] = {name: bundle.folder / name for name in bundle.manifest.files}
    files["plans.json"] = json.dumps({"plans": [plan]}).encode()
    family = bundle.manifest.bundle_id.rpartition("-")[0]
    write_bundle(
        folder,
        f"{family}-{plan['tier']}-{plan['depth']}".replace("_", "-"),
        files,
        created_unix_s=bundle.manifest.created_unix_s,
        muster_version=bundle.manifest.muster_version,
        bytes_max=None,
    )
    return folder


@dataclass
class Round:
    """What one round of searches brought. latencies_ms: of the answered ones."""

    latencies_ms: list[float]
    plans: Counter[str]
    quality: list[float]
    failures: Counter[str]


def search_round(
    client: Client, queries: Sequence[str], *, callers: int, searches: int, deadline_ms: float
) -> Round:
    """`searches` searches by `callers` threads, each with one in flight; every caller takes its share."""
    result = Round([], Counter(), [], Counter())

    def caller(number: int) -> None:
        for index in range(number, searches, callers):
            began_s = time.perf_counter()
            try:
                response = client.search(queries[index % len(queries)], deadline_ms=deadline_ms)
            except MusterError as error:
                result.failures[type(error).__name__] += 1
                continue
            result.latencies_ms.append((time.perf_counter() - began_s) * 1000.0)
            receipt = response.receipt
            result.plans[f"{tier_name(receipt.tier)}@{receipt.depth}"] += 1
            result.quality.append(receipt.expected_ndcg)

    if callers == 1:
        caller(0)
    else:
        with ThreadPoolExecutor(max_workers=callers) as pool:
            list(pool.map(caller, range(callers)))
    return result


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


def commit() -> str:
    """The commit of the checkout, "+changes" where files differ from it; "unknown" outside a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
