"""Hides counts of groups that are so small that a count could tell of one person."""

from __future__ import annotations

from collections.abc import Mapping

LEAST = 10
"""People that a group needs to be shown."""


def suppressed(counts: Mapping[str, int], *, least: int = LEAST) -> dict[str, int | None]:
    """The counts with None in place of those from 1 to least - 1.

    Where only one is hidden, and a total is known elsewhere, the difference would give it away: the
    smallest of those shown is then hidden as well. A group without anybody tells of nobody and is shown as
    0. counts: people, not events: one shopper with ten clicks is one. Raises: ValueError for a negative
    count or least below 2.
    """
    if least < 2:
        raise ValueError("a group of one is a person: least must be 2 or more")
    if any(count < 0 for count in counts.values()):
        raise ValueError("a count is below 0")
    shown = {name: count if count == 0 or count >= least else None for name, count in counts.items()}
    hidden = [name for name, count in shown.items() if count is None]
    others = [name for name, count in shown.items() if count]
    if len(hidden) == 1 and others:
        shown[min(others, key=lambda name: (counts[name], name))] = None
    return shown
