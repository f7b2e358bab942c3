"""From events to all tables, and to what they are written as."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from muster.insight import answers, cohorts, funnel, queries, rates, segments, trend
from muster.insight.cleaning import REASONS, Bounds, LeftOut, cleaned
from muster.insight.errors import InsightError
from muster.insight.events import DAY_US, Events, with_sessions
from muster.insight.hiding import Table
from muster.privacy.counts import LEAST, suppressed


@dataclass(frozen=True)
class Choice:
    """least: people that a group needs to be shown. by_chance: experiments that drew the tier. texts: words
    of products by identifier. seed: of all that is drawn.
    """

    least: int = LEAST
    by_chance: Collection[str] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    bounds: Bounds = field(default_factory=Bounds)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.least < LEAST:
            raise InsightError(
                f"fewer than {LEAST} people may not be shown as a group: --least {LEAST} or more"
            )


@dataclass(frozen=True)
class Insight:
    """What was found. events, people: after what was left out. first_day, last_day: in UTC."""

    events: int
    people: int
    first_day: str
    last_day: str
    least: int
    simulated: bool
    left_out: LeftOut
    tables: list[Table]

    def table(self, name: str) -> Table:
        """One table by its name."""
        return next(table for table in self.tables if table.name == name)

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "tables": {table.name: asdict(table) for table in self.tables}}


def analyse(
    events: Events, problems: Mapping[str, int], choice: Choice, now_us: int, *, simulated: bool = False
) -> Insight:
    """All tables. problems: rows that were left out while reading, by reason. now_us: the time here.

    Raises: InsightError if nothing is left to be looked at.
    """
    kept, left = cleaned(events, choice.bounds, now_us)
    left.events = {
        name: count for name in REASONS if (count := problems.get(name, 0) + left.events.get(name, 0))
    }
    left.floods = suppressed({"floods": left.floods or 0}, least=choice.least)["floods"]
    if not len(kept):
        told = ", ".join(f"{count:,} {REASONS[name]}" for name, count in left.events.items())
        raise InsightError(f"no event is left: {told}")
    kept = with_sessions(kept)
    if kept.people() < choice.least:
        raise InsightError(
            f"the events are of {kept.people()} people: with fewer than {choice.least} nothing can be shown"
        )
    found = answers.answers(kept)
    shown, known_by = answers.shown_products(kept)
    least, names = choice.least, kept.names
    tables = [
        funnel.funnel(kept, least),
        funnel.per_session(kept, least, choice.seed),
        *rates.by_position(shown, known_by, least),
        *rates.by_tier(found, names, least),
        rates.lift(found, names, choice.by_chance, least),
        *queries.queries(found, names, least),
        segments.segments(kept, choice.texts, least, choice.seed),
        *cohorts.cohorts(kept, least),
        *trend.trend(kept, least),
    ]
    first, last = (str(np.datetime64(int(at) // DAY_US, "D")) for at in (kept.at_us.min(), kept.at_us.max()))
    return Insight(len(kept), kept.people(), first, last, least, simulated, left, tables)


def write_parquet(insight: Insight, folder: Path) -> list[Path]:
    """One file for each table that has rows. Raises: OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for table in insight.tables:
        if table.rows:
            path = folder / f"{table.name}.parquet"
            half = path.with_name(path.name + ".part")
            pq.write_table(pa.Table.from_pylist(table.rows), half, compression="zstd")
            half.replace(path)
            written.append(path)
    return written
