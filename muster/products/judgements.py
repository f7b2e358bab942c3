"""Queries with judged products, as used to measure ranking quality.

A folder holds `queries.parquet` (query_id, query, split) and `labels.parquet` (query_id, product_id and one
of gain, rating or label). Gains are linear: ESCI's official ones (Exact 1, Substitute 0.1, Complement 0.01,
Irrelevant 0), or a rating of 0 to 3 as it stands. Files that are named may also be CSV, TSV or JSONL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muster.products.errors import ProductFileError
from muster.products.readers import read_rows

LABEL_GAINS: Mapping[str, float] = {
    "Exact": 1.0,
    "Substitute": 0.1,
    "Complement": 0.01,
    "Irrelevant": 0.0,
    "E": 1.0,
    "S": 0.1,
    "C": 0.01,
    "I": 0.0,
    "Partial": 0.5,
}


@dataclass(frozen=True)
class Judgements:
    """Judged queries of one split.

    queries: query id to query text, in file order.
    gains: query id to (product id to gain, finite and >= 0). Every query of `queries` has an entry, perhaps
    empty.
    """

    queries: Mapping[str, str]
    gains: Mapping[str, Mapping[str, float]]

    def scorable(self) -> list[str]:
        """Ids of the queries that have a positive gain; the others have no nDCG."""
        return [query for query, gains in self.gains.items() if any(gain > 0 for gain in gains.values())]


def read_judgements(
    folder: str | Path,
    split: str | None = "dev",
    *,
    queries: str | Path | None = None,
    labels: str | Path | None = None,
) -> Judgements:
    """Read the queries of one split and what is known about their products.

    split: "train", "dev", "test"...; None: all of them. Files without a column `split` count as every split.
    queries, labels: other files than those in the folder.
    Raises: ProductFileError.
    """
    folder = Path(folder)
    queries_path = Path(queries) if queries is not None else folder / "queries.parquet"
    labels_path = Path(labels) if labels is not None else folder / "labels.parquet"
    texts: dict[str, str] = {}
    splits: set[str] = set()
    for row, values in read_rows(queries_path, ("query_id", "query"), ("split",)):
        text = values["query"]
        if values["query_id"] is None or not isinstance(text, str) or not text.strip():
            raise ProductFileError(
                queries_path, "the query has no id or no text", "Complete the row", row=row
            )
        splits.add(str(values.get("split")))
        if split is not None and values.get("split", split) != split:
            continue
        key = str(values["query_id"])
        if texts.setdefault(key, text) != text:
            raise ProductFileError(
                queries_path, f"the query id {key} has two texts", "Keep one row for each query", row=row
            )
    if not texts:
        known = ", ".join(sorted(splits)) or "none"
        raise ProductFileError(
            queries_path, f"no query belongs to the split {split!r} (splits: {known})", "Name another split"
        )
    gains: dict[str, dict[str, float]] = {key: {} for key in texts}
    for row, values in read_rows(labels_path, ("query_id", "product_id"), ("gain", "rating", "label")):
        judged = gains.get(str(values["query_id"]))
        if judged is not None:
            judged[str(values["product_id"])] = gain_of(labels_path, row, values)
    return Judgements(queries=texts, gains=gains)


def gain_of(path: Path, row: int, values: Mapping[str, Any]) -> float:
    """The gain of one judged row: of its `gain`, its `rating` or its `label`, the first that is not empty.

    Raises: ProductFileError naming `path` and `row`.
    """
    for column in ("gain", "rating"):
        value = values.get(column)
        if value is not None and value != "":
            gain = _number(value)
            if not math.isfinite(gain) or gain < 0:
                raise ProductFileError(
                    path, f"{value!r} is not a gain", "Gains are finite and >= 0", row=row, column=column
                )
            return gain
    label = values.get("label")
    if isinstance(label, str) and label in LABEL_GAINS:
        return LABEL_GAINS[label]
    raise ProductFileError(
        path,
        f"the row has no gain, no rating and no known label ({label!r})",
        f"Write a gain, or one of the labels {', '.join(LABEL_GAINS)}",
        row=row,
    )


def _number(value: object) -> float:
    # A CSV file holds its numbers as text.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan
