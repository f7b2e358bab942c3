"""Interleaving from files: mixed orders of two rankings, and whose products shoppers took.

A line of the file of what was shown: `{"experiment", "receipt_id", "query", "order": [product, ...], "team":
["a" or "b", ...]}`. The receipt's id joins it with exported feedback. `mixed` writes such lines without the
receipt, which only the answer has.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muster.experiments.analysis import SAMPLE_RATIO_ALPHA, sign_test_p
from muster.experiments.assignment import ExperimentRefused, Interleaved, credit, team_draft
from muster.products import read_rows

KINDS = ("click", "cart", "buy")
"""What may count as taking a product."""


@dataclass(frozen=True)
class Preference:
    """Whose products were taken. Each shopper counts once, for the ranking that has more of their answers.

    wins_a, wins_b, ties: shoppers; a tie took something, of both as often. answers: shown; taken: of them,
    with something taken. first_a: answers whose first product is of `a`. p: of the sign test.
    """

    wins_a: int
    wins_b: int
    ties: int
    answers: int
    taken: int
    first_a: int
    p: float

    @property
    def first_p(self) -> float:
        """Probability of first places at least that uneven, were each drawn by a fair coin."""
        return sign_test_p(self.first_a, self.answers - self.first_a)

    @property
    def broken(self) -> bool:
        """Whether the first places were not shared as a coin would: then nothing else should be read."""
        return self.first_p < SAMPLE_RATIO_ALPHA


def mixed(
    key: str,
    a: Mapping[str, Sequence[str]],
    b: Mapping[str, Sequence[str]],
    *,
    places: int,
    draws: int,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Lines of mixed orders, `draws` for each query that both rankings have. Raises: ExperimentRefused."""
    both = sorted(set(a) & set(b))
    if not both:
        raise ExperimentRefused("the rankings have no query in common")
    chooser = random.Random(seed)
    for query in both:
        for _ in range(draws):
            # Each round places a product or ends the draft, so no more flips are asked for than places.
            coin = [chooser.random() < 0.5 for _ in range(places + 1)]
            shown = team_draft(a[query], b[query], places=places, coin=coin)
            yield {"experiment": key, "query": query, "order": list(shown.order), "team": list(shown.team)}


def read_shown(path: Path, key: str) -> dict[str, Interleaved]:
    """What was shown in an experiment, by the receipt's id. Raises: ProductFileError, ExperimentRefused."""
    found: dict[str, Interleaved] = {}
    for row, values in read_rows(path, ("experiment", "receipt_id", "order", "team")):
        if values["experiment"] != key:
            continue
        order, team, receipt = values["order"], values["team"], values["receipt_id"]
        if not isinstance(receipt, str) or not receipt:
            raise ExperimentRefused(f"{path}, row {row}: names no receipt_id, which joins it with feedback")
        if not _is_draft(order, team):
            raise ExperimentRefused(
                f"{path}, row {row}: order must hold products, each once, and team an a or b for each"
            )
        shown = Interleaved(tuple(order), tuple(team))
        if found.setdefault(receipt, shown) != shown:
            raise ExperimentRefused(f"{path}, row {row}: the receipt {receipt} has another order above")
    return found


def _is_draft(order: Any, team: Any) -> bool:
    return (
        isinstance(order, list)
        and isinstance(team, list)
        and len(order) == len(team) == len({one for one in order if isinstance(one, str) and one})
        and len(order) > 0
        and all(one in ("a", "b") for one in team)
    )


def preferred(shown: Mapping[str, Interleaved], feedback: Path, kinds: Sequence[str]) -> Preference:
    """Whose products were taken. feedback: as `muster feedback export` writes it. kinds: what counts.

    A shopper is whoever the feedback names, else the session, else the one answer. p is of one look: whoever
    looks again and again finds differences that are none. Source: Radlinski, Kurup & Joachims 2008; the test
    by shoppers as in Chapelle et al. 2012, "Large-Scale Validation and Analysis of Interleaved Search
    Evaluation", section 4. Raises: ProductFileError.
    """
    taken: dict[str, set[str]] = {}
    actors: dict[str, str] = {}
    for _, values in read_rows(feedback, ("kind", "product_id", "receipt_id"), ("shopper", "session")):
        receipt = values["receipt_id"]
        if receipt not in shown or values["kind"] not in kinds:
            continue
        taken.setdefault(receipt, set()).add(str(values["product_id"]))
        actors[receipt] = str(values.get("shopper") or values.get("session") or f"answer {receipt}")
    sums: dict[str, int] = {}
    answers = 0
    for receipt, products in taken.items():
        if products.isdisjoint(shown[receipt].order):
            continue
        answers += 1
        sums[actors[receipt]] = sums.get(actors[receipt], 0) + credit(shown[receipt], products)
    wins, losses = sum(one > 0 for one in sums.values()), sum(one < 0 for one in sums.values())
    return Preference(
        wins,
        losses,
        len(sums) - wins - losses,
        len(shown),
        answers,
        sum(one.team[0] == "a" for one in shown.values()),
        sign_test_p(wins, losses),
    )
