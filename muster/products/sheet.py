"""A table as a CSV file that people fill in: safe to open in a spreadsheet, and read back exactly.

A cell that a spreadsheet would take for a formula (it starts with =, +, -, @, a tab or a carriage return) is
written with an apostrophe before it, and so is one that starts with an apostrophe; reading takes it away.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from muster.products.errors import ProductFileError

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")


def safe(text: str) -> str:
    """A cell that no spreadsheet runs."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def plain(cell: str) -> str:
    """What was written by `safe`."""
    return cell[1:] if cell.startswith("'") else cell


def write_sheet(
    path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]], *, private: bool = False
) -> None:
    """Write rows under their columns; moved into place last, so a kill leaves the older file intact.

    private: for its owner alone.
    Raises: ProductFileError where the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([safe(row[column]) for column in columns])
    part = path.with_name(path.name + ".part")
    try:
        part.unlink(missing_ok=True)
        with open(part, "wb", opener=_for_owner if private else None) as file:
            # Spreadsheets take a file without this mark for one in their own encoding.
            file.write(b"\xef\xbb\xbf" + text.getvalue().encode())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ProductFileError(
            path, f"it cannot be written ({error.strerror})", "Choose another file"
        ) from error


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def read_sheet(path: Path, needed: Sequence[str]) -> tuple[list[str], list[dict[str, str]]]:
    """Read what `write_sheet` wrote, perhaps after a spreadsheet saved it. Returns: columns, rows.

    Raises: ProductFileError naming row and column; it is an error if a column is missing or comes twice, or a
    row has too few or too many cells.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ProductFileError(
            path,
            f"it cannot be read ({error.strerror})",
            "Name the CSV file of `muster label suggest`, or of `muster feedback queue`",
        ) from error
    except UnicodeDecodeError as error:
        raise ProductFileError(
            path, f"it is not UTF-8 at byte {error.start}", 'Save it as "CSV UTF-8"'
        ) from error
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[dict[str, str]] = []
    columns: list[str] = []
    number = 0
    try:
        columns = next(lines, [])
        for column in needed:
            if columns.count(column) != 1:
                fault = "comes more than once" if column in columns else "is missing"
                raise ProductFileError(
                    path, f"the column {fault}", f"The first row must name {', '.join(needed)}", column=column
                )
        for cells in lines:
            if not cells:
                continue
            number += 1
            if len(cells) != len(columns):
                # The first column without a cell, or the last one before there are too many.
                at = columns[len(cells)] if len(cells) < len(columns) else columns[-1]
                raise ProductFileError(
                    path,
                    f"the row has {len(cells)} cells, not {len(columns)}",
                    "A comma, quote or line break inside a cell needs the cell in quotes",
                    row=number,
                    column=at,
                )
            rows.append({column: plain(cell) for column, cell in zip(columns, cells, strict=True)})
    except csv.Error as error:
        raise ProductFileError(
            path, f"the row is not CSV ({error})", "Close the quotes that it opens", row=number + 1
        ) from error
    return columns, rows
