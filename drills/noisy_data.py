"""Drill: a feed comes in garbled, and is loaded under load.

    python -m drills.noisy_data --json --journal DIR
    python -m drills.noisy_data --without checks     the control: must deviate

A feed of products that are served already, with new stock, is written as CSV. A seventh of its rows is
spoiled in fifteen ways: broken UTF-8, empty titles, prices that are negative, no numbers, zero or 1e12, rows
of another length, wrong decoding, markup, control characters, swapped columns, stuffed titles, huge texts,
repeated identifiers. `muster catalogue load --leave-out suspicious` loads it while searches and writes go on.
In the control only what cannot become a product is left out.

Hypothesis: each malformed row is refused by its number, each suspicious one held back, no good row is lost,
nDCG@10 of the judged queries falls by at most .01, and no read fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drills import failover
from drills.experiment import Experiment, Inconclusive, Judgement
from drills.failover import Rehearsal, collect_log
from drills.faults.feed import GOOD, Row, write_feed
from drills.journal import Journal
from drills.judges.feed import FEED_FIGURES, FeedPromises, judge_noisy_data
from drills.outcome import positive
from drills.rehearsal import Changes, Rehearsable, one_part
from drills.rig.cluster import ROOT
from drills.rig.quality import judged, served_quality
from drills.rig.shop import Shop, build, choose_shop, fill
from drills.rig.traffic import RecordedLoad
from muster.client import Client, MusterError
from muster.v1 import catalogue_pb2

NAME = "noisy_data"
HYPOTHESIS = (
    "of a garbled feed each malformed row is refused by its number, each suspicious one held back, no good"
    " row is lost, nDCG@10 falls by at most .01, and no read fails"
)
EMPTY: dict[str, Any] = {"runs": 0, **FEED_FIGURES}
STOCK = 4_000_000
"""The good rows' stock counts up from here: no product has so much, so each row is known again."""
_LOAD_S = 240.0


@dataclass
class GarbledFeed:
    """The feed, from the writing of its file to the catalogue that has come of it; undone by loading the
    products as they were. For one run.

    share: of the rows, garbled. rows: of the whole feed. queries: judged ones, to be asked. checked:
    suspicious rows are left out.
    """

    shop: Shop
    share: float
    rows: int
    queries: int
    checked: bool
    seed: int
    name: str = "garbled feed"
    before: list[catalogue_pb2.Product] = field(default_factory=list)
    records: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def inject(self, subject: Rehearsal) -> dict[str, Any]:
        """Loads the feed; measures quality before and after. Raises: Inconclusive where the load cannot
        run."""
        addresses, asked = subject.cluster.addresses, judged(self.shop.queries, self.queries)
        self.records.append(("quality", {"when": "before", **served_quality(addresses, asked).describe()}))
        self.before = self.shop.judged_first()[: self.rows]
        spoiled = int(len(self.before) * self.share)
        good = [_restocked(product, number) for number, product in enumerate(self.before[spoiled:])]
        path = subject.cluster.folder / "feed.csv"
        written = write_feed(
            path, good, [query.text for query in asked], garbled=self.before[:spoiled], seed=self.seed
        )
        instant_s = time.monotonic()
        code, told, rejected = self._load(path, addresses)
        head = failover.head_of(subject.cluster)[0]
        build(subject.cluster, head)
        self.records.append(("feed", _compared(written, rejected, code, told)))
        self.records.append(("good", {"rows": len(good), "lost": _lost(addresses, good)}))
        self.records.append(("quality", {"when": "after", **served_quality(addresses, asked).describe()}))
        return {"rows": len(written), "spoiled": spoiled, "exit": code, "instant_s": instant_s}

    def rollback(self, subject: Rehearsal) -> None:
        """Loads the products as they were, if any were written over."""
        if self.before:
            fill(subject.cluster, self.before, total=len(self.before), progress=False)

    def _load(self, path: Path, addresses: Sequence[str]) -> tuple[int, str, list[dict[str, Any]]]:
        rejects = path.with_suffix(".rejects.jsonl")
        command = [sys.executable, "-m", "muster.cli", "catalogue", "load", str(path), "--json"]
        command += ["--target", ",".join(addresses), "--rejects", str(rejects)]
        command += ["--leave-out", "suspicious" if self.checked else "malformed"]
        try:
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=_LOAD_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise Inconclusive(f"the feed was not loaded within {_LOAD_S:g} s") from error
        if not rejects.exists():
            return done.returncode, done.stderr.strip()[-400:], []
        with rejects.open(encoding="utf-8") as file:
            return done.returncode, done.stderr.strip()[-400:], [json.loads(line) for line in file]


def _restocked(product: catalogue_pb2.Product, number: int) -> catalogue_pb2.Product:
    one = catalogue_pb2.Product()
    one.CopyFrom(product)
    one.stock = STOCK + number
    return one


def _compared(written: Sequence[Row], rejected: Sequence[Any], code: int, told: str) -> dict[str, Any]:
    """What was written against what the loader told of: by kind, rows and those it did not name; good rows
    that it left out."""
    named = {
        kind: {one["row"] for one in rejected if one["kind"] == kind} for kind in ("malformed", "suspicious")
    }
    missed = {
        kind: [
            f"{row.row} ({row.garbling})"
            for row in written
            if row.kind == kind and row.row not in named[kind]
        ]
        for kind in named
    }
    out = set().union(*named.values())
    counts = {kind: sum(row.kind == kind for row in written) for kind in named}
    return {
        "exit": code,
        "complaint": told if code else "",
        **{f"{kind}_rows": count for kind, count in counts.items()},
        **{f"{kind}_missed": len(rows) for kind, rows in missed.items()},
        "missed": [*missed["malformed"], *missed["suspicious"]][:10],
        "good_left_out": sum(row.kind == GOOD and row.row in out for row in written),
    }


def _lost(addresses: Sequence[str], good: Sequence[catalogue_pb2.Product]) -> list[str]:
    """Good rows that are not served as they were written."""
    lost = []
    with Client(list(addresses)) as client:
        for product in good:
            try:
                stock = client.get(product.product_id, deadline_ms=2_000).product.stock
            except MusterError as error:
                lost.append(f"{product.product_id}: {error}")
                continue
            if stock != product.stock:
                lost.append(f"{product.product_id}: stock {stock} instead of {product.stock}")
    return lost


def experiment(seed: int, given: argparse.Namespace) -> Experiment[Rehearsal]:
    """The feed as a value."""
    shop = choose_shop(given.products, given.seed)
    others = [product.product_id for product in shop.judged_first()[given.rows :]]

    def load(rehearsal: Rehearsal, journal: Journal, seed: int) -> RecordedLoad:
        # What the load writes must not be taken for what the feed wrote.
        rehearsal.product_ids = others
        return failover.failover_load(rehearsal, journal, seed)

    fault = GarbledFeed(
        shop,
        share=given.garbled_share,
        rows=given.rows,
        queries=given.queries,
        checked=given.without != "checks",
        seed=seed,
    )

    def collect(rehearsal: Rehearsal, journal: Journal) -> None:
        for kind, fields in fault.records:
            journal.write(kind, **fields)
        collect_log(rehearsal, journal)

    return replace(
        failover.experiment(seed=seed, bundle=given.bundle, during_s=1.0),
        name=NAME,
        hypothesis=HYPOTHESIS,
        load=load,
        fault=fault,
        judge=lambda history: judge_noisy_data(history, FeedPromises(fall=given.fall)),
        collect=collect,
    )


def parts(given: argparse.Namespace) -> Sequence[str]:
    """One. Raises: ValueError where the feed leaves no product for the load to write."""
    if given.rows >= given.products:
        raise ValueError(
            f"--rows must be less than the {given.products} products: the load writes the others"
        )
    return one_part(given)


def changes(given: argparse.Namespace) -> Changes:
    """A lease that a busy build does not disturb: a change of primary is another drill's."""
    return Changes(
        settings={"lease": {"ttl_ms": 5000}},
        noted={"rows": given.rows, "garbled_share": given.garbled_share, "queries": given.queries},
    )


def shown(judgement: Judgement) -> str:
    """One run in a few words."""
    figures = {**EMPTY, **judgement.figures}
    return (
        f"{figures['malformed_rows']} malformed rows, {figures['malformed_missed']} of them not named; "
        f"{figures['suspicious_rows']} suspicious, {figures['suspicious_missed']} not held back; "
        f"{figures['good_lost']} good ones lost; nDCG@10 {figures['ndcg_before']} before, "
        f"{figures['ndcg_after']} after"
    )


def add_options(options: argparse.ArgumentParser) -> None:
    """The drill's own options."""
    options.add_argument("--rows", type=positive(int), default=600, help="of the feed")
    options.add_argument("--garbled-share", type=positive(float), default=0.15, help="of its rows")
    options.add_argument("--queries", type=positive(int), default=60, help="judged, asked before and after")
    options.add_argument(
        "--fall", type=positive(float), default=FeedPromises.fall, help="of nDCG@10 that is still held"
    )
    options.set_defaults(products=800, reads=20.0, writes=5.0, deadline_ms=1000.0)


DRILL = Rehearsable(
    name=NAME,
    hypothesis=HYPOTHESIS,
    empty=EMPTY,
    options=add_options,
    experiment=experiment,
    changes=changes,
    parts=parts,
    shown=shown,
    protections=("checks",),
)


def main(arguments: Sequence[str]) -> int:
    """Runs the drill from a command line; returns the exit code."""
    return DRILL.command(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
