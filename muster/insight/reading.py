"""Reads event files (Parquet, CSV, TSV, JSONL) and what a replica kept, batch by batch, into columns.

Names of shoppers, sessions and receipts become 64-bit hashes as each batch is read; only those are held.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from muster.insight.errors import InsightError
from muster.insight.events import DAY_US, KINDS, RECEIPT_STATES, Events, Names, numbered

BATCH_ROWS = 50_000
QUERY_CHARACTERS_MAX = 200

# Column to the names by which it is recognised, besides its own.
COLUMNS: dict[str, tuple[str, ...]] = {
    "kind": ("event", "event_type"),
    "at_unix_us": ("occurred_unix_us",),
    "at_unix_ms": (),
    "at_unix_s": ("timestamp",),
    "at": (),
    "committed_unix_us": (),
    "shopper": ("shopper_id", "user_id"),
    "session": ("session_id",),
    "product_id": ("item_id",),
    "receipt_id": (),
    "receipt": (),
    "position": (),
    "results": (),
    "query": (),
    "tier": (),
    "priority": (),
    "experiment": (),
    "event_id": (),
    "clock": (),
}
TIMES = {"at_unix_us": 1, "at_unix_ms": 1_000, "at_unix_s": 1_000_000, "at": 1}
KIND_ALIASES = {"impression": "answer", "search": "answer", "addtocart": "cart", "add_to_cart": "cart",
                "purchase": "buy", "transaction": "buy"}  # fmt: skip
_FOREVER_US = 2**62
_PSEUDONYM = re.compile(r"[0-9a-f]{8}-([0-9]{1,4})-([0-9]{1,6})-[0-9a-f]{32}", re.ASCII)

Batches = Iterable[pa.RecordBatch]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Mapped:
    """How a file names things. columns: ours to theirs. kinds: theirs to ours."""

    columns: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.columns:
            if name not in COLUMNS:
                raise InsightError(f"there is no column {name!r}; there are {', '.join(COLUMNS)}")
        for kind in self.kinds.values():
            if kind not in KINDS:
                raise InsightError(f"there is no kind {kind!r}; there are {', '.join(KINDS)}")


class Reader:
    """Takes batches of any number of sources; `events` has them all. problems: rows left out, by reason."""

    def __init__(self, mapped: Mapped | None = None, progress: Progress = lambda rows: None) -> None:
        self._mapped = mapped or Mapped()
        self._progress = progress
        self._parts: dict[str, list[NDArray[Any]]] = {}
        self._words: dict[str, dict[str, int]] = {
            name: {} for name in ("product_id", "query", "tier", "priority", "experiment")
        }
        self._kinds: Counter[str] = Counter()
        self._sources = 0
        self.problems: Counter[str] = Counter()
        self.rows = 0

    def file(self, path: Path) -> None:
        """Read one event file. Raises: InsightError."""
        self.batches(file_batches(path), str(path))

    def batches(self, batches: Batches, where: str) -> None:
        """Take batches with the columns of event files. Raises: InsightError."""
        self._sources += 1
        for batch in batches:
            try:
                self._take(batch, self._found(batch.schema.names, where), where)
            except pa.ArrowException as error:
                raise InsightError(
                    f"{where}: a column holds what is neither text nor number: {error}"
                ) from error
            self.rows += batch.num_rows
            self._progress(self.rows)

    def events(self) -> Events:
        """All that was read; the reader holds nothing afterwards.

        Raises: InsightError if nothing can be used.
        """
        if not self._parts or not sum(map(len, self._parts["kind"])):
            seen = ", ".join(repr(kind) for kind, _ in self._kinds.most_common(5))
            raise InsightError(
                f"no event can be used: {self._told() or 'there are no rows'}"
                + (f". Kinds seen: {seen}; name them with --kind THEIRS=click" if seen else "")
            )
        # Column by column, so that the batches of one go before the next is joined.
        columns: dict[str, Any] = {name: np.concatenate(self._parts.pop(name)) for name in list(self._parts)}
        shopper, session = columns.pop("shopper"), columns["session"]
        columns["named"] = shopper != 0
        columns["actor"] = np.where(shopper != 0, numbered(shopper), -1)
        alone = (shopper == 0) & (session != 0)
        columns["actor"][alone] = int(columns["actor"].max(initial=0)) + 1 + numbered(session[alone])
        for name in ("session", "answer"):
            columns[name] = np.where(columns[name] != 0, numbered(columns[name]), -1)
        _join(columns, columns.pop("source"))
        names = Names(*(list(self._words[name]) for name in self._words))
        return Events(**columns, names=names)

    def _told(self) -> str:
        return ", ".join(f"{count:,} rows: {why.replace('_', ' ')}" for why, count in self.problems.items())

    def _found(self, present: list[str], where: str) -> dict[str, str]:
        found = {}
        for name, others in COLUMNS.items():
            wanted = self._mapped.columns.get(name)
            if wanted is not None and wanted not in present:
                raise InsightError(f"{where}: has no column {wanted!r}; it has {', '.join(present[:20])}")
            theirs = wanted or next((one for one in (name, *others) if one in present), None)
            if theirs is not None:
                found[name] = theirs
        missing = [
            what
            for what, good in (
                ("kind", "kind" in found),
                (" or ".join(TIMES), any(name in found for name in TIMES)),
                ("shopper or session", "shopper" in found or "session" in found),
            )
            if not good
        ]
        if missing:
            raise InsightError(
                f"{where}: has no column {', no column '.join(missing)}; it has {', '.join(present[:20])}."
                " Name them with --column OURS=THEIRS"
            )
        return found

    def _take(self, batch: pa.RecordBatch, found: Mapping[str, str], where: str) -> None:
        def column(name: str) -> pa.Array | None:
            return batch.column(found[name]) if name in found else None

        size = batch.num_rows
        kind = self._kind(_texts(column("kind"), size))
        at_us = np.zeros(size, dtype=np.int64)
        for name, factor in TIMES.items():
            if name in found:
                read = _moments(column(name), factor, f"{where}, column {found[name]!r}")
                at_us = np.where(at_us > 0, at_us, read)
        committed_us = _whole(column("committed_unix_us"), size, 0, where)
        at_us = np.where(at_us > 0, at_us, committed_us)
        shopper_texts = _texts(column("shopper"), size)
        shopper, session = _hashes(shopper_texts), _hashes(_texts(column("session"), size))
        named = (shopper != 0) | (session != 0)
        good = (kind >= 0) & (at_us > 0) & named
        for why, bad in (
            ("unknown_kind", kind < 0),
            ("no_time", (kind >= 0) & (at_us <= 0)),
            ("unnamed", (kind >= 0) & (at_us > 0) & ~named),
        ):
            if bad.any():
                self.problems[why] += int(bad.sum())
        states = {name: at for at, name in enumerate(RECEIPT_STATES)}
        columns: dict[str, NDArray[Any]] = {
            "source": np.full(size, self._sources),
            "kind": kind,
            "shopper": shopper,
            "session": session,
            "answer": _hashes(_texts(column("receipt_id"), size)),
            "product": self._word("product_id", _texts(column("product_id"), size)),
            "position": _whole(column("position"), size, -1, where),
            "results": _whole(column("results"), size, -1, where),
            "at_us": at_us,
            "committed_us": committed_us,
            "known_until_us": _each(shopper_texts, _known_until_us, _FOREVER_US),
            "query": self._word("query", _texts(column("query"), size), plain_query),
            "tier": self._word("tier", _texts(column("tier"), size), _value),
            "priority": self._word("priority", _texts(column("priority"), size), _value),
            "experiment": self._word("experiment", _texts(column("experiment"), size)),
            "state": _each(_texts(column("receipt"), size), lambda text: states.get(text, 0), 0),
            "event_id": _hashes(_texts(column("event_id"), size)),
            "server_clock": _each(_texts(column("clock"), size), lambda text: int(text == "server"), 0) == 1,
        }
        for name, values in columns.items():
            self._parts.setdefault(name, []).append(values[good])

    def _kind(self, texts: pa.DictionaryArray) -> NDArray[np.int64]:
        def number(text: str) -> int:
            text = self._mapped.kinds.get(text, text).strip().lower().removeprefix("feedback_kind_")
            text = KIND_ALIASES.get(text, text)
            if text in KINDS:
                return KINDS.index(text)
            self._kinds[text[:40]] += 1
            return -1

        return _each(texts, number, -1)

    def _word(
        self, column: str, texts: pa.DictionaryArray, plain: Callable[[str], str] = str
    ) -> NDArray[np.int64]:
        words = self._words[column]

        def number(text: str) -> int:
            text = plain(text)
            return words.setdefault(text, len(words)) if text else -1

        return _each(texts, number, -1)


def _join(columns: dict[str, Any], source: NDArray[np.int64]) -> None:
    """Answers that a source without feedback tells of belong to whoever gave feedback on them elsewhere.

    The caller who writes answers down knows shoppers by their names, the service keeps them under pseudonyms:
    without this each would be two people. One name's answers all go to the pseudonym found first.
    """
    answers = columns["kind"] == KINDS.index("answer")
    apart = answers & (columns["answer"] >= 0) & ~np.isin(source, source[~answers])
    told = np.flatnonzero(~answers & (columns["answer"] >= 0))[::-1]
    if not apart.any() or not len(told):
        return
    first = np.full(int(columns["answer"].max()) + 1, -1, dtype=np.int64)
    first[columns["answer"][told]] = told
    for name in ("actor", "session"):
        known = np.flatnonzero(apart & (columns[name] >= 0) & (first[columns["answer"]] >= 0))[::-1]
        other = np.full(int(columns[name].max()) + 1, -1, dtype=np.int64)
        other[columns[name][known]] = first[columns["answer"][known]]
        moved = np.flatnonzero(apart & (columns[name] >= 0))
        moved = moved[other[columns[name][moved]] >= 0]
        by = other[columns[name][moved]]
        columns[name] = columns[name].copy()
        if name == "actor":
            columns["named"][moved] = columns["named"][by]
            columns["known_until_us"][moved] = columns["known_until_us"][by]
        columns[name][moved] = columns[name][by]


def plain_query(query: str) -> str:
    """A query as it is counted: small letters, one space between words, cut."""
    return " ".join(query.casefold().split())[:QUERY_CHARACTERS_MAX]


def _value(name: str) -> str:
    """A value of an enumeration of the contract, as it is written everywhere else."""
    return name.strip().lower().removeprefix("tier_").removeprefix("priority_")


def _known_until_us(shopper: str) -> int:
    """When the period of a pseudonym of the service ends."""
    parts = _PSEUDONYM.fullmatch(shopper)
    return int(parts[1]) * (int(parts[2]) + 1) * DAY_US if parts else _FOREVER_US


def _texts(column: pa.Array | None, size: int) -> pa.DictionaryArray:
    if column is None:
        column = pa.nulls(size, pa.string())
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    encoded: pa.DictionaryArray = pc.dictionary_encode(pc.cast(column, pa.string()))
    return encoded


def _each(texts: pa.DictionaryArray, number: Callable[[str], int], absent: int) -> NDArray[np.int64]:
    """A number for each text, worked out once for each different one; absent: for no text."""
    words = texts.dictionary.to_pylist()
    numbers = np.array([number(word) if word else absent for word in words] + [absent], dtype=np.int64)
    return np.asarray(numbers[pc.fill_null(texts.indices, len(words)).to_numpy(zero_copy_only=False)])


def _hashes(texts: pa.DictionaryArray) -> NDArray[np.uint64]:
    """64-bit hashes; 0: no text."""

    def hashed(text: str) -> int:
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "little", signed=True) or 1

    return _each(texts, hashed, 0).view(np.uint64)


def _whole(column: pa.Array | None, size: int, absent: int, where: str) -> NDArray[np.int64]:
    if column is None:
        return np.full(size, absent, dtype=np.int64)
    try:
        if pa.types.is_string(column.type):
            column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
        numbers = pc.cast(column, pa.int64())
    except pa.ArrowException as error:
        raise InsightError(f"{where}: what should be a whole number is none. Correct the column") from error
    return np.asarray(pc.fill_null(numbers, absent).to_numpy(zero_copy_only=False))


def _moments(column: pa.Array, factor: int, where: str) -> NDArray[np.int64]:
    """Microseconds since the Unix epoch; 0: none, or not readable as one number of a good column."""
    try:
        if pa.types.is_timestamp(column.type) or (factor == 1 and pa.types.is_string(column.type)):
            return _dates(column)
        numbers = pc.cast(column, pa.float64()) if factor > 1 else pc.cast(column, pa.int64())
    except pa.ArrowException as error:
        raise InsightError(f"{where}: holds what is no time. Correct it, or name another column") from error
    values = pc.fill_null(numbers, 0).to_numpy(zero_copy_only=False)
    values = np.where(np.isfinite(values) & (values >= 0) & (values < _FOREVER_US / factor), values, 0)
    return np.asarray(values * factor, dtype=np.int64)


def _dates(column: pa.Array) -> NDArray[np.int64]:
    if pa.types.is_string(column.type):
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
        digits = pc.match_substring_regex(column, "^[0-9]+$")
        if pc.all(digits, min_count=1).as_py():
            return _whole(column, len(column), 0, "times")
        zoned = pc.match_substring_regex(column, r"(Z|[+-][0-9]{2}:?[0-9]{2})$")
        column = pc.if_else(zoned, column, pc.binary_join_element_wise(column, "Z", ""))
    moments = pc.cast(pc.cast(column, pa.timestamp("us", tz="UTC")), pa.int64())
    return np.asarray(np.maximum(pc.fill_null(moments, 0).to_numpy(zero_copy_only=False), 0))


def file_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The rows of an event file, batch by batch. Raises: InsightError."""
    kinds: dict[str, Callable[[Path], Iterator[pa.RecordBatch]]] = {
        ".parquet": _parquet,
        ".pq": _parquet,
        ".csv": _csv,
        ".tsv": _csv,
        ".jsonl": _jsonl,
        ".ndjson": _jsonl,
    }
    if path.suffix.lower() not in kinds:
        raise InsightError(f"{path}: unknown kind of file; use .parquet, .csv, .tsv or .jsonl")
    try:
        yield from kinds[path.suffix.lower()](path)
    except (pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise InsightError(f"{path}: cannot be read as {path.suffix[1:]}: {error}") from error
    except OSError as error:
        raise InsightError(f"{path}: {error.strerror or error}") from error


def _parquet(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=BATCH_ROWS)


def _csv(path: Path) -> Iterator[pa.RecordBatch]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        names = list(rows.fieldnames or ())
        for batch in _grouped(rows):
            yield _batch({name: [row.get(name) for row in batch] for name in names})


def _jsonl(path: Path) -> Iterator[pa.RecordBatch]:
    def rows() -> Iterator[dict[str, Any]]:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                if not isinstance(row, dict):
                    raise InsightError(f"{path}, line {number}: is no JSON object. Correct the line")
                yield row

    # A row may leave columns out: their names are gathered over the whole file first.
    names = list(dict.fromkeys(name for row in rows() for name in row))
    for batch in _grouped(rows()):
        yield _batch({name: [row.get(name) for row in batch] for name in names})


def _batch(columns: Mapping[str, list[Any]]) -> pa.RecordBatch:
    """As texts: the same column may hold numbers in one row and texts in the next."""

    def text(value: Any) -> str | None:
        return value if value is None or isinstance(value, str) else json.dumps(value)

    return pa.RecordBatch.from_pydict(
        {name: pa.array([text(value) for value in values], pa.string()) for name, values in columns.items()}
    )


def _grouped(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch
