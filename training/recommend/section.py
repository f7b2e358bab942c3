"""The section `recommend/` as it is written, and what is read from it: the sources that a server has.

Tables keep the largest weights of a row, the items' vectors are int8 with a scale a row, the sequence network
int8 per output channel by the exporter of `training.quantise`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from muster.bundle.checksums import digest_file
from muster.bundle.recommend import (
    CARD_FILE,
    ITEMS_FILE,
    MODEL_FILE,
    ORDER_FILE,
    POPULARITY_FILE,
    SCALES_FILE,
    SECTION_FILE,
    SECTION_SCHEMA,
    VECTORS_FILE,
    RecommendSection,
    SourceEntry,
    table_file,
)
from training.quantise import open_session, write_graph
from training.recommend.behaviour import Items
from training.recommend.mixture import FromPopularity, FromTable, Source
from training.recommend.network import SequenceModel
from training.recommend.sequence import FromModel, softmax
from training.recommend.tables import Table


@dataclass(frozen=True)
class Contents:
    """What a section is made of.

    weights: of the sources, in their order. order: a LightGBM text model; None: none. card: what is said of
    how it was made.
    """

    item_ids: Sequence[str]
    sources: Sequence[Source]
    weights: NDArray[np.float64]
    repeats: bool
    history_max: int
    candidates: int
    order: str | None
    card: Mapping[str, Any]


def write_section(folder: Path, contents: Contents) -> None:
    """Write a section: all of it or nothing; an older one is replaced. Raises: OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        entries = [
            _write_source(staging, source, float(weight))
            for source, weight in zip(contents.sources, contents.weights, strict=True)
        ]
        (staging / ITEMS_FILE).write_text(json.dumps({"item_ids": list(contents.item_ids)}), encoding="utf-8")
        (staging / CARD_FILE).write_text(json.dumps(contents.card, indent=2) + "\n", encoding="utf-8")
        if contents.order is not None:
            (staging / ORDER_FILE).write_text(contents.order, encoding="utf-8")
        files = {}
        for path in sorted(one for one in staging.rglob("*") if one.is_file()):
            digest, size = digest_file(path)
            files[path.relative_to(staging).as_posix()] = {"sha256": digest, "bytes": size}
        described = {
            "schema_version": SECTION_SCHEMA,
            "items": len(contents.item_ids),
            "repeats": contents.repeats,
            "history_max": contents.history_max,
            "candidates": contents.candidates if contents.order is not None else 0,
            "sources": [asdict(one) for one in entries],
            "files": files,
        }
        (staging / SECTION_FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        staging.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _write_source(folder: Path, source: Source, weight: float) -> SourceEntry:
    weight = min(1.0, max(0.0, weight))
    if isinstance(source, FromTable):
        table = source.table.weights.tocsr()
        table.sort_indices()
        path = folder / table_file(source.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            table.indptr.astype("<u4").tobytes()
            + table.indices.astype("<u4").tobytes()
            + table.data.astype("<f4").tobytes()
        )
        return SourceEntry(
            source.name, "table", weight, source.table.recency, source.doubt, entries=int(table.nnz)
        )
    if isinstance(source, FromPopularity):
        (folder / POPULARITY_FILE).write_bytes(source.counts.astype("<f4").tobytes())
        return SourceEntry(source.name, "popularity", weight, doubt=source.doubt)
    if isinstance(source, FromModel):
        model = source.model
        export_network(model, folder / MODEL_FILE)
        rows, scales = int8_rows(item_rows(model, source.named))
        (folder / VECTORS_FILE).write_bytes(rows.tobytes())
        (folder / SCALES_FILE).write_bytes(scales.astype("<f4").tobytes())
        return SourceEntry(
            source.name,
            "sequence",
            weight,
            doubt=source.doubt,
            width=rows.shape[1],
            positions=model.shape.positions,
        )
    raise TypeError(f"a section cannot hold the source {source.name}")


# -- the sequence model ----------------------------------------------------------


class _Served(nn.Module):
    """The network as a server calls it: vectors of the latest items to the state after the last of them."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, vectors: Tensor) -> Tensor:
        """vectors: float32 [B, T, H], the oldest first. Returns: float32 [B, H]."""
        return self.model.read(vectors)[:, -1]


def export_network(model: SequenceModel, path: Path, *, int8: bool = True) -> None:
    """Write the network as ONNX: "vectors" float32 [B, T, H] to "state" float32 [B, H]. int8: False for
    float32.
    """
    vectors = torch.zeros(2, 5, model.shape.width)
    axes = {"vectors": {0: "batch", 1: "length"}, "state": {0: "batch"}}
    write_graph(_Served(model).eval(), {"vectors": vectors}, ["state"], axes, path, int8=int8)


@torch.inference_mode()
def item_rows(model: SequenceModel, named: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Vectors of all items: float32 [items, H]. named: bool [items]; others are rows of 0."""
    rows = model.items().float().cpu().numpy().copy()
    rows[~named] = 0.0
    return rows


def int8_rows(rows: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Each row in 255 steps of its own scale: int8 [n, H], float32 [n]; a row of 0 has the scale 0."""
    scales = (np.abs(rows).max(axis=1) / 127.0).astype(np.float32)
    divisor = np.where(scales > 0, scales, 1.0)[:, None]
    return np.rint(rows / divisor).astype(np.int8), scales


@dataclass(frozen=True)
class FromSection:
    """The sequence model of a section as a source, computed as a server does.

    rows: float32 [items, H], from int8; a row of 0 is an item that is not named.
    """

    session: onnxruntime.InferenceSession
    rows: NDArray[np.float32]
    positions: int
    name: str = "sequence"
    doubt: float = 0.0

    def evidence(self, histories: Sequence[Items]) -> NDArray[np.float32]:
        """See `training.recommend.mixture.Source`."""
        states = np.zeros((len(histories), self.rows.shape[1]), dtype=np.float32)
        lengths = np.array([min(len(one), self.positions) for one in histories])
        # Of a shopper without a history the state is 0: every item is as likely.
        for length in np.unique(lengths[lengths > 0]):
            # Histories of one length together: a shorter one beside a longer would have to be padded.
            same = np.flatnonzero(lengths == length).tolist()
            vectors = self.rows[np.stack([histories[at][-length:] for at in same])]
            states[same] = self.session.run(["state"], {"vectors": vectors})[0]
        named: NDArray[np.bool_] = np.abs(self.rows).max(axis=1) > 0
        return softmax(states @ self.rows.T, named)


# -- reading ----------------------------------------------------------


def sources_of(section: RecommendSection, *, threads: int = 1) -> tuple[list[Source], NDArray[np.float64]]:
    """The sources of a section and their weights, in its order. threads: of the sequence model."""
    found: list[Source] = []
    for one in section.sources:
        if one.kind == "table":
            weights = _table(section, one)
            found.append(FromTable(Table(one.name, weights, one.recency, one.doubt), section.history_max))
        elif one.kind == "popularity":
            counts = np.fromfile(section.folder / POPULARITY_FILE, dtype="<f4").astype(np.float32)
            found.append(FromPopularity(counts, one.name, one.doubt))
        else:
            rows = np.fromfile(section.folder / VECTORS_FILE, dtype=np.int8).reshape(section.items, one.width)
            scales = np.fromfile(section.folder / SCALES_FILE, dtype="<f4")
            session = open_session(section.folder / MODEL_FILE, threads=threads)
            vectors = rows.astype(np.float32) * scales[:, None].astype(np.float32)
            found.append(FromSection(session, vectors, one.positions, one.name, one.doubt))
    return found, np.array([one.weight for one in section.sources])


def _table(section: RecommendSection, one: SourceEntry) -> sparse.csr_matrix:
    data = np.fromfile(section.folder / table_file(one.name), dtype=np.uint8)
    cut = 4 * (section.items + 1)
    offsets = data[:cut].view("<u4").astype(np.int64)
    places = data[cut : cut + 4 * one.entries].view("<u4").astype(np.int64)
    weights = data[cut + 4 * one.entries :].view("<f4").astype(np.float32)
    return sparse.csr_matrix((weights, places, offsets), shape=(section.items, section.items))
