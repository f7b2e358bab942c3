"""What clicks say of relevance: a gain for each (query, product), as training reads judgements."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.clicks.impressions import ClicksRefused, Floats, Impressions

CLIP = 0.05
DECIMALS = 3
"""Of the gains that are written: measures need gains that are whole numbers of some unit."""


def gains(shown: Impressions, examined: Floats | None, *, clip: float = CLIP) -> Floats:
    """Probability that each (query, product), in the order of `shown.pairs()`, is clicked once looked at.

    Returns: float64 [pairs], 0 to 1.

    examined: by position, float64 [places]; None leaves position bias in (naive clicks). clip: least mean
    examination that is divided by. Sources: Joachims et al. 2017, arXiv:1608.04468; Oosterhuis & de Rijke
    2020, "Policy-aware unbiased learning to rank", arXiv:2005.09035 (the mean examination in place of each).
    Raises: ClicksRefused.
    """
    if not 0 < clip <= 1:
        raise ClicksRefused("the clip must be above 0, up to 1")
    pair, pairs = shown.pairs()
    count = np.bincount(pair, minlength=pairs)
    clicks = np.bincount(pair, shown.clicked, pairs)
    if examined is None:
        return np.asarray(clicks / count)
    if len(examined) < shown.places:
        raise ClicksRefused("an examination for each position is needed")
    looks = np.bincount(pair, examined[shown.position - 1], pairs)
    safe = np.maximum(looks, clip * count)
    return np.asarray(np.clip(clicks / safe, 0, 1))


def write_judgements(path: Path, shown: Impressions, gain: Floats) -> int:
    """Writes `labels.parquet` as training reads it: query_id, product_id, gain. Returns: rows."""
    import pyarrow as pa
    import pyarrow.parquet

    pair, _ = shown.pairs()
    _, first = np.unique(pair, return_index=True)
    table = pa.table(
        {
            "query_id": [shown.query_names[at] for at in shown.query[first]],
            "product_id": [shown.product_names[at] for at in shown.product[first]],
            "gain": np.round(gain, DECIMALS),
        }
    )
    pa.parquet.write_table(table, str(path))
    return int(table.num_rows)
