"""What is asked most, what finds nothing, and what nobody clicks."""

from __future__ import annotations

from typing import Any

import numpy as np

from muster.insight.answers import Answers
from muster.insight.events import Ints, Mask, Names, people_in
from muster.insight.hiding import Table
from muster.insight.intervals import share
from muster.privacy.scrub import scrub

LONGEST = 20


def queries(found: Answers | None, names: Names, least: int) -> list[Table]:
    """Three tables of queries, each with the share over all answers first. A query is named only if at least
    `least` people asked it, and never with personal data in it.
    """
    if found is None:
        why = "The data hold neither answers nor views."
        return [Table(name, title, "", [], why) for name, title, _ in _TABLES]
    known = found.query >= 0
    people = people_in(found.query[known], found.actor[known], len(names.queries))
    counts = np.bincount(found.query[known], minlength=len(names.queries))
    told = found.results >= 0
    nothing, unclicked = found.results == 0, found.with_products & ~found.clicked
    tables = []
    for (name, title, about), hits, of in zip(
        _TABLES,
        (found.clicked, nothing, unclicked),
        (found.with_products, told, found.with_products),
        strict=True,
    ):
        if name == "queries_without_results" and not nothing.any():
            note = "No answer without products is in the data: " + (
                "the service keeps no answers, so the caller has to write them down (docs/insight.md)."
                if not (found.results > 1).any()
                else "every query found something."
            )
            tables.append(Table(name, title, about, [], note))
            continue
        rows = [_overall(hits[of], found.actor[of], least)]
        if name == "queries":
            chosen = np.argsort(-counts, kind="stable")
        else:
            bad = np.bincount(found.query[known & of & hits], minlength=len(names.queries))
            all_of = np.bincount(found.query[known & of], minlength=len(names.queries))
            # Without results, or without clicks: each time it was asked.
            chosen = np.argsort(-np.where((bad == all_of) & (bad > 0), bad, 0), kind="stable")
            chosen = chosen[(bad[chosen] == all_of[chosen]) & (bad[chosen] > 0)]
        chosen = chosen[people[chosen] >= least][:LONGEST]
        rows += _named(chosen, hits, of, found, names, least)
        hidden = int(np.count_nonzero((people > 0) & (people < least)))
        note = f"{hidden:,} queries of fewer than {least} people each are not named." if hidden else ""
        tables.append(Table(name, title, about, rows, note))
    return tables


_TABLES = (
    ("queries", "Most frequent queries", "Share of answers with a click, among those that showed products."),
    ("queries_without_results", "Queries without results", "Share of answers that showed nothing."),
    (
        "queries_without_clicks",
        "Queries without clicks",
        "Share of answers with products of which none was clicked; named are queries that never had one.",
    ),
)


def _overall(hits: Mask, actors: Ints, least: int) -> dict[str, Any]:
    estimate = share(hits, actors)
    assert estimate is not None
    row = estimate.row(query="all queries")
    few = estimate.people < least or 0 < row.pop("counted_people") < least
    if few:
        row |= dict.fromkeys(("value", "low", "high", "count", "of", "people"), None)
    return {**row, "hidden": few}


def _named(
    chosen: Ints, hits: Mask, of: Mask, found: Answers, names: Names, least: int
) -> list[dict[str, Any]]:
    rows = []
    for query in chosen:
        mine = (found.query == query) & of
        estimate = share(hits[mine], found.actor[mine])
        if estimate is None:
            continue
        row = estimate.row(query=scrub(names.queries[query]).text)
        few = 0 < row.pop("counted_people") < least
        if few:
            row |= dict.fromkeys(("value", "low", "high", "count"), None)
        rows.append({**row, "hidden": few})
    return rows
