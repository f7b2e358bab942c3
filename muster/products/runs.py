"""Orders of products as TREC run files hold them: `query Q0 product rank score name`, one product a line."""

from __future__ import annotations

import math
from pathlib import Path

from muster.products.errors import ProductFileError


def read_run(path: str | Path) -> dict[str, list[str]]:
    """Query to product ids, best first: by falling score, ties by product id, as tools for run files do.

    Raises: ProductFileError naming the line.
    """
    file = Path(path)
    scores: dict[str, dict[str, float]] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ProductFileError(file, f"it cannot be read: {error}", "Name a TREC run file") from error
    for number, line in enumerate(lines, start=1):
        try:
            query, _, product, _, score, _ = line.split()
            value = float(score)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ProductFileError(
                file, f"line {number}: is no line of a TREC run", "Write: query Q0 product rank score name"
            )
        scores.setdefault(query, {})[product] = value
    return {
        query: sorted(products, key=lambda product: (-products[product], product))
        for query, products in scores.items()
    }
