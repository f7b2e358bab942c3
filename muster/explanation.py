"""Why a product stands where it does, in words: for the shopper who sees it, and for whoever has to account
for it.

A result that was asked for with `explain` carries what each signal adds to its score (Shapley values of the
ranker's trees, `Signal.contribution` in the contract). Signals that tell of one thing are told together:
their parts add up, as Shapley values may.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# How far the parts may miss the score, as a share of its size: sums of doubles, and nothing else.
TOLERANCE = 1e-6
# Of what moves a product, what is too little to be worth a shopper's word.
_WORTH_TELLING = 0.1


@dataclass(frozen=True)
class Idea:
    """What some signals tell of together. raises, lowers: how it is said where it moves a product up or
    down.
    """

    name: str
    signals: tuple[str, ...]
    raises: str
    lowers: str


IDEAS = (
    Idea(
        "words",
        ("bm25", "bm25_share", "bm25_rank", "title_match", "exact_title", "attribute_match"),
        "it has the words that you typed",
        "it lacks words that you typed",
    ),
    Idea(
        "meaning",
        ("dense", "dense_rank", "late", "late_share", "late_max_gap"),
        "it is close in meaning to what you asked for",
        "it is further in meaning from what you asked for",
    ),
    Idea(
        "words and meaning together",
        ("fused",),
        "words and meaning agree on it",
        "words and meaning agree on others more",
    ),
    Idea(
        "close reading",
        ("cross",),
        "a close reading finds it fitting",
        "a close reading finds it less fitting",
    ),
    Idea(
        "brand", ("brand_match",), "it is of the brand that you named", "its brand is not one that you named"
    ),
    Idea(
        "lengths",
        ("query_words", "title_words"),
        "its title has the right length",
        "its title is longer or shorter than fits",
    ),
    Idea("price", ("price_log",), "its price speaks for it", "its price speaks against it"),
    Idea("stock", ("stock_known_out",), "it is not known to be sold out", "it is sold out"),
    Idea("ratings", ("rating", "rating_count_log"), "buyers rate it well", "its ratings are few or low"),
    Idea("popularity", ("popularity_log",), "many want it", "fewer want it"),
    Idea(
        "taste", ("taste",), "it is like what you looked at lately", "it is unlike what you looked at lately"
    ),
)

_IDEA_OF = {signal: idea for idea in IDEAS for signal in idea.signals}


@dataclass(frozen=True)
class Part:
    """One signal's share in a score. value: None: not known. contribution: in the score's unit."""

    signal: str
    value: float | None
    contribution: float


@dataclass(frozen=True)
class Explanation:
    """A score, taken apart.

    base: of a product of which nothing is known. parts: what adds something, the largest first. silent:
    signals that the ranker reads and that add nothing here.
    """

    product_id: str
    score: float
    base: float
    parts: tuple[Part, ...]
    silent: int = 0

    @property
    def missing(self) -> float:
        """What base and parts do not account for; 0 but for rounding."""
        return self.score - self.base - sum(part.contribution for part in self.parts)

    @property
    def adds_up(self) -> bool:
        """Whether base and parts are the score, up to rounding."""
        scale = max(1.0, abs(self.score), abs(self.base))
        return abs(self.missing) <= TOLERANCE * scale

    def ideas(self) -> list[tuple[Idea, float]]:
        """What each idea adds, the largest first; those that no part belongs to are left out."""
        totals: dict[str, float] = {}
        found: dict[str, Idea] = {}
        for part in self.parts:
            idea = _IDEA_OF.get(part.signal) or Idea(part.signal, (part.signal,), part.signal, part.signal)
            found[idea.name] = idea
            totals[idea.name] = totals.get(idea.name, 0.0) + part.contribution
        ordered = sorted(totals, key=lambda name: -abs(totals[name]))
        return [(found[name], totals[name]) for name in ordered]


def explain(result: Mapping[str, Any]) -> Explanation | None:
    """The explanation of one result, given as JSON values of the contract's RankedProduct.

    None: it was not asked for, or the order's ranker cannot say.
    """
    if result.get("base_score") is None:
        return None
    parts = [
        Part(signal["name"], signal.get("value"), signal["contribution"])
        for signal in result.get("signals", ())
        if signal.get("contribution") is not None
    ]
    telling = [part for part in parts if part.contribution]
    telling.sort(key=lambda part: -abs(part.contribution))
    return Explanation(
        result["product_id"], result["score"], result["base_score"], tuple(telling), len(parts) - len(telling)
    )


def for_shopper(explanation: Explanation, *, reasons_max: int = 2) -> str:
    """One sentence without numbers: what speaks most for the product, and what most against it."""
    ideas = explanation.ideas()
    most = max((abs(total) for _, total in ideas), default=0.0)
    telling = [(idea, total) for idea, total in ideas if abs(total) >= _WORTH_TELLING * most > 0]
    up = [idea.raises for idea, total in telling if total > 0][:reasons_max]
    down = [idea.lowers for idea, total in telling if total < 0][:1]
    if up:
        text = "Shown because " + _joined(up)
        return text + (f", though {down[0]}." if down else ".")
    if down:
        return f"Shown as one of the nearest, though {down[0]}."
    return "Shown as one of the nearest; nothing sets it apart."


def for_auditor(explanation: Explanation, *, parts_max: int | None = None) -> str:
    """The whole sum with its numbers; parts beyond `parts_max` are added up as "others"."""
    kept = explanation.parts[:parts_max]
    rest = sum(part.contribution for part in explanation.parts[len(kept) :])
    terms = [f"{explanation.base:.4f} for any product"]
    terms += [f"{part.contribution:+.4f} {part.signal} ({shown_value(part.value)})" for part in kept]
    if len(kept) < len(explanation.parts):
        terms.append(f"{rest:+.4f} {len(explanation.parts) - len(kept)} others")
    text = f"{explanation.score:.4f} = " + " ".join(terms)
    if explanation.silent:
        text += f"; {explanation.silent} more signals are read and add nothing"
    return text if explanation.adds_up else f"{text}; {explanation.missing:+.4f} is not accounted for"


def shown_value(value: float | None) -> str:
    """A signal's value in few digits."""
    return "unknown" if value is None else f"{value:.4g}"


_BROUGHT = {
    "next": "it is often taken right after {}",
    "later": "it is often taken soon after {}",
    "later_share": "it is often taken soon after {}",
    "earlier": "it is often taken before {}",
    "together": "it is often taken by those who took {}",
    "closed_form": "it goes with {}",
    "attributes": "it has what sets {} apart",
    "texts": "it reads like {}",
    "similar": "it reads like {}",
    "new": "it is new, and like {}",
}


_BROUGHT_BY_ALL = {
    "popularity": "many take it",
    "sequence": "it follows from all that was taken lately",
}


def brought(result: Mapping[str, Any], *, reasons_max: int = 2) -> str:
    """One sentence without numbers: what of the history brought a recommendation, the most telling first.

    result: JSON values of the contract's RankedProduct with `because`. Reasons of one product are told once,
    by the source that adds most. Empty where nothing was told.
    """
    reasons: list[str] = []
    told: set[str] = set()
    for part in result.get("because", ()):
        product = part["product_id"]
        if part["contribution"] <= 0 or (product or part["source"]) in told:
            continue
        told.add(product or part["source"])
        if product:
            words = _BROUGHT.get(part["source"], "of {}")
            reasons.append(words.format(part.get("title") or product))
        elif part["source"]:
            reasons.append(_BROUGHT_BY_ALL.get(part["source"], f"of {part['source']}"))
    return f"Shown because {_joined(reasons[:reasons_max])}." if reasons else ""


def brought_sum(result: Mapping[str, Any]) -> str:
    """The same with its numbers: every part that was told, and their sum."""
    parts = result.get("because", ())
    if not parts:
        return ""
    terms = [
        f"{part['contribution']:+.4g} {part['source'] or 'others'}"
        + (f" ({part['product_id']})" if part["product_id"] else "")
        for part in parts
    ]
    return f"{sum(part['contribution'] for part in parts):.4g} = " + " ".join(terms)


_LIKE = {
    "itself": "it is this one",
    "brand": "the same brand",
    "category": "the same category",
    "similar": "it reads alike",
    "next": "this is often taken right after it",
    "later": "this is often taken soon after it",
    "later_share": "this is often taken soon after it",
    "earlier": "this is often taken before it",
    "together": "those who take it take this",
    "attributes": "it has the same rare traits",
    "texts": "it reads alike",
    "new": "this is new, and like it",
}


def looked_at(result: Mapping[str, Any], *, products_max: int = 2) -> str:
    """One sentence without numbers: what of the shopper's history moved a search's result up, the most
    telling first.

    result: as for `brought`. Empty where nothing did.
    """
    told: dict[str, tuple[str, str]] = {}
    for part in result.get("because", ()):
        if part["product_id"] and part["contribution"] > 0:
            why = _LIKE.get(part["source"], "they go together")
            told.setdefault(part["product_id"], (part.get("title") or part["product_id"], why))
    kept = list(told.values())[:products_max]
    return f"You looked at {_joined(f'{title} ({why})' for title, why in kept)}." if kept else ""


TASTES = {
    "applied": "in the order of the shopper",
    "off": "the service does not look at histories",
    "unknown": "nothing is known of the shopper",
    "unrelated": "nothing that the shopper did tells these products apart",
    "time": "there was no time to look at the history",
}
"""How a receipt's `taste` is said."""


def _joined(reasons: Iterable[str]) -> str:
    return " and ".join(reasons)
