"""One bundle as a replica holds it: verified, its models on the ranking core, its generation kept fresh."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rankcore
from muster.bundle import Bundle, BundleError, check_signature, read_bundle
from server.config import Settings
from server.generation.build import BuildJob
from server.generation.open import OpenDense
from server.generation.renewal import Renewal, RenewalPolicy
from server.generation.swap import LogReader, Served
from server.gpu.offload import Offload, open_offload

logger = logging.getLogger(__name__)


class BundleRefused(Exception):
    """A bundle must not be served here. ``problems``: one sentence for each reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def verified_bundle(folder: Path, settings: Settings) -> Bundle:
    """The bundle, every file as its manifest declares, signed as the settings ask. Raises: BundleRefused."""
    try:
        bundle = read_bundle(folder)
        check_signature(
            bundle.manifest,
            settings.release.trusted_keys,
            allow_unsigned=settings.release.allow_unsigned,
        )
    except BundleError as error:
        raise BundleRefused([f"bundle {folder} refused: {error}"]) from error
    return bundle


@dataclass(frozen=True)
class Models:
    """The models of a bundle on the ranking core, and what of them runs on a GPU (None: nothing)."""

    bundle: Bundle
    engine: rankcore.Engine
    offload: Offload | None

    def close(self) -> None:
        """Let go of both; what runs on the core ends as usual while other bundles share its workers."""
        self.engine.close()
        if self.offload is not None:
            self.offload.close()


def open_models(
    settings: Settings, bundle: Bundle, replica: str, *, beside: rankcore.Engine | None = None
) -> Models:
    """Open the models of a verified bundle; they must give the bundle's golden scores on this machine.

    beside: an engine whose workers are shared; None: with workers of its own. Raises: BundleRefused.
    """
    common: dict[str, Any] = {
        "runtime_library": rankcore.runtime_library(),
        "replica": replica,
        "chunk_pairs": settings.ranking.chunk_pairs,
        "reserve_ms": settings.ranking.reserve_ms,
        "queue_max": settings.ranking.queue_max,
        "backlog_ms": settings.ranking.backlog_ms,
        "price_gain": settings.ranking.price_gain,
        "kernels": settings.ranking.kernels,
        "taste_weight": settings.ranking.taste_weight,
    }
    folder = str(bundle.folder)
    try:
        if beside is None:
            engine = rankcore.Engine(folder, workers=settings.ranking.workers, **common)
        else:
            engine = beside.beside(folder, **common)
        for model, runner, reason in engine.models:
            logger.info("model %s is run by %s%s", model, runner, f": {reason}" if reason else "")
        differing = engine.verify_golden() if settings.lifecycle.verify_golden else []
    except rankcore.RankError as error:
        raise BundleRefused([f"bundle {bundle.bundle_id} refused: {error}"]) from error
    if differing:
        engine.close()
        raise BundleRefused(
            [
                f"bundle {bundle.bundle_id} refused: its golden requests do not reproduce here: {sentence}"
                for sentence in differing
            ]
        )
    offload = open_offload(
        settings.ranking.device,
        bundle,
        bundle.folder,
        engine,
        chunk_pairs=settings.ranking.chunk_pairs,
        verify=settings.lifecycle.verify_golden,
    )
    return Models(bundle, engine, offload)


@dataclass(frozen=True)
class Held:
    """A bundle with the generation it serves and what keeps that fresh."""

    models: Models
    served: Served
    renewal: Renewal
    warm_up_queries: list[str]
    open_generation: Callable[[], rankcore.Generation]

    @property
    def bundle_id(self) -> str:
        """Name of the bundle."""
        return self.models.bundle.bundle_id

    @property
    def engine(self) -> rankcore.Engine:
        """Its engine."""
        return self.models.engine

    def warm_up(self) -> None:
        """Run every plan, and take their prices from it."""
        self.engine.warm_up(self.warm_up_queries)

    def reload(self) -> int:
        """Go on after the snapshot, as events that the generation lacks are folded. The applied sequence."""
        return self.served.reload(self.open_generation())

    def close(self) -> None:
        """Keep nothing of it running."""
        self.renewal.stop()
        self.models.close()


def hold(
    settings: Settings,
    models: Models,
    open_generation: Callable[[rankcore.Engine, OpenDense | None], rankcore.Generation],
    log: LogReader,
    *,
    primary: Callable[[], bool],
) -> Held:
    """Put models and generation together; nothing serves, follows or builds yet.

    open_generation: opens the first one. primary: whether builds are to start here rather than elsewhere.
    """
    engine, offload = models.engine, models.offload
    open_dense = offload.open_dense if offload is not None else None
    served = Served(engine, open_generation(engine, open_dense), log)
    queries = golden_queries(models.bundle)[: settings.lifecycle.warm_up_queries]
    generation = settings.generation
    renewal = Renewal(
        engine,
        served,
        replace(BuildJob.of(settings), bundle=str(models.bundle.folder)),
        RenewalPolicy(
            rebuild=generation.rebuild,
            delta_products_min=generation.delta_products_min,
            delta_share_min=generation.delta_share_min,
            delta_products_max=generation.delta_products_max,
            quiet_s=generation.quiet_ms / 1000,
            poll_s=generation.poll_ms / 1000,
        ),
        primary=primary,
        on_swap=lambda: engine.warm_up(queries),
        open_dense=open_dense,
    )
    if offload is not None:
        offload.when_lost(lambda: engine.warm_up(queries))
    return Held(models, served, renewal, queries, lambda: open_generation(engine, open_dense))


def golden_queries(bundle: Bundle) -> list[str]:
    """The queries of the golden requests, each once, in order."""
    if "golden.json" not in bundle.manifest.files:
        return ["warm up"]
    return list(dict.fromkeys(str(case["query"]) for case in bundle.json("golden.json")["cases"])) or [
        "warm up"
    ]
