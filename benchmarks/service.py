"""The service under measurement: one real replica, its catalogue loaded and built, its machine written
down."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from drills.rig.cluster import ROOT, Cluster, ClusterPlan
from drills.rig.shop import Shop, choose_shop, fill, synthetic_shop
from muster.bundle import read_bundle, write_bundle

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

    def serve(self, size: int, plan: dict[str, Any] | None = None, *, bundle: Path | None = None) -> Serving:
        """A replica with a catalogue of `size`; with `plan`, one that can do nothing else.

        bundle: another than the services' own, for a synthetic catalogue.

        Raises: ClusterError, BundleError.
        """
        source = bundle or self._bundle
        key = (size, json.dumps(plan, sort_keys=True), source)
        if self._running is not None and self._running[0] == key:
            return self._running[1]
        self._end()
        folder = self._folder / f"service-{next(self._numbers)}"
        folder.mkdir()
        taken = source if plan is None else one_plan_bundle(source, plan, folder / "bundle")
        shop = synthetic_shop(size, self._seed)
        if (
            size == REAL_SIZE
            and bundle is None
            and (real := choose_shop(None, self._seed)).name != "synthetic"
        ):
            shop = real
        cluster = Cluster(ClusterPlan(bundle=taken, replicas=1), folder)
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
