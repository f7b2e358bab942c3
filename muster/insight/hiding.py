"""Tables, and the rows in them that are about too few people to be shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from muster.privacy.counts import suppressed

FIGURES = ("value", "low", "high", "count", "of", "people")


@dataclass(frozen=True)
class Table:
    """Rows of one kind. name: in JSON and as a file; about: what the figures are of. note: what to beware of,
    or why there is nothing. unit: "share", "points" (of a difference of shares) or "".
    """

    name: str
    title: str
    about: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""
    unit: str = "share"


def shown(rows: Sequence[dict[str, Any]], least: int) -> list[dict[str, Any]]:
    """The rows of groups that together are a whole, with figures of too few people replaced by None.

    Hidden are rows of fewer than `least` people, and those whose count is of 1 to least - 1 people; where
    that is one row alone, the next smallest too, so that the total does not tell it.
    """
    kept: set[int] = set(range(len(rows)))
    for column in ("people", "counted_people"):
        counts = {str(at): int(row[column]) for at, row in enumerate(rows) if column in row}
        visible = suppressed(counts, least=least)
        kept -= {int(name) for name, value in visible.items() if value is None}
    kept -= {at for at, row in enumerate(rows) if row.get("people") == 0}
    found = []
    for at, row in enumerate(rows):
        values = {name: value for name, value in row.items() if name != "counted_people"}
        if at not in kept:
            values |= dict.fromkeys((name for name in FIGURES if name in values), None)
        found.append({**values, "hidden": at not in kept})
    return found
