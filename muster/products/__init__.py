"""Product files: column maps, readers, judged queries, a synthetic catalogue and public data sets.

The names below are loaded when they are first asked for: a server needs only ``limits``, and should not
carry the readers of Parquet files (60 MB) for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muster.products.columns import ColumnMap, builtin_maps, choose_map, load_map
    from muster.products.errors import ColumnMapError, DownloadError, ProductError, ProductFileError
    from muster.products.judgements import Judgements, gain_of, read_judgements
    from muster.products.readers import product_file, read_products, read_rows, rows_expected

__all__ = [
    "ColumnMap",
    "ColumnMapError",
    "DownloadError",
    "Judgements",
    "ProductError",
    "ProductFileError",
    "builtin_maps",
    "choose_map",
    "gain_of",
    "load_map",
    "product_file",
    "read_judgements",
    "read_products",
    "read_rows",
    "rows_expected",
]

_HOMES = {
    "columns": ("ColumnMap", "builtin_maps", "choose_map", "load_map"),
    "errors": ("ColumnMapError", "DownloadError", "ProductError", "ProductFileError"),
    "judgements": ("Judgements", "gain_of", "read_judgements"),
    "readers": ("product_file", "read_products", "read_rows", "rows_expected"),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"muster.products.{home}"), name)
    raise AttributeError(f"module 'muster.products' has no attribute {name!r}")
