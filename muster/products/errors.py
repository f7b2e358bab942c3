"""What can go wrong with product files. Each error says where, what, and what to do next."""

from __future__ import annotations

from pathlib import Path


class ProductError(Exception):
    """Any problem with product files, column maps, judgements or downloads."""


class ColumnMapError(ProductError):
    """A column map cannot be used. The caller should correct the map named in the message."""


class ProductFileError(ProductError):
    """A product or judgement file cannot be read. The caller should correct the file and start again.

    path: the file.
    row: data row counted from 1 (a header is not counted); None when the file as a whole is at fault.
    column: column of the file, where one is to blame.
    problem: what is wrong.
    action: what to do.
    """

    def __init__(
        self, path: Path, problem: str, action: str, *, row: int | None = None, column: str | None = None
    ) -> None:
        self.path = path
        self.row = row
        self.column = column
        self.problem = problem
        self.action = action
        place = str(path)
        if row is not None:
            place += f", row {row}"
        if column is not None:
            place += f", column {column!r}"
        super().__init__(f"{place}: {problem}. {action}")


class DownloadError(ProductError):
    """A public data set could not be fetched or failed its checksum. Nothing half-done is left behind."""
