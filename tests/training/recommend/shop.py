"""A small shop whose shoppers follow planted steps, written as files of behaviour.

Items come in pairs of kinds: whoever takes `cN` takes `pN` next, a part that fits it, whose title shares
words with it. A few bestsellers, which follow from nothing, are what popularity would name. `new*` items
nobody takes before the test; their titles say what they fit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PAIRS = 12
BESTSELLERS = 4
SHOPPERS = 160
_WORDS = [
    "amber",
    "birch",
    "cedar",
    "dune",
    "ember",
    "fjord",
    "grove",
    "heath",
    "islet",
    "juniper",
    "kelp",
    "larch",
    "maple",
    "north",
    "olive",
    "pine",
    "quartz",
    "reed",
    "slate",
    "thorn",
    "umber",
    "vale",
    "willow",
    "yarrow",
]


def write_sequences(folder: Path, *, seed: int = 1, shoppers: int = SHOPPERS) -> Path:
    """`shop_sequences.parquet` and what lies beside it: attributes that pairs share. Returns: the file."""
    chooser = np.random.default_rng(seed)
    rows = []
    for number in range(shoppers):
        items: list[str] = []
        for pair in chooser.permutation(PAIRS)[:3]:
            items += [f"c{pair}", f"p{pair}"]
        items.insert(int(chooser.integers(0, 4)), f"best{chooser.integers(BESTSELLERS)}")
        rows.append({"user_id": f"u{number}", "items": items})
    path = folder / "shop_sequences.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    attributes = [
        {"item_id": f"{kind}{n}", "attributes": [f"line{n}", kind]} for n in range(PAIRS) for kind in "cp"
    ]
    pq.write_table(pa.Table.from_pylist(attributes), folder / "shop_item_attributes.parquet")
    return path


def write_windows(folder: Path, *, seed: int = 2, shoppers: int = SHOPPERS) -> Path:
    """`shop_windows.parquet` with item texts: half of the test's targets are new items. Returns: the file."""
    chooser = np.random.default_rng(seed)
    rows = []
    for number in range(shoppers):
        split = "test" if number % 4 == 0 else "dev"
        pair, other = chooser.permutation(PAIRS)[:2]
        fresh = split == "test" and number % 8 == 0
        rows.append(
            {
                "user_id": f"u{number}",
                "history": [f"c{other}", f"p{other}", f"c{pair}"],
                "target_item_id": f"new{pair}" if fresh else f"p{pair}",
                "split": split,
            }
        )
    path = folder / "shop_windows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    items = []
    for n in range(PAIRS):
        words = f"{_WORDS[2 * n]} {_WORDS[2 * n + 1]}"
        items += [
            {"item_id": f"c{n}", "title": f"{words} camera", "brand": "Acme", "description": ""},
            {"item_id": f"p{n}", "title": f"{words} lens cap", "brand": "Acme", "description": ""},
            {"item_id": f"new{n}", "title": f"{words} camera strap", "brand": "", "description": ""},
        ]
    pq.write_table(pa.Table.from_pylist(items), folder / "shop_items.parquet")
    return path
