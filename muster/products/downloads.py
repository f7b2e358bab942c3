"""Public data sets: fetched from their own projects, checked, and brought into the layout that Muster reads.

Nothing is fetched unasked. A folder made here holds products.parquet, queries.parquet and labels.parquet (see
`judgements`), and SOURCE.toml, which says where the files came from, under which licence and with which
digests.
"""

from __future__ import annotations

import csv
import hashlib
import http.client
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from muster.products.errors import DownloadError
from muster.products.judgements import LABEL_GAINS

BLOCK_BYTES = 1 << 20
CONNECT_TIMEOUT_S = 20.0
SOURCE_FILE = "SOURCE.toml"

Opener = Callable[[str], IO[bytes]]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RemoteFile:
    """One file to fetch. bytes, rows: 0 where unknown. sha256: empty where the project declares none."""

    name: str
    url: str
    bytes: int
    sha256: str
    rows: int = 0


@dataclass(frozen=True)
class DataSet:
    """One public data set."""

    name: str
    title: str
    homepage: str
    licence: str
    citation: str
    files: tuple[RemoteFile, ...]

    @property
    def bytes(self) -> int:
        """Size of the download as far as it is known."""
        return sum(file.bytes for file in self.files)


def data_sets() -> dict[str, DataSet]:
    """The data sets that can be fetched, by name."""
    text = (resources.files("muster.products") / "sources.toml").read_text(encoding="utf-8")
    return {
        name: DataSet(
            name=name,
            title=entry["title"],
            homepage=entry["homepage"],
            licence=entry["licence"],
            citation=entry["citation"],
            files=tuple(RemoteFile(**file) for file in entry["files"]),
        )
        for name, entry in tomllib.loads(text).items()
    }


def fetch(
    data_set: DataSet,
    folder: str | Path,
    *,
    queries_max: int | None = 200,
    opener: Opener | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download a data set into `folder/originals`, verify it and write the three tables into `folder`.

    queries_max: so many queries of each split, chosen by a digest of their ids, with all products judged for
        them; None takes everything. It keeps a first try small: the whole of ESCI has more than a million
        products.
    progress: called with the file's name, the bytes so far and the bytes expected (0: unknown).
    Files that are there already with the right digest are not fetched again.
    Returns: the folder. Raises: DownloadError.
    """
    folder = Path(folder)
    originals = folder / "originals"
    try:
        originals.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(
            f"{originals}: the folder cannot be made ({error.strerror}). Name another one with --out"
        ) from error
    known = _known_digests(folder)
    digests = {}
    for file in data_set.files:
        expected = file.sha256 or known.get(file.name, "")
        digests[file.name] = _fetch_file(file, originals / file.name, expected, opener or _open_url, progress)
    _write_source(folder, data_set, digests)
    try:
        for file in data_set.files:
            _check_rows(originals / file.name, file.rows)
        _CONVERTERS[data_set.name](originals, folder, queries_max)
    except (pa.ArrowException, OSError, ValueError, KeyError, csv.Error) as error:
        raise DownloadError(
            f"{originals}: the files of {data_set.name} are not laid out as expected ({error}). "
            "Delete the folder and fetch it again"
        ) from error
    return folder


def _open_url(url: str) -> IO[bytes]:
    request = urllib.request.Request(url, headers={"User-Agent": "muster-data/1"})
    response: IO[bytes] = urllib.request.urlopen(request, timeout=CONNECT_TIMEOUT_S)
    return response


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch_file(
    file: RemoteFile, path: Path, expected: str, opener: Opener, progress: Progress | None
) -> str:
    if path.is_file() and expected and _digest(path) == expected:
        return expected
    part = path.with_name(path.name + ".part")
    digest = hashlib.sha256()
    received = 0
    try:
        with opener(file.url) as response, part.open("wb") as out:
            while block := response.read(BLOCK_BYTES):
                out.write(block)
                digest.update(block)
                received += len(block)
                if progress is not None:
                    progress(file.name, received, file.bytes)
        found = digest.hexdigest()
        if file.bytes and received != file.bytes:
            raise DownloadError(
                f"{file.url}: received {received:,} of {file.bytes:,} bytes. Run the same command again"
            )
        if expected and found != expected:
            raise DownloadError(
                f"{file.url}: the file is not the expected one (SHA-256 {found}, expected {expected}). "
                "Nothing was kept; try again, and if it repeats, do not use this source"
            )
        part.replace(path)
        return found
    except urllib.error.HTTPError as error:
        raise DownloadError(
            f"{file.url}: the server answered {error.code} {error.reason}. Try later, or put the file "
            f"into {path.parent} by hand"
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        cause = getattr(error, "reason", None) or error
        raise DownloadError(
            f"{file.url}: the network cannot be reached ({cause}). Check the connection, or put the files "
            f"into {path.parent} by hand and run the same command again"
        ) from error
    except OSError as error:
        raise DownloadError(f"{path}: cannot be written ({error.strerror or error}). Make room") from error
    finally:
        part.unlink(missing_ok=True)


def _known_digests(folder: Path) -> dict[str, str]:
    try:
        source = tomllib.loads((folder / SOURCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    digests = source.get("sha256", {})
    return {str(name): str(value) for name, value in digests.items()} if isinstance(digests, dict) else {}


def _write_source(folder: Path, data_set: DataSet, digests: Mapping[str, str]) -> None:
    lines = [
        f'data_set = "{data_set.name}"',
        f'title = "{data_set.title}"',
        f'homepage = "{data_set.homepage}"',
        f'licence = "{data_set.licence}"',
        f'citation = "{data_set.citation}"',
        "",
        "[sha256]",
        *(f'"{name}" = "{digest}"' for name, digest in digests.items()),
    ]
    (folder / SOURCE_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


# -- into Muster's layout ----------------------------------------------------------


def _split_of(query_id: object, original: str) -> str:
    """The originals' test part stays apart; a fifth of their training part becomes dev."""
    if original == "test":
        return "test"
    return "dev" if _order(query_id) % 5 == 0 else "train"


def _order(query_id: object) -> int:
    return int.from_bytes(hashlib.sha256(str(query_id).encode()).digest()[:8], "big")


def _choose(splits: Mapping[str, str], queries_max: int | None) -> set[str]:
    """The queries to keep: the first of each split in the order of their digests."""
    kept: set[str] = set()
    for split in set(splits.values()):
        ordered = sorted((query for query, at in splits.items() if at == split), key=_order)
        kept.update(ordered[:queries_max])
    return kept


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    part = path.with_name(path.name + ".part")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), part, compression="zstd")
    part.replace(path)


_TEXT = pa.string()
_QUERIES = pa.schema([("query_id", _TEXT), ("query", _TEXT), ("split", _TEXT)])
_LABELS = pa.schema(
    [("query_id", _TEXT), ("product_id", _TEXT), ("label", _TEXT), ("gain", pa.float64()), ("split", _TEXT)]
)
_ESCI_LABELS = {"E": "Exact", "S": "Substitute", "C": "Complement", "I": "Irrelevant"}


def _convert_esci(originals: Path, folder: Path, queries_max: int | None) -> None:
    columns = ["query", "query_id", "product_id", "product_locale", "esci_label", "split"]
    texts: dict[str, str] = {}
    splits: dict[str, str] = {}
    examples = originals / "shopping_queries_dataset_examples.parquet"

    def judged() -> Iterator[dict[str, Any]]:
        with pq.ParquetFile(examples) as file:
            for batch in file.iter_batches(columns=columns):
                for row in batch.to_pylist():
                    if row["product_locale"] == "us":
                        yield row

    for row in judged():
        query = str(row["query_id"])
        texts[query] = row["query"]
        splits[query] = _split_of(query, row["split"])
    kept = _choose(splits, queries_max)
    labels = [
        {
            "query_id": str(row["query_id"]),
            "product_id": row["product_id"],
            "label": _ESCI_LABELS[row["esci_label"]],
            "gain": LABEL_GAINS[row["esci_label"]],
            "split": splits[str(row["query_id"])],
        }
        for row in judged()
        if str(row["query_id"]) in kept
    ]
    wanted = None if queries_max is None else {label["product_id"] for label in labels}
    source = {
        "product_id": "product_id",
        "title": "product_title",
        "description": "product_description",
        "bullet_points": "product_bullet_point",
        "brand": "product_brand",
        "color": "product_color",
    }
    schema = pa.schema([(name, _TEXT) for name in source])
    part = folder / "products.parquet.part"
    with (
        pq.ParquetFile(originals / "shopping_queries_dataset_products.parquet") as file,
        pq.ParquetWriter(part, schema, compression="zstd") as writer,
    ):
        for batch in file.iter_batches(columns=[*source.values(), "product_locale"]):
            rows = [
                {name: row[column] for name, column in source.items()}
                for row in batch.to_pylist()
                if row["product_locale"] == "us"
                and (row["product_title"] or "").strip()
                and (wanted is None or row["product_id"] in wanted)
            ]
            if rows:
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
    part.replace(folder / "products.parquet")
    queries = [{"query_id": q, "query": texts[q], "split": splits[q]} for q in texts if q in kept]
    _write(folder / "queries.parquet", queries, _QUERIES)
    _write(folder / "labels.parquet", labels, _LABELS)


def _tab_rows(path: Path) -> Iterator[dict[str, str]]:
    csv.field_size_limit(BLOCK_BYTES * 16)
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t")


def _check_rows(path: Path, rows: int) -> None:
    """Stands in for a digest that the project does not declare."""
    if rows and (found := sum(1 for _ in _tab_rows(path))) != rows:
        raise ValueError(f"{path.name} has {found:,} rows, not {rows:,}")


def _convert_wands(originals: Path, folder: Path, queries_max: int | None) -> None:
    texts: dict[str, str] = {}
    splits: dict[str, str] = {}
    for row in _tab_rows(originals / "query.csv"):
        texts[row["query_id"]] = row["query"]
        splits[row["query_id"]] = _split_of(row["query_id"], "train")
    kept = _choose(splits, queries_max)
    labels = [
        {
            "query_id": row["query_id"],
            "product_id": row["product_id"],
            "label": row["label"],
            "gain": LABEL_GAINS[row["label"]],
            "split": splits[row["query_id"]],
        }
        for row in _tab_rows(originals / "label.csv")
        if row["query_id"] in kept
    ]
    wanted = None if queries_max is None else {label["product_id"] for label in labels}
    products = [
        row for row in _tab_rows(originals / "product.csv") if wanted is None or row["product_id"] in wanted
    ]
    names = list(products[0]) if products else []
    _write(folder / "products.parquet", products, pa.schema([(name, _TEXT) for name in names]))
    queries = [{"query_id": q, "query": texts[q], "split": splits[q]} for q in texts if q in kept]
    _write(folder / "queries.parquet", queries, _QUERIES)
    _write(folder / "labels.parquet", labels, _LABELS)


_CONVERTERS: Mapping[str, Callable[[Path, Path, int | None], None]] = {
    "esci": _convert_esci,
    "wands": _convert_wands,
}
