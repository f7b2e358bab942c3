"""One switch, ``ranking.device``: what may run on a GPU does, and whatever cannot stays on the processor.

``open_offload`` looks for the device, moves what it can and says in one log line what it did; nothing it
meets keeps a replica from serving. On the processor alone (``cpu``, or no driver) it does not import torch.
After the first failure of the device while serving, the processor takes over for good.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import rankcore
from muster.bundle import Bundle
from server import affinity
from server.generation.open import DenseIndex, Manifest
from server.gpu.batcher import Batcher

if TYPE_CHECKING:
    from server.gpu.cross import CrossDevice
    from server.gpu.index import Copy

logger = logging.getLogger(__name__)

Wanted = Literal["cpu", "auto", "cuda"]

CROSS_TIERS = ("cross_small", "cross_large")
# Pairs of one call to the device: a whole plan at once, for a GPU is as fast with 64 pairs as with 8.
CHUNK_PAIRS = 64
# Part of the range of a tier's golden scores by which a device's may differ from them. The processor rounds
# activations to 8 bits and a GPU does not: on a trained cross-encoder of six layers, whose golden scores span
# 12.0, that was up to .32, with torch on the processor in place of a GPU.
GOLDEN_SHARE = 0.05
# Any of these says that a driver for NVIDIA's GPUs is loaded, also in a container and under WSL.
_DRIVER = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"), Path("/dev/dxg"))


class NoDevice(Exception):
    """No GPU can be used; the message says what is missing and what to do."""


def driver_present() -> bool:
    """Whether a driver is loaded: no reason to import hundreds of megabytes where none is."""
    return any(path.exists() for path in _DRIVER)


def find_device() -> Any:
    """The ``torch.device`` of the first GPU. Raises: NoDevice."""
    if not driver_present():
        raise NoDevice("no driver for NVIDIA GPUs is loaded")
    if importlib.util.find_spec("torch") is None:
        raise NoDevice("torch is not installed: install the extra `gpu`")
    import torch

    if not torch.cuda.is_available():
        raise NoDevice("torch sees no CUDA device; its build and the driver must fit each other")
    return torch.device("cuda", 0)


class Offload:
    """What runs on the device. Thread-safe; ``close`` ends its threads.

    chunk_pairs: of the processor, for when it takes over.
    """

    def __init__(self, engine: rankcore.Engine, *, chunk_pairs: int) -> None:
        self._engine = engine
        self._chunk_pairs = chunk_pairs
        self._tiers: list[str] = []
        self._batchers: list[Batcher[Any, Any]] = []
        self._index_batcher: Batcher[Any, Any] | None = None
        self._copy: Copy | None = None
        self._recalibrate: Callable[[], None] = lambda: None

    @property
    def tiers(self) -> list[str]:
        """Cross-encoders whose pairs the device scores."""
        return list(self._tiers)

    def take_crosses(
        self, device: CrossDevice, tiers: list[str], *, items_max: int
    ) -> dict[str, rankcore.PairScorer]:
        """Have the pairs of these tiers scored by the device from now on. Returns: by what, of each."""
        from server.gpu.cross import TierScorer

        batcher = self._batcher(device, items_max, self._lost, "cross")
        scorers: dict[str, rankcore.PairScorer] = {}
        for tier in tiers:
            scorers[tier] = TierScorer(tier, device.buckets, batcher)
            self._engine.delegate(tier, scorers[tier], CHUNK_PAIRS)
            self._tiers.append(tier)
        return scorers

    def take_indexes(self, copy: Copy) -> None:
        """Have dense indexes that are opened from now on copied to the device and searched there."""
        from server.gpu.index import BATCH_QUERIES_MAX, IndexDevice

        self._index_batcher = self._batcher(
            IndexDevice(), BATCH_QUERIES_MAX, self._index_lost, "dense", lanes=1
        )
        self._copy = copy

    def open_dense(self, path: Path, manifest: Manifest) -> rankcore.DenseSearch:
        """As ``server.generation.open.OpenDense``. Raises: GenerationRefused."""
        if self._copy is None or self._index_batcher is None:
            return DenseIndex(path, manifest)
        from server.gpu.index import open_offloaded

        return open_offloaded(path, manifest, self._copy, self._index_batcher)

    def when_lost(self, recalibrate: Callable[[], None]) -> None:
        """Called, from a thread of its own, once the processor has taken over: its costs are others."""
        self._recalibrate = recalibrate

    def withdraw(self) -> None:
        """Have the processor score all pairs again. Idempotent."""
        tiers, self._tiers = self._tiers, []
        for tier in tiers:
            self._engine.delegate(tier, None, self._chunk_pairs)

    def close(self) -> None:
        """Leave the device."""
        for batcher in self._batchers:
            batcher.close()

    def _batcher(
        self, device: Any, items_max: int, on_failure: Callable[[Exception], None], name: str, **more: Any
    ) -> Batcher[Any, Any]:
        # Off the core of the threads that read and write messages.
        with affinity.roaming():
            batcher: Batcher[Any, Any] = Batcher(
                device, items_max=items_max, clock=time.monotonic, on_failure=on_failure, name=name, **more
            )
        self._batchers.append(batcher)
        return batcher

    def _lost(self, error: Exception) -> None:
        logger.error("the device failed, cross-encoders run on the processor from now on: %s", _line(error))
        self.withdraw()
        threading.Thread(target=self._measure_again, name="recalibrate", daemon=True).start()

    def _measure_again(self) -> None:
        try:
            self._recalibrate()
        except rankcore.RankError as error:
            # Prices correct themselves while serving, only not at once.
            logger.warning("the processor's costs could not be measured: %s", error)

    def _index_lost(self, error: Exception) -> None:
        logger.error("the device failed, dense search runs on the processor from now on: %s", _line(error))


def open_offload(
    wanted: Wanted, bundle: Bundle, folder: Path, engine: rankcore.Engine, *, chunk_pairs: int, verify: bool
) -> Offload | None:
    """Move what can run on a GPU there. None: everything runs on the processor.

    folder: of the bundle. verify: whether the bundle's golden requests must reproduce on the device.
    """
    if wanted == "cpu":
        return None
    try:
        device = find_device()
    except NoDevice as missing:
        level = logging.WARNING if wanted == "cuda" else logging.INFO
        logger.log(level, "ranking.device = %r, but ranking runs on the processor: %s", wanted, missing)
        return None
    offload = Offload(engine, chunk_pairs=chunk_pairs)
    _offload_crosses(offload, device, bundle, folder, engine, verify=verify)
    _offload_indexes(offload, device)
    return offload


def _offload_crosses(
    offload: Offload, device: Any, bundle: Bundle, folder: Path, engine: rankcore.Engine, *, verify: bool
) -> None:
    try:
        import torch

        from server.gpu.cross import BATCH_PAIRS_MAX, CrossDevice
        from server.gpu.graph import model_file, read_cross

        tiers = [tier for tier in CROSS_TIERS if model_file(folder, tier) is not None]
        if not tiers:
            logger.info("the bundle has no cross-encoder for the device")
            return
        began = time.monotonic()
        text = bundle.json("text.json")
        crosses = CrossDevice(
            {tier: read_cross(folder, tier) for tier in tiers},
            device=device,
            # [CLS] query [SEP] product [SEP]
            longest=int(text["query_tokens_max"]) + int(text["cross_tokens_max"]) + 3,
            dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
        )
        scorers = offload.take_crosses(crosses, tiers, items_max=BATCH_PAIRS_MAX)
        differing = _golden_gaps(engine, bundle, scorers) if verify else []
    except Exception as error:
        # Whatever it is, the processor can do the same work.
        logger.warning("cross-encoders stay on the processor: %s", _line(error))
        offload.withdraw()
        return
    if differing or not offload.tiers:
        logger.warning(
            "cross-encoders stay on the processor: golden requests do not reproduce on %s: %s",
            device,
            "; ".join(differing) or "the device failed",
        )
        offload.withdraw()
        return
    logger.info("%s run on %s after %.0f ms", " and ".join(tiers), device, (time.monotonic() - began) * 1000)


def _golden_gaps(
    engine: rankcore.Engine, bundle: Bundle, scorers: Mapping[str, rankcore.PairScorer]
) -> list[str]:
    """Golden requests whose scores on the device are too far from what the bundle promises, in sentences."""
    if "golden.json" not in bundle.manifest.files:
        return []
    heard: dict[str, list[float]] = {tier: [] for tier in scorers}
    for tier, scorer in scorers.items():
        engine.delegate(tier, _Listening(scorer, heard[tier]), CHUNK_PAIRS)
    # Its own verdict is about the processor's rounding; the pairs that it asks for are what is wanted here.
    engine.verify_golden()
    for tier, scorer in scorers.items():
        engine.delegate(tier, scorer, CHUNK_PAIRS)
    return golden_gaps(bundle.json("golden.json"), heard)


class _Listening:
    """A scorer whose scores are written down."""

    def __init__(self, scorer: rankcore.PairScorer, heard: list[float]) -> None:
        self._scorer = scorer
        self._heard = heard

    def __call__(self, ids: Any, starts: Any, seconds: Any, within_us: int | None) -> Any:
        scores = self._scorer(ids, starts, seconds, within_us)
        self._heard.extend([] if scores is None else scores.tolist())
        return scores


def golden_gaps(golden: Mapping[str, Any], heard: Mapping[str, Sequence[float]]) -> list[str]:
    """Compare golden scores with a device's: sentences for those too far apart.

    golden: golden.json. heard: by tier, a score for each of its cases, in their order. A score may differ by
    the bundle's tolerance, or by GOLDEN_SHARE of the range of the tier's golden scores where that is more.
    """
    sentences = []
    for tier, scores in heard.items():
        # Older bundles have one cross-encoder, named so.
        wanted = [
            case.get(tier, case.get("cross") if tier == CROSS_TIERS[0] else None) for case in golden["cases"]
        ]
        if len(scores) != len(wanted):
            sentences.append(f"{tier} scored {len(scores)} of {len(wanted)} golden requests")
            continue
        known = [value for value in wanted if value is not None]
        allowed = max(
            float(golden["tolerance"]["cross"]),
            GOLDEN_SHARE * (max(known, default=0.0) - min(known, default=0.0)),
        )
        for number, (score, value) in enumerate(zip(scores, wanted, strict=True)):
            # Written so that NaN is a complaint.
            if value is not None and not abs(score - value) <= allowed:
                sentences.append(
                    f"golden case {number}: {tier} is {score:.4f}, expected {value:.4f} within {allowed:.2f}"
                )
    return sentences


def _offload_indexes(offload: Offload, device: Any) -> None:
    try:
        from server.gpu.index import copy_to_gpu

        offload.take_indexes(copy_to_gpu(device.index or 0))
    except Exception as error:
        logger.warning("dense search stays on the processor: %s", _line(error))


def _line(error: BaseException) -> str:
    """What went wrong, in one line: CUDA's messages go on for many."""
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
