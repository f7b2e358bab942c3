"""Events as rows, for tests that need a few."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from muster.insight.events import Events
from muster.insight.reading import Mapped, Reader

AT_US = 1_790_600_000_000_000


def row(kind: str = "click", person: int = 0, **values: Any) -> dict[str, Any]:
    """One event; what is not said is as in an ordinary one."""
    return {"kind": kind, "shopper": f"s{person}", "session": f"v{person}", "at_unix_us": AT_US, **values}


def events(rows: list[dict[str, Any]], mapped: Mapped | None = None) -> Events:
    """Read as a file with those rows would be."""
    reader = Reader(mapped)
    names = list(dict.fromkeys(name for one in rows for name in one))
    columns = {name: [one.get(name) for one in rows] for name in names}
    reader.batches([pa.RecordBatch.from_pydict(columns)], "rows")
    return reader.events()
