"""Clicks and purchases by position and by tier, and what one tier gains over another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from muster.insight.answers import Answers, Shown
from muster.insight.events import HOUR_US, Ints, Mask, Names
from muster.insight.hiding import Table, shown
from muster.insight.intervals import difference, share

# From cheap to dear; other names follow in the order of the alphabet.
TIER_ORDER = ("lexical", "hybrid", "late", "cross_small", "cross_large")
OUTCOMES = ("clicked", "bought")
_STRATUM_LEAST = 20

PLAIN, STRATIFIED, BY_CHANCE = "plain", "same hour and priority", "tier by chance"
NOT_CAUSAL = (
    "A tier follows load, deadline and priority, and these follow the hour and the shopper: the plain"
    " difference is not what the tier does. Comparing within the same hour and priority takes away what those"
    " two explain, and no more. Only where an experiment drew the tier does the difference say what it does."
)


def by_position(products: Shown | None, known_by: str, least: int) -> list[Table]:
    """The share of products shown at each position that were clicked, and bought."""
    tables = []
    for outcome, title in (("clicked", "Clicks by position"), ("bought", "Purchases by position")):
        about = (
            f"Share of products shown at a position that were {outcome}; shown is what {known_by} tell of."
        )
        if products is None:
            tables.append(
                Table(f"{outcome}_by_position", title, "", [], "The data hold neither views nor answers.")
            )
            continue
        hits = getattr(products, outcome)
        rows = _rows(
            hits, products.actor, products.position, np.unique(products.position), int, "position", least
        )
        note = "A position is looked at the less the further down it is: a low rate is not a bad product."
        tables.append(Table(f"{outcome}_by_position", title, about, rows, note))
    return tables


def by_tier(found: Answers | None, names: Names, least: int) -> list[Table]:
    """The share of answers of each tier with a click, and with a purchase."""
    tables = []
    for outcome, title in (("clicked", "Clicks by tier"), ("bought", "Purchases by tier")):
        name = f"{outcome}_by_tier"
        if found is None or not (found.tier >= 0).any():
            tables.append(Table(name, title, "", [], _NO_TIER))
            continue
        good = found.with_products & (found.tier >= 0)
        hits = getattr(found, outcome)[good]
        rows = _rows(
            hits,
            found.actor[good],
            found.tier[good],
            np.array(_order(names)),
            names.tiers.__getitem__,
            "tier",
            least,
        )
        about = f"Share of answers with products of which something was {outcome}."
        tables.append(Table(name, title, about, rows))
    return tables


_NO_TIER = (
    "The data do not say which tier gave an answer: the service keeps no receipts. Write a line for each"
    " answer (docs/insight.md) to see this."
)


def lift(found: Answers | None, names: Names, drawn: Collection[str], least: int) -> Table:
    """What each tier gains over the cheapest: plain, within hours and priorities, and where it was drawn.

    drawn: experiments by which the tier was drawn.
    """
    title, about = (
        "Lift of tiers",
        "Difference of the share of answers with a click or a purchase, to the cheapest tier.",
    )
    if found is None or len(np.unique(found.tier[found.tier >= 0])) < 2:
        why = "There is one tier only." if found is not None and (found.tier >= 0).any() else _NO_TIER
        return Table("lift", title, about, [], why, "points")
    order = [tier for tier in _order(names) if (found.tier == tier).any()]
    hour = found.at_us // HOUR_US % 24
    strata = hour * (len(names.priorities) + 1) + found.priority + 1
    by_chance = np.isin(
        found.experiment, [names.experiments.index(one) for one in drawn if one in names.experiments]
    )
    rows: list[dict[str, Any]] = []
    for tier in order[1:]:
        pair = found.with_products & np.isin(found.tier, (order[0], tier))
        for outcome in OUTCOMES:
            for how, within, groups in (
                (PLAIN, pair, np.zeros_like(strata)),
                (STRATIFIED, pair, strata),
                (BY_CHANCE, pair & by_chance, found.experiment),
            ):
                row = _lift(getattr(found, outcome), found.actor, found.tier == tier, within, groups, least)
                if row is not None:
                    rows.append({"tier": names.tiers[tier], "over": names.tiers[order[0]], "outcome": outcome,
                                 "compared": how, **row})  # fmt: skip
    return Table("lift", title, about, rows, NOT_CAUSAL, "points")


def _lift(
    hits: Mask, actors: Ints, treated: Mask, within: Mask, strata: Ints, least: int
) -> dict[str, Any] | None:
    hits, actors, treated = hits[within], actors[within], treated[within]
    if not len(hits):
        return None
    found = difference(hits, actors, treated, strata[within], _STRATUM_LEAST)
    few = [
        len(np.unique(actors[side & which])) for side in (treated, ~treated) for which in (hits, hits | True)
    ]
    if found is None:
        return None
    hidden = min(few) < least
    value, low, high, used = found
    figures = {"value": value, "low": low, "high": high, "of": used, "people": len(np.unique(actors))}
    return {**(dict.fromkeys(figures, None) if hidden else figures), "hidden": hidden}


def _rows(
    hits: Mask,
    actors: Ints,
    groups: Ints,
    order: Ints | Sequence[int],
    name: Callable[[int], Any],
    column: str,
    least: int,
) -> list[dict[str, Any]]:
    rows = []
    for group in order:
        here = groups == group
        estimate = share(hits[here], actors[here])
        if estimate is not None:
            rows.append(estimate.row(**{column: name(int(group))}))
    return shown(rows, least)


def _order(names: Names) -> list[int]:
    def rank(tier: str) -> tuple[int, str]:
        return (TIER_ORDER.index(tier) if tier in TIER_ORDER else len(TIER_ORDER), tier)

    return sorted(range(len(names.tiers)), key=lambda at: rank(names.tiers[at]))
