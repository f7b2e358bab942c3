"""Impressions: every product that was shown, at which position, and whether it was clicked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

POSITIONS_MAX = 1_000
_NEEDED = ("answer", "query", "product_id", "position", "clicked")


class ClicksRefused(ValueError):
    """The file or its content cannot be used; the message says what to change."""


class Inconclusive(Exception):
    """The clicks do not say it; the message says what would."""


@dataclass(frozen=True)
class Impressions:
    """One entry for each product shown. All arrays have shape [impressions].

    answer: index of the answer; query: of its query; product: of the product; position: from 1; clicked: 0 or
    1; propensity: probability with which the logging service puts that product at that position for that
    query, above 0 up to 1, or None where none was logged. query_names, product_names: what the indices mean.
    features: float64 [impressions, features], NaN where unknown, or None where none were asked for.
    """

    answer: Ints
    query: Ints
    product: Ints
    position: Ints
    clicked: Ints
    propensity: Floats | None = None
    query_names: tuple[str, ...] = ()
    product_names: tuple[str, ...] = ()
    features: Floats | None = None

    @property
    def answers(self) -> int:
        return int(self.answer.max()) + 1 if len(self.answer) else 0

    @property
    def places(self) -> int:
        return int(self.position.max()) if len(self.position) else 0

    def pairs(self) -> tuple[Ints, int]:
        """Index of each impression's (query, product), and how many there are."""
        key = self.query * (int(self.product.max(initial=0)) + 1) + self.product
        found, index = np.unique(key, return_inverse=True)
        return index.astype(np.int64), len(found)

    def of_answers(self, chosen: NDArray[np.bool_]) -> Impressions:
        """The impressions of some answers. chosen: bool [answers]."""
        rows = chosen[self.answer]
        _, answer = np.unique(self.answer[rows], return_inverse=True)
        return Impressions(
            answer.astype(np.int64),
            self.query[rows],
            self.product[rows],
            self.position[rows],
            self.clicked[rows],
            None if self.propensity is None else self.propensity[rows],
            self.query_names,
            self.product_names,
            None if self.features is None else self.features[rows],
        )

    def pair_features(self) -> Floats | None:
        """Features of each (query, product), as they were first seen: float64 [pairs, features]."""
        if self.features is None:
            return None
        pair, _ = self.pairs()
        return np.asarray(self.features[np.unique(pair, return_index=True)[1]])


def read_impressions(path: Path, features: Sequence[str] = ()) -> Impressions:
    """Reads a Parquet, CSV or JSONL file with the columns answer, query, product_id, position, clicked, and
    optionally propensity. features: further columns of numbers, empty where unknown.

    Raises: ClicksRefused, naming the column and the first row that is wrong.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    readers = {
        ".parquet": pa.parquet.read_table,
        ".csv": pa.csv.read_csv,
        ".jsonl": pa.json.read_json,
    }
    if path.suffix not in readers:
        raise ClicksRefused(f"{path}: clicks are read from .parquet, .csv or .jsonl")
    try:
        table = readers[path.suffix](str(path))
    except (OSError, pa.ArrowException) as error:
        raise ClicksRefused(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    wrong = [name for name in features if name in (*_NEEDED, "propensity") or features.count(name) > 1]
    if wrong:
        raise ClicksRefused(f"{wrong[0]} is no feature: name other columns, each once")
    missing = [name for name in (*_NEEDED, *features) if name not in table.column_names]
    if missing:
        raise ClicksRefused(f"{path} lacks the column {', '.join(missing)}; needed are {', '.join(_NEEDED)}")
    if table.num_rows == 0:
        raise ClicksRefused(f"{path} holds no impressions")
    answer, _ = _indexed(table["answer"])
    query, query_names = _indexed(table["query"])
    product, product_names = _indexed(table["product_id"])
    position = _numbers(table, "position", path)
    clicked = _numbers(table, "clicked", path)
    _hold(path, "position", "a whole number from 1 to 1,000", _whole(position, 1, POSITIONS_MAX))
    _hold(path, "clicked", "0 or 1", _whole(clicked, 0, 1))
    propensity = None
    if "propensity" in table.column_names:
        propensity = _numbers(table, "propensity", path)
        _hold(path, "propensity", "above 0, up to 1", (propensity > 0) & (propensity <= 1))
    places = answer * (POSITIONS_MAX + 1) + position.astype(np.int64)
    _, first = np.unique(places, return_index=True)
    alone = np.zeros(len(places), dtype=bool)
    alone[first] = True
    _hold(path, "position", "held by one product of an answer alone", alone)
    return Impressions(
        answer,
        query,
        product,
        position.astype(np.int64),
        clicked.astype(np.int64),
        propensity,
        query_names,
        product_names,
        np.column_stack([_numbers(table, name, path, empty=True) for name in features]) if features else None,
    )


def _indexed(column: Any) -> tuple[Ints, tuple[str, ...]]:
    names, index = np.unique(np.array([str(value) for value in column.to_pylist()]), return_inverse=True)
    return index.astype(np.int64), tuple(str(name) for name in names)


def _numbers(table: Any, name: str, path: Path, *, empty: bool = False) -> Floats:
    """A column of numbers; empty: whether it may lack some, which become NaN."""
    values = table[name].to_pylist()
    if empty:
        values = [np.nan if value is None else value for value in values]
    try:
        return np.array([float(value) for value in values], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ClicksRefused(f"{path}: the column {name} must hold numbers alone") from error


def _whole(values: Floats, low: int, high: int) -> NDArray[np.bool_]:
    # What is no number is not between two numbers either.
    return np.asarray((values >= low) & (values <= high) & (values == np.floor(values)))


def _hold(path: Path, name: str, wanted: str, good: NDArray[np.bool_]) -> None:
    if not good.all():
        raise ClicksRefused(f"{path}, row {int(np.argmin(good)) + 1}: {name} must be {wanted}")
