"""What clicks say of relevance: a gain for each (query, product), as training reads judgements."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.clicks.impressions import ClicksRefused, Floats, Impressions

CLIP = 0.05
STEPS = 20
_TOP = 0.99


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


def graded(shown: Impressions, gain: Floats, steps: int = STEPS) -> Floats:
    """Gains as a recipe can name them: float64 [pairs], 0 to 1 in `steps` equal steps.

    They are told as shares of a high gain, that of the first in a hundred impressions: nDCG and what is
    learnt of the order do not change by a common factor, and chances of a click are small. Raises:
    ClicksRefused.
    """
    if not 2 <= steps <= 100:
        raise ClicksRefused("the steps of the gains must be from 2 to 100")
    pair, _ = shown.pairs()
    top = float(np.quantile(gain[pair], _TOP)) or float(gain.max(initial=0.0)) or 1.0
    return np.asarray(np.round(np.round(np.minimum(gain / top, 1.0) * steps) / steps, 6))


def targets_of(gain: Floats) -> dict[str, float]:
    """What a recipe must say in `targets` of these gains: as in the file, to what a cross-encoder should
    say.
    """
    return {str(float(one)): float(one) for one in np.unique(np.append(gain, 0.0))}


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
            "gain": gain,
        }
    )
    pa.parquet.write_table(table, str(path))
    return int(table.num_rows)
