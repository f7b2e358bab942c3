"""A catalogue in the engine that serves, for measuring: no server, no deadline, fixed plans."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

import rankcore
from muster.bundle import Bundle, read_bundle
from muster.v1 import catalogue_pb2, ranking_pb2

# Layout of a generation's files, as the core reads it: what was cached in another one is built anew.
_SCHEMA_VERSION = 2
_ADD_PRODUCTS = 500
# What the vectors and word pieces of a generation depend on; another ranker or plan changes none of it.
_ENCODES = ("tokenizer.json", "text.json", "encoder/model.onnx")


class ExactSearch:
    """Dense retrieval by a full scan: exact, so a measurement never depends on an index's luck."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._vectors = vectors

    def __call__(
        self, query: NDArray[np.float32], k: int, eligible: NDArray[np.uint8] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """query: [D]; eligible: bitmap over rows, bit i of byte i // 8, or None. Best first, at most k."""
        scores = self._vectors @ np.asarray(query, dtype=np.float32)
        if eligible is not None:
            allowed = np.unpackbits(np.asarray(eligible, dtype=np.uint8), bitorder="little")
            allowed = (
                np.resize(allowed, len(scores))
                if len(allowed) >= len(scores)
                else np.pad(allowed, (0, len(scores) - len(allowed)))
            )
            scores = np.where(allowed.astype(bool), scores, -np.inf)
        k = min(k, len(scores))
        best = np.argpartition(-scores, k - 1)[:k] if k < len(scores) else np.arange(len(scores))
        best = best[np.lexsort((best, -scores[best]))]
        best = best[np.isfinite(scores[best])]
        return best.astype(np.int64), scores[best].astype(np.float32)


@dataclass(frozen=True)
class Signals:
    """Signals of the candidates of one query. values: float64 [candidates, names], NaN = unknown."""

    product_ids: list[str]
    names: list[str]
    values: NDArray[np.float64]

    def column(self, name: str) -> NDArray[np.float64]:
        """One signal, float64 [candidates]."""
        return self.values[:, self.names.index(name)]


@dataclass(frozen=True)
class Catalogue:
    """An engine with one generation served. product_ids: all of them, in the order they were read."""

    bundle: Bundle
    engine: rankcore.Engine
    generation: rankcore.Generation
    product_ids: list[str]

    def search(
        self, query: str, tier: str, depth: int, width: int, results: int = 100
    ) -> list[tuple[str, float]]:
        """Rank the whole catalogue with a fixed plan. Returns: (product id, score), best first."""
        request = ranking_pb2.SearchRequest(query=query, page_size=results)
        answer = ranking_pb2.SearchResponse.FromString(
            self.engine.execute(request.SerializeToString(), tier, depth, width)
        )
        return [(result.product_id, result.score) for result in answer.results]

    def rerank(
        self, query: str, product_ids: Sequence[str], tier: str, depth: int
    ) -> list[tuple[str, float]]:
        """Rank the given products with a fixed plan. Returns: (product id, score), best first."""
        request = ranking_pb2.RerankRequest(query=query, product_ids=product_ids)
        answer = ranking_pb2.RerankResponse.FromString(
            self.engine.execute_rerank(request.SerializeToString(), tier, depth)
        )
        return [(result.product_id, result.score) for result in answer.results]

    def signals(self, query: str, tier: str, *, product_ids: Sequence[str] | None, width: int) -> Signals:
        """Signals of the given products, or of what is retrieved with this width."""
        ids, names, values = self.engine.signals(
            query, tier, product_ids=None if product_ids is None else list(product_ids), width=width
        )
        return Signals(list(ids), list(names), np.asarray(values, dtype=np.float64))


@contextmanager
def open_catalogue(
    bundle_folder: str | Path,
    products: Iterable[catalogue_pb2.Product],
    *,
    cache: Path | None = None,
    threads: int = 0,
    chunk_pairs: int = 4,
    kernels: str = "auto",
    taste_weight: float = 0.0,
) -> Iterator[Catalogue]:
    """Index products with a bundle and serve them from an engine of this process.

    cache: where built indexes are kept (a folder of the system's temporary one by default); an index is used
    again for the same products, encoder, kernels and rules of what a word is. kernels: what computes the
    models, chunk_pairs and taste_weight, as for `rankcore.Engine`.
    Raises: BundleError; ValueError where there are no products; rankcore.RankError.
    """
    bundle = read_bundle(bundle_folder)
    cache = cache or Path(tempfile.gettempdir()) / "muster-evaluate"
    serialised = [one.SerializeToString(deterministic=True) for one in products]
    if not serialised:
        raise ValueError("there are no products to rank")
    product_ids = [catalogue_pb2.Product.FromString(one).product_id for one in serialised]
    built = _built(bundle, serialised, cache, threads, kernels)
    folder = _as_generation(bundle, built)
    engine = rankcore.Engine(
        str(bundle.folder),
        runtime_library=rankcore.runtime_library(),
        chunk_pairs=chunk_pairs,
        kernels=kernels,
        taste_weight=taste_weight,
    )
    try:
        facts = json.loads((built / "built.json").read_text())
        vectors = np.fromfile(built / "dense.f32", dtype=np.float32).reshape(-1, facts["dimension"])
        generation = engine.open(str(folder), ExactSearch(vectors))
        engine.serve(generation)
        yield Catalogue(bundle, engine, generation, product_ids)
    finally:
        engine.close()
        shutil.rmtree(folder, ignore_errors=True)


def _built(bundle: Bundle, serialised: Sequence[bytes], cache: Path, threads: int, kernels: str) -> Path:
    digest = hashlib.sha256(f"{rankcore.ANALYSER} {_SCHEMA_VERSION} {kernels}".encode())
    for name in _ENCODES:
        digest.update(bundle.manifest.files[name].sha256.encode())
    for one in serialised:
        digest.update(len(one).to_bytes(8, "big") + one)
    target = cache / digest.hexdigest()[:20]
    if (target / "built.json").is_file():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    out = Path(tempfile.mkdtemp(prefix=".building-", dir=cache)) / "generation"
    try:
        builder = rankcore.GenerationBuilder(
            str(bundle.folder),
            str(out),
            runtime_library=rankcore.runtime_library(),
            threads=threads,
            kernels=kernels,
        )
        for start in range(0, len(serialised), _ADD_PRODUCTS):
            builder.add(list(serialised[start : start + _ADD_PRODUCTS]))
        with tqdm(total=len(serialised), desc="indexing", mininterval=2, file=sys.stderr) as bar:
            facts = builder.finish(lambda done, total: bar.update(done - bar.n))
        (out / "built.json").write_text(json.dumps({**facts, "token_dimension": 64}))
        try:
            out.rename(target)
        except OSError:
            if not (target / "built.json").is_file():
                raise
    finally:
        shutil.rmtree(out.parent, ignore_errors=True)
    return target


def _as_generation(bundle: Bundle, built: Path) -> Path:
    # The files are shared between bundles that encode alike; only the manifest says whose they are.
    facts = json.loads((built / "built.json").read_text())
    folder = Path(tempfile.mkdtemp(prefix=".serving-", dir=built.parent))
    for source in built.rglob("*"):
        if source.is_dir() or source.name in ("built.json", "dense.f32"):
            continue
        target = folder / source.relative_to(built)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
    manifest = {
        "schema_version": _SCHEMA_VERSION,
        "generation_id": f"gen-{built.name[:8]}-1-00000000",
        "bundle_id": bundle.bundle_id,
        "sequence": 1,
        "epoch": 1,
        "products": facts["products"],
        "dimension": facts["dimension"],
        "token_dimension": facts["token_dimension"],
        "files": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
