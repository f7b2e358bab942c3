"""What finds the rows nearest to a query best, by size: `python -m benchmarks.dense --rows 5000,26000
--json OUT`.

Question: at which size does which kind of dense retrieval take least time for a recall@100 of 0.98, and
what do its build and memory cost? The core's own scan and lists against FAISS's flat index, 8 bits, lists
of 8 bits, HNSW, and product quantisation with fast scan and refinement.

Data: the dense vectors of `--sample` products of the synthetic catalogue, encoded by the bundle, and rows
drawn around them as in `rankcore/engine/src/generation/drawn.rs`; queries are rows with as much noise as
signal, as in a build. How: every kind is tuned to the wanted recall on all queries (its probes, or its
width of search), then timed for 200 rows on one thread, query by query in turn, in processor time. Build
time is processor time as well. Bytes are those beside the generation's int8 rows, which all need for
exact scores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

import rankcore
from benchmarks.service import commit
from drills.journal import machine
from drills.rig.cluster import find_bundle
from muster.products.synthetic import SyntheticCatalogue
from server.generation import index
from server.generation.index import LIST_FILES, Search, VectorFile, list_count

ROWS = "5000,26000"
SAMPLE = 4_000
RECALL_MIN = 0.98
FLOAT = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Measured:
    """One kind at one size. knob: probes, or width of search; 0: it has none."""

    kind: str
    knob: int
    recall_at_100: float
    median_ms: float
    build_cpu_s: float
    bytes_a_row: float


def sampled(bundle: Path, count: int, seed: int) -> FLOAT:
    """Dense vectors of products, float32 [count, D], by the bundle's encoder."""
    models = rankcore.Models(str(bundle), runtime_library=rankcore.runtime_library())
    products = [product.SerializeToString() for product in SyntheticCatalogue(count, seed).products()]
    return np.concatenate([models.products(products[at : at + 64]) for at in range(0, count, 64)])


def write_rows(folder: Path, sample: FLOAT, rows: int, seed: int) -> VectorFile:
    """Rows drawn around the sample, as float32 and as the int8 rows of a generation."""
    rng = np.random.default_rng(seed)
    dimension = sample.shape[1]
    with (
        (folder / "dense.f32").open("wb") as floats,
        (folder / "dense.i8").open("wb") as ints,
        (folder / "dense_scales.f32").open("wb") as scales,
    ):
        for file, kind, size, count in (
            (ints, "dense", 1, rows * dimension),
            (scales, "dense scales", 4, rows),
        ):
            head = b"MUSTERG1" + kind.encode().ljust(16, b"\0")
            head += (1).to_bytes(4, "little") + size.to_bytes(4, "little") + count.to_bytes(8, "little")
            file.write(head.ljust(64, b"\0"))
        for start in range(0, rows, 16_384):
            count = min(16_384, rows - start)
            near, far = rng.integers(0, len(sample), (2, count))
            share = rng.uniform(0.7, 1.0, (count, 1)).astype(np.float32)
            mixed = share * sample[near] + (1 - share) * sample[far]
            mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
            noise = rng.uniform(-1.0, 1.0, mixed.shape).astype(np.float32)
            mixed += np.float32(0.35 * np.sqrt(3 / dimension)) * noise
            mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
            greatest = np.abs(mixed).max(axis=1, keepdims=True) / np.float32(127)
            floats.write(mixed.tobytes())
            ints.write(np.rint(mixed / greatest).astype(np.int8).tobytes())
            scales.write(greatest.astype(np.float32).tobytes())
    return VectorFile(folder / "dense.f32", rows, dimension)


def compare(vectors: VectorFile, folder: Path, kinds: Sequence[str]) -> list[Measured]:
    """Every kind at one size."""
    queries = index._queries(vectors, np.random.default_rng(7))
    exact = index._exact(vectors, queries, 100)
    made: dict[str, tuple[Search, int, float, float, float]] = {}
    for kind in kinds:
        began = time.process_time()
        search_at, knob, most, size = make(kind, vectors, folder)
        build_s = time.process_time() - began
        if most:
            # Asked to the half of what there is: `_tune` stops there.
            def recall_of(value: int, at: Callable[[int], Search] = search_at) -> float:
                return index._recall(at(value), queries, exact)

            knob, recall = index._tune(recall_of, RECALL_MIN, knob, 2 * most)
        else:
            knob, recall = 0, index._recall(search_at(0), queries, exact)
        made[kind] = (search_at(knob), knob, recall, build_s, size / vectors.rows)
    times = index._times_ms({kind: search for kind, (search, *_) in made.items()}, queries)
    return [
        Measured(kind, knob, recall, times[kind], round(build_s, 2), round(size, 1))
        for kind, (_, knob, recall, build_s, size) in made.items()
    ]


def make(kind: str, vectors: VectorFile, folder: Path) -> tuple[Callable[[int], Search], int, int, int]:
    """Builds a kind: search by the value of its knob, the knob's least and greatest value (0: none), and its
    bytes.
    """
    if kind in ("scan", "lists"):
        if kind == "lists":
            index._write_lists(vectors, folder, np.random.default_rng(7))
        rows = rankcore.DenseRows(str(folder), vectors.rows, vectors.dimension)

        def own(probes: int) -> Search:
            return lambda query, k: rows.search(query, k, probes=probes)[0]

        if kind == "scan":
            return lambda _: own(0), 0, 0, 0
        size = sum((folder / name).stat().st_size for name in LIST_FILES)
        return own, 4, list_count(vectors.rows) // 2, size
    lists = list_count(vectors.rows)
    factory, refined = {
        "faiss flat": ("Flat", False),
        "faiss 8 bits": ("SQ8", False),
        "faiss lists of 8 bits": (f"IVF{lists},SQ8", False),
        "faiss HNSW32 of 8 bits": ("HNSW32,SQ8", False),
        "faiss lists, PQ fast scan, refined": (
            f"IVF{lists},PQ{vectors.dimension // 4}x4fs,Refine(SQ8)",
            True,
        ),
    }[kind]
    built: Any = faiss.index_factory(vectors.dimension, factory, faiss.METRIC_INNER_PRODUCT)
    if not built.is_trained:
        count = min(vectors.rows, lists * 48)
        chosen = np.random.default_rng(7).choice(vectors.rows, count, replace=False)
        built.train(vectors.take(np.sort(chosen)))
    for _, block in vectors.blocks():
        built.add(block)
    path = folder / "measured.index"
    faiss.write_index(built, str(path))
    size = path.stat().st_size
    path.unlink()
    if refined:
        built.k_factor = 4.0
    knobs: Any = faiss.downcast_index(built.base_index) if refined else built

    def search_at(value: int) -> Search:
        def search(query: FLOAT, k: int) -> npt.NDArray[np.int64]:
            if "HNSW" in kind:
                knobs.hnsw.efSearch = value
            elif "lists" in kind:
                knobs.nprobe = value
            found: npt.NDArray[np.int64] = built.search(query.reshape(1, -1), k)[1][0]
            return found

        return search

    if "HNSW" in kind:
        return search_at, 100, 4_096, size
    return search_at, 4, lists // 2 if "lists" in kind else 0, size


KINDS = (
    "scan",
    "lists",
    "faiss flat",
    "faiss 8 bits",
    "faiss lists of 8 bits",
    "faiss HNSW32 of 8 bits",
    "faiss lists, PQ fast scan, refined",
)


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results as a table of Markdown."""
    lines = [
        "| rows | kind | recall@100 | ms, p50 | build, s of a core | bytes a row more |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        for one in result["kinds"]:
            knob = f" ({one['knob']})" if one["knob"] else ""
            cells = [
                f"{result['rows']:,}",
                f"{one['kind']}{knob}",
                f"{one['recall_at_100']:.3f}",
                f"{one['median_ms']:.3f}",
                f"{one['build_cpu_s']:,.1f}",
                f"{one['bytes_a_row']:,.0f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit 0: measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dense", description=__doc__)
    parser.add_argument("--rows", default=ROWS, help=f"sizes, joined by commas (default {ROWS})")
    parser.add_argument(
        "--kinds",
        default=",".join(str(at) for at in range(len(KINDS))),
        help=", ".join(f"{at}: {kind}" for at, kind in enumerate(KINDS)),
    )
    parser.add_argument("--sample", type=int, default=SAMPLE, help="products that the bundle encodes")
    parser.add_argument("--bundle", type=Path, default=None, help="default models/muster-base")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None, help="result file; written after each size")
    parsed = parser.parse_args(arguments)
    try:
        sizes = [int(size) for size in parsed.rows.split(",")]
        kinds = [KINDS[int(at)] for at in parsed.kinds.split(",")]
    except (ValueError, IndexError):
        parser.error("--rows and --kinds are numbers joined by commas")
    faiss.omp_set_num_threads(1)
    sample = sampled(find_bundle(parsed.bundle), parsed.sample, parsed.seed)
    results: list[dict[str, Any]] = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="muster-dense-") as temporary:
            folder = Path(temporary)
            vectors = write_rows(folder, sample, size, parsed.seed)
            measured = compare(vectors, folder, kinds)
        results.append({"rows": size, "kinds": [asdict(one) for one in measured]})
        print(f"dense: {size:,} rows measured", file=sys.stderr, flush=True)
        if parsed.json:
            facts = {"machine": machine(), "commit": commit(), "sample": parsed.sample, "results": results}
            parsed.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
