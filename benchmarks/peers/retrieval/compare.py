"""Candidates: latency and worth of the lists that retrieval peers find, beside Muster's own retrieval.

Peers run in process, in environments of their own, one after the other; the dense ones search vectors that
Muster's encoder made. Muster answers `Search` as a service, and its receipts say what encoding and retrieving
took.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from benchmarks.peers.environment import Environment, EnvironmentFailed
from benchmarks.peers.process import Server, ServerFailed
from benchmarks.peers.roster import ROOT, RosterError
from benchmarks.peers.service import Replica
from benchmarks.peers.workload import CANDIDATES, measured_queries
from drills.experiment import quantile
from drills.journal import machine
from drills.rig.cluster import find_bundle
from drills.rig.shop import Query, Shop, choose_shop
from muster.bundle import read_bundle
from training.data.text import product_text

HERE = Path(__file__).resolve().parent
BUILD = ROOT / ".build" / "peers"
QUERIES_MAX = 60
PASSES = 5
RUN_S = 300.0
SEARCHED = ["title", "brand", "category", "bullets", "description", "attributes"]
"""Fields of a product that lexical peers search, as one text."""
_BATCH = 64


@dataclass(frozen=True)
class FinderPeer:
    """One retrieval peer. kind: "lexical", "dense" or "hybrid"; the rest as of `roster.Peer`."""

    name: str
    title: str
    package: str
    kind: str
    settings: list[str]
    beside: list[str] = field(default_factory=list)


def finders() -> list[FinderPeer]:
    """All of them, in the order of their names. Raises: RosterError."""
    found = []
    for path in sorted(HERE.glob("*/finder.toml")):
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
            found.append(FinderPeer(name=path.parent.name, **values))
        except (tomllib.TOMLDecodeError, TypeError) as error:
            raise RosterError(f"{path}: {error}") from error
    return found


@dataclass(frozen=True)
class Corpus:
    """What every finder gets. folder: its files. product_ids: by place. encode_ms: a query, median."""

    folder: Path
    product_ids: list[str]
    queries: list[Query]
    encode_ms: float


def compare_retrieval(names: Sequence[str], note: Callable[[str], None], *, quick: bool) -> dict[str, Any]:
    """Rows of all finders, or of those named, and Muster's.

    Raises: ServerFailed, where Muster does not come up; Inconclusive without a bundle.
    """
    bundle = find_bundle()
    shop = choose_shop(None, 1)
    corpus = write_corpus(bundle, shop, note)
    replica = Replica.start(bundle, shop, note)
    passes = 1 if quick else PASSES
    try:
        found = replica.candidates([query.text for query in corpus.queries], passes=passes)
        version = replica.version()
    finally:
        replica.end()
    muster = {
        "name": "muster",
        "title": "Muster (as a service)",
        "version": version,
        "kind": "hybrid",
        "settings": ["BM25F and int8 vectors, fused; stages of its receipts, query encoding included"],
        **timed([one.stage_ms for one in found]),
        **worth([one.product_ids for one in found[: len(corpus.queries)]], corpus.queries),
    }
    rows = []
    for one in finders():
        if names and one.name not in names:
            continue
        row = {"name": one.name, "title": one.title, "kind": one.kind, "settings": one.settings}
        try:
            rows.append(row | _run(one, corpus, passes, note))
        except (EnvironmentFailed, ServerFailed) as error:
            note(f"{one.name}: not run: {error}")
            rows.append(row | {"not_run": " ".join(str(error).split())[:400]})
    return {
        "candidates": CANDIDATES,
        "queries": len(corpus.queries),
        "products": len(corpus.product_ids),
        "encode_ms": corpus.encode_ms,
        "muster": muster,
        "peers": rows,
    }


def _run(one: FinderPeer, corpus: Corpus, passes: int, note: Callable[[str], None]) -> dict[str, Any]:
    environment = Environment(
        BUILD / f"find-{one.name}", HERE / one.name / "requirements.txt", shares_torch=False
    )
    environment.make(note)
    versions = environment.versions([one.package, *one.beside])
    out = BUILD / "logs" / f"find-{one.name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    command = [str(environment.python), "-m", "benchmarks.peers.retrieval.run", "--finder", one.name]
    command += ["--corpus", str(corpus.folder), "--out", str(out), "--count", str(CANDIDATES)]
    command += ["--passes", str(passes), "--threads", str(machine()["cores"])]
    with Server(command, BUILD / "logs" / f"find-{one.name}.log") as process:
        try:
            code = process.wait(RUN_S)
        except subprocess.TimeoutExpired as error:
            raise ServerFailed(f"it did not end within {RUN_S:.0f} s: {process.log_tail()}") from error
        if code != 0 or not out.is_file():
            raise ServerFailed(f"it ended with code {code}: {process.log_tail()}")
    result = json.loads(out.read_text(encoding="utf-8"))
    lists = [[corpus.product_ids[place] for place in places] for places in result["lists"]]
    note(f"{one.name}: done")
    return {
        "version": versions.get(one.package, "unknown"),
        "beside": {name: versions[name] for name in one.beside if name in versions},
        "build_s": result["build_s"],
        **timed(result["latencies_ms"]),
        **worth(lists, corpus.queries),
    }


def timed(latencies_ms: Sequence[float]) -> dict[str, float]:
    """p50_ms and p99_ms."""
    return {
        "p50_ms": round(quantile(latencies_ms, 0.5), 3),
        "p99_ms": round(quantile(latencies_ms, 0.99), 3),
    }


def worth(lists: Sequence[Sequence[str]], queries: Sequence[Query]) -> dict[str, float]:
    """recall: share of the products with a positive gain that are in the list, mean over queries.

    best_ndcg10: nDCG@10 of the list in the best possible order, mean over queries.
    """
    recalls, best = [], []
    for found, query in zip(lists, queries, strict=True):
        relevant = query.relevant()
        recalls.append(len(relevant & set(found)) / len(relevant))
        best.append(best_ndcg_at_10(found, query.gains))
    return {"recall": round(statistics.mean(recalls), 4), "best_ndcg10": round(statistics.mean(best), 4)}


def best_ndcg_at_10(found: Sequence[str], gains: Mapping[str, float]) -> float:
    """nDCG@10 of a list after a perfect re-rank; 0 where nothing has a gain."""

    def dcg(values: Sequence[float]) -> float:
        return sum(gain / math.log2(rank + 2) for rank, gain in enumerate(sorted(values, reverse=True)[:10]))

    ideal = dcg(list(gains.values()))
    return dcg([gains.get(name, 0.0) for name in dict.fromkeys(found)]) / ideal if ideal > 0 else 0.0


def write_corpus(bundle: Path, shop: Shop, note: Callable[[str], None]) -> Corpus:
    """Texts, vectors and queries as files, made once for a bundle and a catalogue."""
    opened = read_bundle(bundle)
    folder = BUILD / f"corpus-{opened.bundle_id}-{shop.name}"
    queries = measured_queries(shop.queries, QUERIES_MAX)
    about = folder / "about.json"
    if not about.is_file():
        note(f"encoding {shop.expected_products} products for the retrieval peers")
        folder.mkdir(parents=True, exist_ok=True)
        products = list(shop.products())
        encoder = Encoder(bundle, threads=machine()["cores"])
        fields = opened.json("text.json")["product"]["dense_fields"]
        np.save(folder / "vectors.npy", encoder.encode([product_text(one, fields) for one in products]))
        texts = [product_text(one, SEARCHED) for one in products]
        (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        (folder / "queries.json").write_text(json.dumps([one.text for one in queries]), encoding="utf-8")
        single = Encoder(bundle, threads=1)
        vectors, spent_ms = single.encode_each([one.text for one in queries])
        np.save(folder / "query_vectors.npy", vectors)
        facts = {"product_ids": [one.product_id for one in products], "encode_ms": round(spent_ms, 3)}
        about.write_text(json.dumps(facts), encoding="utf-8")
    facts = json.loads(about.read_text(encoding="utf-8"))
    return Corpus(folder, facts["product_ids"], queries, facts["encode_ms"])


class Encoder:
    """A bundle's encoder through ONNX Runtime: dense vectors of length 1."""

    def __init__(self, bundle: Path, *, threads: int) -> None:
        opened = read_bundle(bundle)
        text = opened.json("text.json")
        self._tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
        # Two special tokens come on top.
        self._tokenizer.enable_truncation(max(text["dense_tokens_max"], text["query_tokens_max"]) + 2)
        self._tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        path = bundle / "encoder" / "model.onnx"
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [texts, D]; texts of like length are encoded together."""
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        parts: dict[int, NDArray[np.float32]] = {}
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            parts |= dict(zip(places, self._dense([texts[at] for at in places]), strict=True))
        return np.stack([parts[at] for at in range(len(texts))]).astype(np.float32)

    def encode_each(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], float]:
        """Each on its own. Returns: float32 [texts, D], and the median of milliseconds."""
        self._dense(texts[:1])
        vectors, spent_ms = [], []
        for text in texts:
            began_s = time.perf_counter()
            vectors.append(self._dense([text])[0])
            spent_ms.append((time.perf_counter() - began_s) * 1000.0)
        return np.stack(vectors).astype(np.float32), statistics.median(spent_ms)

    def _dense(self, texts: Sequence[str]) -> NDArray[np.float32]:
        encoded = self._tokenizer.encode_batch(list(texts))
        ids = np.array([one.ids for one in encoded], dtype=np.int64)
        mask = np.array([one.attention_mask for one in encoded], dtype=np.int64)
        found: NDArray[np.float32] = self._session.run(["dense"], {"input_ids": ids, "attention_mask": mask})[
            0
        ]
        return found
