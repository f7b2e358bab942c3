"""Product files as a stream of products: Parquet, CSV, JSONL and BEIR corpora.

Files are read piece by piece, so their size does not matter; what is kept is one number for each product
identifier, to find duplicates. The first fault stops the reading with a `ProductFileError` that names file,
row, column and remedy; who passes `refuse` is told of rows at fault instead, and gets all others.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from muster.products.columns import ColumnMap, RowConverter, RowValueError, choose_map, load_map
from muster.products.errors import ProductFileError
from muster.v1 import catalogue_pb2

BATCH_ROWS = 2_048
LINE_BYTES_MAX = 16 * 1024 * 1024

_PARQUET = (".parquet", ".pq")
_CSV = (".csv", ".tsv")
_JSONL = (".jsonl", ".ndjson")
# Names the columns of a file once they are known, and hears which of them to read.
_Bind = Callable[[list[str]], Sequence[str]]
# Hears of a row at fault; what it does not raise is passed over.
Refuse = Callable[[ProductFileError], None]
_FOLDER_FILES = ("products.parquet", "products.jsonl", "products.csv", "corpus.jsonl", "product.csv")


def read_products(
    path: str | Path,
    mapping: ColumnMap | str | Path | None = None,
    *,
    where: Mapping[str, str] | None = None,
    refuse: Refuse | None = None,
) -> Iterator[catalogue_pb2.Product]:
    """Read the products of a file, in file order.

    path: a Parquet, CSV, TSV or JSONL file, or a folder that holds one called products.* or a BEIR
    corpus.jsonl.
    mapping: a column map, the name of a built-in one, or the path of a TOML file. None: recognised by the
    columns.
    where: column to value; rows that have another value there are passed over, and count for nothing.
    refuse: told of each row at fault, which is then left out, as is a second row of a product; None: the
    first fault ends the reading. What is wrong with the file as a whole ends it in any case.
    Raises: ProductFileError at the first fault; ColumnMapError. Nothing is read before the first product is
    asked for.
    """
    return (product for _, product in numbered_products(path, mapping, where=where, refuse=refuse))


def numbered_products(
    path: str | Path,
    mapping: ColumnMap | str | Path | None = None,
    *,
    where: Mapping[str, str] | None = None,
    refuse: Refuse | None = None,
) -> Iterator[tuple[int, catalogue_pb2.Product]]:
    """As `read_products`, each product with the number of its row, from 1."""
    path = product_file(path)
    column_map = load_map(mapping) if isinstance(mapping, str | Path) else mapping
    tell = refuse or _raised
    return _unique(path, _products(path, column_map, where or {}, tell), where or {}, tell)


def read_rows(
    path: str | Path,
    needed: Sequence[str],
    optional: Sequence[str] = (),
    *,
    where: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read columns of a Parquet, CSV, TSV or JSONL file (.json counts as JSONL) as they stand.

    needed, optional: columns; a file without one of `needed` is refused. In a JSONL file a row may leave
    values out, and the first row tells the columns. where: as in `read_products`.
    Returns: pairs of the row's number, from 1, and column to value; a column that the file lacks is left out.
    Raises: ProductFileError at the first fault.
    """
    path = _known_file(Path(path), (*_PARQUET, *_CSV, *_JSONL, ".json"))
    wanted = where or {}

    def bind(columns: list[str]) -> Sequence[str]:
        _need(path, (*needed, *wanted), columns)
        return [name for name in dict.fromkeys((*needed, *optional, *wanted)) if name in columns]

    for row, values in _rows(path, bind, None, _raised):
        if _meets(values, wanted):
            yield row, {name: values[name] for name in (*needed, *optional) if name in values}


def product_file(path: str | Path) -> Path:
    """The file to read for a path that may name a folder.

    Raises: ProductFileError if there is none, or its kind is unknown.
    """
    path = Path(path)
    if path.is_dir():
        for name in _FOLDER_FILES:
            if (path / name).is_file():
                return path / name
        raise ProductFileError(
            path, f"the folder holds none of {', '.join(_FOLDER_FILES)}", "Name the product file itself"
        )
    return _known_file(path, _PARQUET + _CSV + _JSONL)


def rows_expected(path: str | Path) -> int | None:
    """About how many products the file holds, for a progress bar; None where only reading would tell."""
    path = product_file(path)
    if path.suffix.lower() in _PARQUET:
        try:
            return int(pq.read_metadata(path).num_rows)
        except (pa.ArrowException, OSError):
            return None
    if path.suffix.lower() in _JSONL:
        with path.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    return None


def _known_file(path: Path, suffixes: Collection[str]) -> Path:
    if not path.is_file():
        raise ProductFileError(path, "there is no such file", "Check the path")
    if path.suffix.lower() not in suffixes:
        raise ProductFileError(
            path,
            f"unknown kind of file {path.suffix or '(no suffix)'!r}",
            "Use .parquet, .csv, .tsv or .jsonl",
        )
    return path


def _raised(problem: ProductFileError) -> None:
    raise problem


def _rows(
    path: Path, bind: _Bind, delimiter: str | None, refuse: Refuse
) -> Iterator[tuple[int, dict[str, Any]]]:
    suffix = path.suffix.lower()
    if suffix in _PARQUET:
        return _parquet(path, bind, refuse)
    if suffix in _CSV:
        return _csv(path, bind, delimiter, refuse)
    return _jsonl(path, bind, refuse)


def _need(path: Path, needed: Sequence[str], columns: Collection[str]) -> None:
    for column in needed:
        if column not in columns:
            present = ", ".join(sorted(columns)[:20]) or "none"
            raise ProductFileError(
                path, "the file has no such column", f"Add it (the file has: {present})", column=column
            )


def _meets(values: Mapping[str, Any], where: Mapping[str, str]) -> bool:
    return all(str(values.get(column)) == wanted for column, wanted in where.items())


def _products(
    path: Path, column_map: ColumnMap | None, where: Mapping[str, str], refuse: Refuse
) -> Iterator[tuple[int, str | None, catalogue_pb2.Product]]:
    bound: list[tuple[RowConverter, str | None]] = []

    def bind(columns: list[str]) -> Sequence[str]:
        bound.append(_bind(path, column_map, columns))
        _need(path, tuple(where), columns)
        return list(dict.fromkeys((*bound[0][0].columns, *where)))

    for row, values in _rows(path, bind, column_map.delimiter if column_map is not None else None, refuse):
        if _meets(values, where):
            converter, id_column = bound[0]
            try:
                product = _convert(path, converter, row, values)
            except ProductFileError as problem:
                refuse(problem)
            else:
                yield row, id_column, product


def _unique(
    path: Path,
    rows: Iterator[tuple[int, str | None, catalogue_pb2.Product]],
    where: Mapping[str, str],
    refuse: Refuse,
) -> Iterator[tuple[int, catalogue_pb2.Product]]:
    first_row: dict[str, int] = {}
    for row, column, product in rows:
        earlier = first_row.setdefault(product.product_id, row)
        if earlier != row:
            refuse(
                ProductFileError(
                    path,
                    f"the product identifier {product.product_id!r} was already used in row {earlier}",
                    "Keep one row for each product",
                    row=row,
                    column=column,
                )
            )
        else:
            yield row, product
    if not first_row:
        condition = " and ".join(f"{column} {value!r}" for column, value in where.items())
        raise ProductFileError(
            path,
            "the file holds no products" + (f" with {condition}" if condition else ""),
            "Name a value that occurs" if condition else "Check that it was written to its end",
        )


def _bind(path: Path, column_map: ColumnMap | None, columns: list[str]) -> tuple[RowConverter, str | None]:
    chosen = column_map or choose_map(columns)
    try:
        return chosen.resolve(columns), chosen.fields["product_id"].column
    except RowValueError as problem:
        raise ProductFileError(path, problem.problem, problem.action, column=problem.column) from problem


def _convert(
    path: Path, converter: RowConverter, row: int, values: Mapping[str, Any]
) -> catalogue_pb2.Product:
    try:
        return converter.product(values)
    except RowValueError as problem:
        raise ProductFileError(
            path, problem.problem, problem.action, row=row, column=problem.column
        ) from problem


def _unreadable(path: Path, error: OSError) -> ProductFileError:
    return ProductFileError(
        path, f"the file cannot be read ({error.strerror or error})", "Check the path and its permissions"
    )


# -- Parquet ----------------------------------------------------------


def _parquet(path: Path, bind: _Bind, refuse: Refuse) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, PermissionError):
            raise _unreadable(path, error) from error
        raise ProductFileError(
            path,
            f"not a complete Parquet file ({_first_line(error)})",
            "It looks damaged or half-written: write or copy it again",
        ) from error
    with file:
        columns = list(bind(list(file.schema_arrow.names)))
        row = 0
        batches = file.iter_batches(batch_size=BATCH_ROWS, columns=columns)
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise ProductFileError(
                    path,
                    f"the file is damaged after this row ({_first_line(error)})",
                    "It looks damaged or half-written: write or copy it again",
                    row=row,
                ) from error
            if batch is None:
                return
            try:
                rows: list[dict[str, Any] | None] = batch.to_pylist()
            except UnicodeDecodeError:
                rows = [_parquet_row(path, batch, index, row, refuse) for index in range(batch.num_rows)]
            for values in rows:
                row += 1
                if values is not None:
                    yield row, values


def _parquet_row(
    path: Path, batch: pa.RecordBatch, index: int, rows_before: int, refuse: Refuse
) -> dict[str, Any] | None:
    values: dict[str, Any] = {}
    for name in batch.schema.names:
        try:
            values[name] = batch.column(name)[index].as_py()
        except UnicodeDecodeError as error:
            refuse(
                ProductFileError(
                    path,
                    f"broken UTF-8 at byte {error.start} of the value",
                    "Write the text of this row as UTF-8",
                    row=rows_before + index + 1,
                    column=name,
                )
            )
            return None
    return values


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:160] or type(error).__name__


# -- CSV ----------------------------------------------------------


def _decoded_lines(path: Path, file: IO[bytes], progress: list[int], refuse: Refuse) -> Iterator[str]:
    """Lines as text; `progress[0]` counts the rows that the CSV reader has completed, for messages."""
    while raw := file.readline(LINE_BYTES_MAX + 1):
        if len(raw) > LINE_BYTES_MAX:
            raise ProductFileError(
                path,
                f"a line is longer than {LINE_BYTES_MAX // 1024 // 1024} MiB",
                "Check that this is a CSV file",
                row=progress[0] + 1,
            )
        try:
            yield raw.decode("utf-8")
        except UnicodeDecodeError as error:
            before = raw[: error.start].decode("utf-8")
            if refuse is not _raised:
                # Kept as half surrogate pairs, which no text of a product may hold: the row is refused as a
                # whole, by the name of the column.
                yield raw.decode("utf-8", errors="surrogateescape")
                continue
            raise ProductFileError(
                path,
                f"broken UTF-8 at character {len(before) + 1} of the line ({before[-20:]!r} comes before it)",
                "Save the file as UTF-8",
                row=progress[0] + 1,
            ) from error


def _csv(
    path: Path, bind: _Bind, delimiter: str | None, refuse: Refuse
) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(LINE_BYTES_MAX)
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    with file:
        progress = [-1]  # the header is row 0
        if delimiter is None:
            head = file.readline(LINE_BYTES_MAX)
            file.seek(0)
            tabs = path.suffix.lower() == ".tsv" or (b"\t" in head and b"," not in head)
            delimiter = "\t" if tabs else ","
        reader = csv.reader(_decoded_lines(path, file, progress, refuse), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            try:
                fields = next(reader, None)
            except csv.Error as error:
                problem = ProductFileError(
                    path,
                    f"not valid CSV ({error})",
                    "A quote is open or misplaced: the file may be half-written, or quotes are not doubled",
                    row=progress[0] + 1,
                )
                if header is None:
                    raise problem from error
                refuse(problem)
                progress[0] += 1
                continue
            if fields is None:
                break
            if header is None:
                header = [name.removeprefix("\ufeff").strip() for name in fields]
                repeated = {name for name in header if header.count(name) > 1}
                if repeated:
                    raise ProductFileError(
                        path, "two columns have this name", "Rename one of them", column=min(repeated)
                    )
                progress[0] = 0
                bind(header)
                continue
            if not fields:
                continue
            progress[0] += 1
            row = progress[0]
            if len(fields) != len(header):
                refuse(
                    ProductFileError(
                        path,
                        f"the row has {len(fields)} fields, the header has {len(header)}",
                        "The file may be half-written, or a delimiter stands unquoted inside a value",
                        row=row,
                    )
                )
                continue
            yield row, dict(zip(header, fields, strict=True))
        if header is None:
            raise ProductFileError(path, "the file is empty", "Check that it was written to its end")


# -- JSONL ----------------------------------------------------------


def _jsonl(path: Path, bind: _Bind, refuse: Refuse) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error
    with file:
        bound = False
        row = 0
        while raw := file.readline(LINE_BYTES_MAX + 1):
            row += 1
            if len(raw) > LINE_BYTES_MAX:
                raise ProductFileError(
                    path,
                    f"the line is longer than {LINE_BYTES_MAX // 1024 // 1024} MiB",
                    "Write one JSON object a line",
                    row=row,
                )
            try:
                values = _json_row(path, raw, row)
            except ProductFileError as problem:
                refuse(problem)
                continue
            if values is None:
                continue
            if not bound:
                bind(list(values))
                bound = True
            yield row, values


def _json_row(path: Path, raw: bytes, row: int) -> dict[str, Any] | None:
    try:
        text = raw.decode("utf-8-sig" if row == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise ProductFileError(
            path, f"broken UTF-8 at byte {error.start + 1} of the line", "Save the file as UTF-8", row=row
        ) from error
    if not text.strip():
        return None
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        torn = not raw.endswith(b"\n")
        raise ProductFileError(
            path,
            f"not valid JSON at character {error.pos + 1} ({error.msg})",
            "The file ends inside this row, so it is half-written: write or copy it again"
            if torn
            else "Write one JSON object a line",
            row=row,
        ) from error
    except (ValueError, RecursionError) as error:
        raise ProductFileError(
            path, f"the JSON is not usable ({_first_line(error)})", "Write a flat JSON object", row=row
        ) from error
    if not isinstance(values, dict):
        raise ProductFileError(path, "the line is not a JSON object", "Write one JSON object a line", row=row)
    return values
