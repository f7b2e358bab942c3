"""The sheet of pairs that people fill in, and the judgements that come of it.

A CSV file (`muster.products.sheet`) whose column `gain` is empty at first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from muster.labelling.queue import Pair
from muster.products.errors import ProductFileError
from muster.products.judgements import gain_of
from muster.products.readers import read_rows
from muster.products.sheet import read_sheet, write_sheet

COLUMNS = (
    "query_id",
    "query",
    "product_id",
    "title",
    "reasons",
    "people",
    "clicked",
    "expected",
    "judged",
    "gain",
)
_NEEDED = ("query_id", "query", "product_id", "gain")
QUERIES, LABELS = "queries.parquet", "labels.parquet"


def query_id_of(query: str) -> str:
    """The same for the same text."""
    return f"q-{hashlib.sha256(query.encode()).hexdigest()[:16]}"


def write_pairs(
    path: Path, pairs: Sequence[Pair], *, ids: Mapping[str, str], titles: Mapping[str, str]
) -> None:
    """Write the pairs, for their owner alone. ids: query text to the id that it has in judgements.

    Raises: ProductFileError where the file cannot be written.
    """
    rows = []
    for pair in pairs:
        known = [f"{pair.people}", f"{pair.clicked}", f"{pair.expected:.1f}"] if pair.people else [""] * 3
        cells = [ids.get(pair.query) or query_id_of(pair.query), pair.query, pair.product_id]
        cells += [titles.get(pair.product_id, ""), ", ".join(pair.reasons), *known]
        cells += ["" if pair.judged is None else f"{pair.judged:g}", ""]
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    write_sheet(path, COLUMNS, rows, private=True)


@dataclass(frozen=True)
class Filled:
    """What came of a sheet. judged: rows with a gain; empty: rows without."""

    judged: int
    empty: int


def judgements_of(sheet: Path, out: Path, before: Path | None = None) -> Filled:
    """Write `queries.parquet` and `labels.parquet` into `out`: those of the folder `before`, and the sheet's
    over them.

    A query that is new is of the split "train": what is asked because of what the service did is no fair
    sample to measure with. One that was there stays in its split. Raises: ProductFileError, naming the row;
    OSError.
    """
    if any((out / name).exists() for name in (QUERIES, LABELS)):
        raise ProductFileError(out, "holds judgements already", "Name another folder")
    texts, splits, gains = _known(before) if before else ({}, {}, {})
    filled: dict[tuple[str, str], float] = {}
    empty = 0
    for row, values in enumerate(read_sheet(sheet, _NEEDED)[1], start=1):
        given = values["gain"].strip()
        if not given:
            empty += 1
            continue
        key, query, product_id = values["query_id"], values["query"], values["product_id"]
        for name, value in (("query_id", key), ("query", query), ("product_id", product_id)):
            if not value.strip():
                raise ProductFileError(sheet, "the value is empty", "Complete the row", row=row, column=name)
        gain = gain_of(sheet, row, {"gain": given})
        if filled.setdefault((key, product_id), gain) != gain:
            raise ProductFileError(sheet, "the pair has another gain above", "Keep one of the rows", row=row)
        texts.setdefault(key, query)
        splits.setdefault(key, "train")
    if not filled:
        raise ProductFileError(
            sheet, "no row has a gain", "Fill in the column gain, 0 (not relevant) or more"
        )
    gains |= filled
    out.mkdir(parents=True, exist_ok=True)
    columns = {"query_id": list(texts), "query": list(texts.values())}
    if None not in splits.values():
        columns["split"] = [str(splits[key]) for key in texts]
    pq.write_table(pa.table(columns), out / QUERIES)
    labels = {
        "query_id": [key for key, _ in gains],
        "product_id": [product_id for _, product_id in gains],
        "gain": list(gains.values()),
    }
    pq.write_table(pa.table(labels), out / LABELS)
    return Filled(len(filled), empty)


def _known(folder: Path) -> tuple[dict[str, str], dict[str, str | None], dict[tuple[str, str], float]]:
    """Texts and splits by query id (None: the file tells no splits), and gains by pair."""
    texts: dict[str, str] = {}
    splits: dict[str, str | None] = {}
    for _, values in read_rows(folder / QUERIES, ("query_id", "query"), ("split",)):
        texts[str(values["query_id"])] = str(values["query"])
        splits[str(values["query_id"])] = str(values["split"]) if values.get("split") is not None else None
    path = folder / LABELS
    return (
        texts,
        splits,
        {
            (str(values["query_id"]), str(values["product_id"])): gain_of(path, row, values)
            for row, values in read_rows(path, ("query_id", "product_id"), ("gain", "rating", "label"))
        },
    )
