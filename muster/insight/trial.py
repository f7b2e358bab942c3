"""How often the intervals hold the truth: `python -m muster.insight.trial --shops 40 --seed 1`.

Simulated shops are drawn and looked at; printed is in how many of them the truth lies in each interval.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from muster.insight.analysis import Choice, Insight, analyse
from muster.insight.intervals import wilson
from muster.insight.reading import Reader
from muster.insight.simulate import EXPERIMENT, TIERS, Shop, Simulated, simulate

_NOW_US = 2 * Shop().start_unix_us


def looked_at(shop: Simulated) -> Insight:
    """The analysis of a simulated shop."""
    reader = Reader()
    reader.batches(shop.events.to_batches(), "the simulator")
    texts = {row["product_id"]: f"{row['title']} {row['category']}" for row in shop.products.to_pylist()}
    choice = Choice(by_chance=[EXPERIMENT], texts=texts)
    return analyse(reader.events(), reader.problems, choice, _NOW_US, simulated=True)


def held(shop: Simulated, insight: Insight) -> Iterator[tuple[str, bool]]:
    """Each figure whose truth is known, and whether its interval holds it."""

    def within(row: dict[str, Any], truth: float) -> bool:
        return bool(row["low"] <= truth <= row["high"])

    truth = shop.truth
    yield (
        "share of answers without results",
        within(insight.table("queries_without_results").rows[0], truth.nothing_found_share),
    )
    for row in insight.table("lift").rows:
        if row["outcome"] == "clicked" and not row["hidden"]:
            effect = truth.click_share[row["tier"]] - truth.click_share[TIERS[0]]
            yield f"effect of {row['tier']}, {row['compared']}", within(row, effect)
    for row, share in zip(insight.table("returning").rows, truth.returning, strict=False):
        if row["weeks_later"] <= 3 and not row["hidden"]:
            yield f"back after {row['weeks_later']} weeks", within(row, share)
    for row in insight.table("growth").rows:
        yield "growth a week", within(row, truth.weekly_growth - 1)
    yield "number of groups", len(insight.table("segments").rows) == len(truth.themes)
    left = {**insight.left_out.events, "wrong_clock": insight.left_out.server_clock}
    yield "what was planted is left out", left == truth.left_out


def main(arguments: list[str] | None = None) -> int:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m muster.insight.trial", description=__doc__)
    parser.add_argument("--shops", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parsed = parser.parse_args(arguments)
    counts: Counter[str] = Counter()
    of: Counter[str] = Counter()
    for at in range(parsed.shops):
        shop = simulate(seed=parsed.seed + at)
        for name, good in held(shop, looked_at(shop)):
            counts[name] += good
            of[name] += 1
    if parsed.json:
        print(json.dumps({name: {"held": counts[name], "of": of[name]} for name in of}, indent=2))
        return 0
    for name in of:
        low, high = wilson(counts[name], of[name])
        print(f"{name:50} {counts[name]:4} of {of[name]:4}   [{low:.2f}, {high:.2f}]")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
