"""Times the GPU path beside others, on the same pairs: ``python -m server.gpu.measure BUNDLE``, JSON out.

Question: how long do a request's pairs take, and how many pairs a second do many requests get, on the
processor, on the GPU as Muster uses it, with plain torch (the same weights, nothing recorded, nothing
batched across requests) and with ONNX Runtime's CUDA provider on the bundle's own file?

Data: seeded synthetic products and queries. The two Muster rows are timed by the engine itself, so they hold
all of the stage: crossing into Python, waiting for company, copies. The other two hold packing, copies and
the model. All runners take turns; of each the median and the 95th percentile are told. Not counted: start,
recording shapes, retrieval. Exit code 20: nothing could be measured, and the JSON says why.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import rankcore
from muster.bundle import read_bundle
from muster.products.synthetic import SyntheticCatalogue
from muster.v1 import catalogue_pb2, ranking_pb2
from server.generation.index import VectorFile, build_dense_index
from server.generation.open import INDEX, DenseIndex, Manifest
from server.gpu.batcher import Batcher
from server.gpu.offload import CHUNK_PAIRS, CROSS_TIERS, NoDevice, find_device

INCONCLUSIVE = 20

Report = dict[str, Any]

_PRODUCTS = 512
_SEED = 1
_CALLERS = 16
_CHUNK_PROCESSOR = 8
_ENCODE_S = 300.0
_DENSE_ROWS = (20_000, 200_000)


class NoCross(Exception):
    """The bundle has no cross-encoder to time."""


def measure(
    folder: Path, device: Any, *, sizes: Sequence[int] = (8, 32, 128), rounds: int = 30, dense: bool = True
) -> Report:
    """Time everything. sizes: pairs of a request. rounds: turns of each runner.

    Returns: {"rows": [{"tier", "pairs", "runner", "p50_ms", "p95_ms", "gap"}], "many": [{"tier", "runner",
    "pairs_per_s"}], "dense": [...], "missing": {runner: why}}; gap: largest difference to the scores of the
    GPU path. Raises: NoCross.
    """
    from server.gpu.cross import BATCH_PAIRS_MAX, CrossDevice, TierScorer
    from server.gpu.graph import model_file, read_cross

    import torch  # isort: skip

    bundle = read_bundle(folder)
    tiers = [tier for tier in CROSS_TIERS if model_file(folder, tier) is not None]
    if not tiers:
        raise NoCross(f"bundle {bundle.bundle_id} holds no cross-encoder; name one that does")
    text = bundle.json("text.json")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    crosses = CrossDevice(
        {tier: read_cross(folder, tier) for tier in tiers},
        device=device,
        longest=int(text["query_tokens_max"]) + int(text["cross_tokens_max"]) + 3,
        dtype=dtype,
    )
    engine = rankcore.Engine(str(folder), runtime_library=rankcore.runtime_library(), workers=1)
    batcher: Batcher[Any, Any] = Batcher(crosses, items_max=BATCH_PAIRS_MAX, clock=time.monotonic)
    report: Report = {
        "bundle": bundle.bundle_id,
        "device": str(device),
        "rows": [],
        "many": [],
        "missing": {},
    }
    try:
        queries = _fill(engine)
        for tier in tiers:
            scorer = TierScorer(tier, crosses.buckets, batcher)
            for pairs in sizes:
                taken = _pairs_of(engine, tier, scorer, queries[0], pairs)
                runners: dict[str, Callable[[], tuple[float, Any]]] = {
                    "processor": _in_engine(engine, tier, None, queries[0], pairs),
                    "gpu": _in_engine(engine, tier, scorer, queries[0], pairs),
                    "torch": _plain_torch(folder, tier, device, dtype, taken),
                }
                onnx_cuda = _onnx_cuda(folder, tier, taken)
                if isinstance(onnx_cuda, str):
                    report["missing"]["onnx_cuda"] = onnx_cuda
                else:
                    runners["onnx_cuda"] = onnx_cuda
                report["rows"] += _in_turns(tier, pairs, runners, rounds)
            for name, one in (("processor", None), ("gpu", scorer)):
                rate = _many(engine, tier, one, queries, max(sizes), rounds)
                report["many"].append({"tier": tier, "runner": name, "pairs_per_s": rate})
    finally:
        engine.close()
        batcher.close()
    if dense and device.type == "cuda":
        report["dense"] = _dense(device, rounds)
    return report


def _fill(engine: rankcore.Engine) -> list[str]:
    """Products to rank; returns queries."""
    catalogue = SyntheticCatalogue(_PRODUCTS, _SEED)
    generation = engine.empty()
    generation.apply(
        [
            catalogue_pb2.SequencedEvent(
                sequence=number, epoch=1, event=catalogue_pb2.Event(event_id=str(number), upsert=product)
            ).SerializeToString()
            for number, product in enumerate(catalogue.products(), start=1)
        ]
    )
    give_up_at = time.monotonic() + _ENCODE_S
    while generation.pending():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"{generation.pending()} products are still without vectors")
        time.sleep(0.05)
    engine.serve(generation)
    return [query.text for query in catalogue.queries(_CALLERS)]


def _request(query: str, pairs: int) -> bytes:
    catalogue = SyntheticCatalogue(_PRODUCTS, _SEED)
    ids = [catalogue.product(number).product_id for number in range(pairs)]
    return ranking_pb2.RerankRequest(query=query, product_ids=ids, explain=True).SerializeToString()


def _pairs_of(engine: rankcore.Engine, tier: str, scorer: Any, query: str, pairs: int) -> dict[str, Any]:
    """A request's pairs as the engine gives them, and their scores on the device."""
    taken: dict[str, Any] = {}

    def listen(ids: Any, starts: Any, seconds: Any, within_us: int | None) -> Any:
        scores = scorer(ids, starts, seconds, within_us)
        taken.update(ids=ids.copy(), starts=starts.copy(), seconds=seconds.copy(), scores=scores)
        return scores

    engine.delegate(tier, listen, pairs)
    engine.execute_rerank(_request(query, pairs), tier, pairs)
    return taken


def _in_engine(
    engine: rankcore.Engine, tier: str, scorer: Any, query: str, pairs: int
) -> Callable[[], tuple[float, Any]]:
    """Milliseconds of the cross-encoder's stage by the receipt, and scores by product."""
    request = _request(query, pairs)

    def run() -> tuple[float, Any]:
        engine.delegate(tier, scorer, _CHUNK_PROCESSOR if scorer is None else CHUNK_PAIRS)
        reply = ranking_pb2.RerankResponse.FromString(engine.execute_rerank(request, tier, pairs))
        scores = {
            one.product_id: signal.value
            for one in reply.results
            for signal in one.signals
            if signal.name == "cross"
        }
        return reply.receipt.timings.cross_us / 1000, scores

    return run


def _plain_torch(
    folder: Path, tier: str, device: Any, dtype: Any, taken: Mapping[str, Any]
) -> Callable[[], tuple[float, Any]]:
    """The same weights, padded to the longest pair, one kernel launch after the other."""
    import torch

    from server.gpu.graph import read_cross
    from server.gpu.network import Network

    network = Network(read_cross(folder, tier), device, dtype).eval()

    def run() -> tuple[float, Any]:
        began = time.perf_counter()
        scores = network(*(torch.from_numpy(one).to(device) for one in _padded(taken))).cpu().numpy()
        return (time.perf_counter() - began) * 1000, scores - taken["scores"]

    return run


def _onnx_cuda(folder: Path, tier: str, taken: Mapping[str, Any]) -> Callable[[], tuple[float, Any]] | str:
    """The bundle's own file in ONNX Runtime on the GPU; a sentence where that is not installed."""
    import onnxruntime

    from server.gpu.graph import INPUTS, OUTPUT, model_file

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "the installed onnxruntime has no CUDA provider (onnxruntime-gpu has)"
    path = model_file(folder, tier)
    assert path is not None
    content = path.read_bytes()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    session = onnxruntime.InferenceSession(
        gzip.decompress(content) if path.suffix == ".gz" else content,
        options,
        providers=["CUDAExecutionProvider", "CPUExecutionProvider"],
    )

    def run() -> tuple[float, Any]:
        began = time.perf_counter()
        scores = session.run([OUTPUT], dict(zip(INPUTS, _padded(taken), strict=True)))[0]
        return (time.perf_counter() - began) * 1000, np.asarray(scores) - taken["scores"]

    return run


def _padded(taken: Mapping[str, Any]) -> list[Any]:
    from server.gpu.buckets import Shape
    from server.gpu.cross import packed

    starts = taken["starts"]
    lengths = np.diff(starts)
    shape = Shape(len(lengths), int(lengths.max()))
    return list(packed(taken["ids"], starts[:-1], lengths, taken["seconds"], shape))


def _in_turns(
    tier: str, pairs: int, runners: Mapping[str, Callable[[], tuple[float, Any]]], rounds: int
) -> list[Report]:
    chooser = random.Random(_SEED)
    took: dict[str, list[float]] = {name: [] for name in runners}
    scores: dict[str, Any] = {}
    for turn in range(rounds + 2):
        for name in chooser.sample(sorted(runners), len(runners)):
            took_ms, scores[name] = runners[name]()
            # Two turns to touch caches and choose kernels.
            if turn >= 2:
                took[name].append(took_ms)

    def gap(name: str) -> float:
        if name == "gpu":
            return 0.0
        if isinstance(scores[name], dict):
            return max(abs(float(score - scores["gpu"][one])) for one, score in scores[name].items())
        return float(np.abs(scores[name]).max())

    return [
        {
            "tier": tier,
            "pairs": pairs,
            "runner": name,
            "p50_ms": round(float(np.quantile(took[name], 0.5)), 3),
            "p95_ms": round(float(np.quantile(took[name], 0.95)), 3),
            "gap": round(gap(name), 5),
        }
        for name in runners
    ]


def _many(
    engine: rankcore.Engine, tier: str, scorer: Any, queries: Sequence[str], pairs: int, rounds: int
) -> float:
    """Pairs a second that many callers at a time get."""
    engine.delegate(tier, scorer, _CHUNK_PROCESSOR if scorer is None else CHUNK_PAIRS)
    requests = [_request(query, pairs) for query in queries] * max(1, rounds // 4)
    with ThreadPoolExecutor(_CALLERS) as pool:
        began = time.perf_counter()
        list(pool.map(lambda request: engine.execute_rerank(request, tier, pairs), requests))
        return round(pairs * len(requests) / (time.perf_counter() - began), 1)


def _dense(device: Any, rounds: int) -> list[Report]:
    """A search for 200 among synthetic vectors, one query at a time and 64 together."""
    from server.gpu.index import copy_to_gpu, unit_vectors

    rows = []
    for count in _DENSE_ROWS:
        vectors = unit_vectors(count, 384)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "vectors.f32"
            vectors.tofile(path)
            built = build_dense_index(
                VectorFile(path, count, 384), Path(folder), recall_min=0.98, choice="faiss"
            )
            host = DenseIndex(Path(folder) / INDEX, Manifest("gen-x", "b", 1, 1, count, 384, 64, built))
            try:
                index = copy_to_gpu(device.index or 0)(host.index)
            except RuntimeError as error:
                return [{"missing": str(error).split("\n", 1)[0]}]
            if built.probes:
                index.nprobe = built.probes
            one, many = vectors[0], vectors[:64]
            runners: dict[str, Callable[[], Any]] = {
                "processor, 1": partial(host, one, 200, None),
                "gpu, 1": partial(index.search, one[None, :], 200),
                "gpu, 64": partial(index.search, many, 200),
            }
            took: dict[str, list[float]] = {name: [] for name in runners}
            for _ in range(rounds):
                for name, run in runners.items():
                    began = time.perf_counter()
                    run()
                    took[name].append((time.perf_counter() - began) * 1000)
            rows += [
                {"products": count, "runner": name, "p50_ms": round(float(np.median(times)), 4)}
                for name, times in took.items()
            ]
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print JSON; 20 where nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m server.gpu.measure", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=30)
    flags = parser.parse_args(arguments)
    try:
        device = find_device()
    except NoDevice as missing:
        print(json.dumps({"inconclusive": f"no CUDA device: {missing}"}))
        return INCONCLUSIVE
    try:
        print(json.dumps(measure(flags.bundle, device, rounds=flags.rounds)))
    except NoCross as missing:
        print(json.dumps({"inconclusive": str(missing)}))
        return INCONCLUSIVE
    return 0


if __name__ == "__main__":
    sys.exit(main())
