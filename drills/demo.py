"""The demonstration: real products, four deadlines, a price change, clicks, and the death of the primary.

`muster demo` runs it. It starts a primary and two standbys on loopback, ends them again, opens nothing,
downloads nothing, and says at the start where its catalogue comes from. The record (journal, plot, logs of
the replicas) stays in `run/demo-TIME`.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.table import Table
from rich.text import Text

from drills.experiment import Inconclusive, Verdict
from drills.failover import NAME as FAILOVER
from drills.failover import Rehearsal, Traffic, draw, kill_the_primary, rehearse
from drills.judges.checks import FailoverLimits, judge_failover_runs
from drills.outcome import run_folder
from drills.rig.cluster import Cluster, ClusterError, ClusterPlan, find_bundle, interrupted_by_sigterm
from drills.rig.load import tier_name
from drills.rig.shop import Query, Shop, choose_shop, fill, ndcg_at_10
from muster.client import Client, MusterError, feedback, patch
from muster.products.errors import ProductError
from muster.v1 import ranking_pb2

DEADLINES_MS = (5.0, 20.0, 50.0, 200.0)
QUERIES = 4
RESULTS = 10
CLICKS = 3
RECOMMENDED = 5
TRIES = 5
ENCODE_BUDGET_S = 75.0
"""The whole demonstration is to end within three minutes on a small machine."""
PIPED_WIDTH = 140
REPLICAS = 3


@dataclass(frozen=True)
class Asked:
    """One query asked with one deadline. response None: no try was answered, `problem` says why."""

    query: Query
    deadline_ms: float
    took_ms: float
    tries: int
    response: ranking_pb2.SearchResponse | None
    problem: str = ""

    def describe(self) -> dict[str, Any]:
        """The answer as the object that `--json` prints."""
        receipt = self.response.receipt if self.response is not None else None
        return {
            "query": self.query.text,
            "deadline_ms": self.deadline_ms,
            "took_ms": round(self.took_ms, 2),
            "tier": tier_name(receipt.tier) if receipt is not None else None,
            "depth": receipt.depth if receipt is not None else None,
            "expected_ndcg": round(receipt.expected_ndcg, 4) if receipt is not None else None,
            "results": [_result(result) for result in self.response.results]
            if self.response is not None
            else [],
        }


def _result(result: ranking_pb2.RankedProduct) -> dict[str, Any]:
    return {
        "product_id": result.product_id,
        "title": result.title,
        "brand": result.brand,
        "score": round(result.score, 6),
        "price": result.price if result.HasField("price") else None,
        "stock": result.stock if result.HasField("stock") else None,
    }


def choose_queries(queries: Sequence[Query], count: int) -> list[Query]:
    """Judged queries of two words and more, taken in turn from each origin, in their order."""
    origins: dict[str, list[Query]] = {}
    for query in queries:
        if any(gain > 0 for gain in query.gains.values()) and " " in query.text.strip():
            origins.setdefault(query.origin, []).append(query)
    turns = list(origins.values()) or [list(queries)]
    chosen = [turn[place] for place in range(count) for turn in turns if place < len(turn)]
    return chosen[:count]


def ask(client: Client, query: Query, deadline_ms: float) -> Asked:
    """Asks once; where the answer does not come in time, again, up to TRIES times.

    A shopper's page would do the same with its next key press; on a machine that is busy with something else
    the first few milliseconds of a 5 ms budget can be gone before the request has left.
    """
    problem = ""
    took_ms = 0.0
    for attempt in range(1, TRIES + 1):
        began_s = time.perf_counter()
        try:
            response = client.search(query.text, deadline_ms=deadline_ms, page_size=RESULTS)
        except MusterError as error:
            took_ms = (time.perf_counter() - began_s) * 1000.0
            problem = f"{type(error).__name__}: {error}"
            time.sleep(0.05)
            continue
        took_ms = (time.perf_counter() - began_s) * 1000.0
        return Asked(query, deadline_ms, took_ms, attempt, response)
    return Asked(query, deadline_ms, took_ms, TRIES, None, problem)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def answers_table(asked: Sequence[Asked]) -> Table:
    """One query at every deadline, one row each."""
    table = Table(
        title=f"“{asked[0].query.text}”", title_justify="left", box=None, pad_edge=False, padding=(0, 1)
    )
    for name, right in (
        ("deadline", True),
        ("took", True),
        ("plan", False),
        ("why", False),
        ("worth", True),
        ("nDCG@10", True),
        ("first products", False),
    ):
        table.add_column(name, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    for one in asked:
        deadline = f"{one.deadline_ms:g} ms"
        if one.response is None:
            problem = Text(_cut(one.problem, 60), style="red")
            table.add_row(deadline, f"{one.took_ms:.1f} ms", "no answer", "", "", "", problem)
            continue
        receipt = one.response.receipt
        quality = ndcg_at_10([result.product_id for result in one.response.results], dict(one.query.gains))
        reason = ranking_pb2.Reason.Name(receipt.reason).removeprefix("REASON_").lower()
        table.add_row(
            deadline,
            f"{one.took_ms:.1f} ms",
            tier_name(receipt.tier) + (f"@{receipt.depth}" if receipt.depth else ""),
            reason + (f", try {one.tries}" if one.tries > 1 else ""),
            f"{receipt.expected_ndcg:.0%}",
            "" if quality is None else f"{quality:.3f}",
            " | ".join(_cut(result.title, 36) for result in one.response.results[:2]),
        )
    return table


def _receipt_line(receipt: ranking_pb2.Receipt) -> str:
    timings = receipt.timings
    stages = ", ".join(
        f"{name} {getattr(timings, f'{name}_us') / 1000:.2f}"
        for name in ("queue", "encode", "retrieve", "late", "cross", "order")
        if getattr(timings, f"{name}_us")
    )
    return (
        f"receipt of the last answer: replica {receipt.replica}, epoch {receipt.epoch}, sequence "
        f"{receipt.applied_sequence}, {receipt.candidates} candidates; ms: {stages or 'none'}"
    )


def change_and_show(client: Client, query: Query, console: Console) -> None:
    """Changes price and stock of the first answer and asks again, reading its own write."""
    before = client.search(query.text, deadline_ms=1000.0, page_size=RESULTS)
    if not before.results:
        console.print("no product to change")
        return
    first = before.results[0]
    price = round(first.price * 0.8, 2) if first.HasField("price") and first.price > 0 else 19.99
    stock = 7
    began_s = time.perf_counter()
    acknowledged = client.apply(patch(first.product_id, price=price, stock=stock), deadline_ms=5000.0)
    write_ms = (time.perf_counter() - began_s) * 1000.0
    after = client.search(
        query.text, deadline_ms=1000.0, page_size=RESULTS, min_sequence=acknowledged.sequence
    )
    changed = next((result for result in after.results if result.product_id == first.product_id), None)
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for name in ("", "price", "stock", "rank", "at sequence"):
        table.add_column(name, justify="left" if not name else "right")
    table.add_row("before", *_columns(first), "1", str(before.receipt.applied_sequence))
    if changed is None:
        table.add_row("next answer", "", "", "gone", str(after.receipt.applied_sequence))
    else:
        rank = [result.product_id for result in after.results].index(first.product_id) + 1
        table.add_row("next answer", *_columns(changed), str(rank), str(after.receipt.applied_sequence))
    console.print(
        f"“{_cut(first.title, 70)}”: price {price}, stock {stock}, acknowledged in {write_ms:.1f} ms"
    )
    console.print(table)


def recommend_and_show(client: Client, query: Query, console: Console) -> dict[str, Any]:
    """What one shopper is recommended before and after clicks on the first answers of a query."""
    shopper = "demo-shopper"
    found = client.search(query.text, deadline_ms=1000.0, page_size=CLICKS)
    before = client.recommend(shopper_id=shopper, deadline_ms=1000.0, page_size=RECOMMENDED)
    clicks = [
        feedback("click", result.product_id, receipt=found.receipt, position=place, shopper_id=shopper)
        for place, result in enumerate(found.results, start=1)
    ]
    sequence = client.record(clicks, deadline_ms=5000.0).sequence if clicks else 0
    after = client.recommend(
        shopper_id=shopper,
        deadline_ms=1000.0,
        page_size=RECOMMENDED,
        min_sequence=sequence,
        explain=True,
    )
    tier = tier_name(after.receipt.tier)
    if after.receipt.reason == ranking_pb2.REASON_DEPENDENCY:
        console.print(
            "the bundle has no section recommend/ (docs/recommend.md): the texts of what was clicked answer"
        )
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for name in (
        f"before ({tier_name(before.receipt.tier)})",
        f"after {len(clicks)} clicks ({tier})",
        "because",
    ):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for old, new in zip_longest(before.results, after.results):
        table.add_row(
            Text(_cut(old.title, 40) if old is not None else ""),
            Text(_cut(new.title, 40) if new is not None else ""),
            Text(_cut(_because(new), 60) if new is not None else ""),
        )
    clicked = ", ".join(f"“{_cut(result.title, 40)}”" for result in found.results)
    console.print(Text(f"clicked: {clicked or 'nothing was found to be clicked'}"))
    console.print(table)
    return {
        "clicked": [result.product_id for result in found.results],
        "before": [result.product_id for result in before.results],
        "after": [result.product_id for result in after.results],
        "tier": tier,
        "history_used": after.history.used,
    }


def _because(result: ranking_pb2.RankedProduct) -> str:
    """The source, and the product of the history, that speak most for a result."""
    if not result.because:
        return ""
    most = result.because[0]
    return f"{most.source}: {_cut(most.title, 40)}" if most.title else most.source


def _columns(result: ranking_pb2.RankedProduct) -> tuple[str, str]:
    price = f"{result.price:.2f}" if result.HasField("price") else "unknown"
    return price, str(result.stock) if result.HasField("stock") else "unknown"


def fail_over(
    cluster: Cluster, shop: Shop, product_ids: Sequence[str], folder: Path, bundle_id: str
) -> dict[str, Any]:
    """Kills the primary under load once; returns what the failover drill would print."""
    traffic = Traffic(reads_per_s=40.0, writes_per_s=20.0, read_deadline_ms=500.0)
    rehearsal = Rehearsal(
        cluster,
        [query.text for query in shop.queries],
        product_ids,
        traffic,
        from_sequence=cluster.status(cluster.primary()).head_sequence + 1,
    )
    settings = {"catalogue": shop.name, "bundle": bundle_id, "replicas": REPLICAS}
    drill = kill_the_primary(cluster.plan.bundle)
    for attempt in range(1, TRIES + 1):
        outcomes = rehearse(rehearsal, drill, runs=1, folder=folder, seed=attempt, settings=settings)
        # On a busy machine even the steady state may not hold; nothing was killed then, so it is tried again.
        if outcomes[0][0].verdict is not Verdict.INCONCLUSIVE:
            break
    judgement = judge_failover_runs([one for one, _ in outcomes], FailoverLimits())
    draw(outcomes, folder, traffic)
    reasons = {"reason": "; ".join(judgement.reasons)} if judgement.reasons else {}
    return {
        "drill": FAILOVER,
        "verdict": str(judgement.verdict),
        "runs": len(outcomes),
        **judgement.figures,
        **reasons,
    }


def failover_table(outcome: dict[str, Any]) -> Table:
    """The recovery, one row a figure."""
    recovery = outcome["rto_ms"]["p50"]
    table = Table(box=None, pad_edge=False, padding=(0, 1), show_header=False)
    table.add_row("verdict", outcome["verdict"])
    table.add_row("writes back after", "never" if recovery is None else f"{recovery:.0f} ms")
    table.add_row("writes acknowledged", str(outcome["writes_acknowledged"]))
    table.add_row("lost, doubled", f"{outcome['writes_lost']}, {outcome['writes_doubled']}")
    table.add_row("reads, not answered", f"{outcome['reads']}, {outcome['read_errors']}")
    table.add_row("epochs only rise", "yes" if outcome["epochs_monotone"] else "no")
    return table


def show(as_json: bool) -> dict[str, Any]:
    """The whole demonstration; returns the object that `--json` prints.

    Raises: Inconclusive without a bundle, ClusterError, MusterError, grpc.RpcError, ProductError.
    """
    # With --json the story goes to standard error, and standard output carries the object alone.
    # Where it is not a terminal, the usual 80 columns would break every row.
    console = Console(stderr=as_json, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=as_json, highlight=False, width=PIPED_WIDTH)
    began_s = time.monotonic()
    bundle = find_bundle()
    shop = choose_shop(None, seed=1)
    folder = run_folder(None, "demo")
    console.print(f"[bold]catalogue[/]  {shop.name}: {shop.note}")
    console.print(f"[bold]bundle[/]     {bundle.name}")
    # Nobody is served while the catalogue is encoded, so the build need not be nice to anyone.
    settings = {"generation": {"niceness": 0}}
    cluster = Cluster(ClusterPlan(bundle=bundle, replicas=REPLICAS, settings=settings), folder / "cluster")
    try:
        with cluster:
            with console.status("starting the primary"):
                cluster.start(1)
            # The standbys come once there is a generation: they open it, where before they would each encode
            # the catalogue as it arrives.
            loaded = fill(
                cluster, shop.judged_first(), total=shop.expected_products, within_s=ENCODE_BUDGET_S
            )
            if loaded.products < loaded.offered:
                console.print(
                    f"[bold]loaded[/]     {loaded.products} of {loaded.offered} products, those with labels "
                    f"first: what this machine encodes in {ENCODE_BUDGET_S:.0f} s"
                )
            with console.status("starting two standbys"):
                cluster.start()
                cluster.wait_caught_up(cluster.status(cluster.primary()).head_sequence, 60.0, built=True)
            state = cluster.status(cluster.primary())
            console.print(
                f"[bold]serving[/]    {state.products} products on {', '.join(cluster.addresses)} "
                f"({time.monotonic() - began_s:.0f} s so far); plans: "
                + ", ".join(f"{plan.tier}@{plan.depth}" if plan.depth else plan.tier for plan in state.plans)
            )
            queries = choose_queries(shop.queries, QUERIES)
            with Client(cluster.addresses) as client:
                for query in queries:
                    ask(client, query, 1000.0)  # connects, and lets every replica see the queries once
                asked: list[Asked] = []
                console.print("\n[bold]the same queries, four deadlines[/]")
                for query in queries:
                    row = [ask(client, query, deadline_ms) for deadline_ms in DEADLINES_MS]
                    asked += row
                    console.print(answers_table(row))
                last = next((one.response for one in reversed(asked) if one.response is not None), None)
                if last is not None:
                    console.print(_receipt_line(last.receipt))
                console.print("\n[bold]a price and a stock change[/]")
                change_and_show(client, queries[0], console)
                console.print("\n[bold]what one shopper is recommended[/]")
                recommended = recommend_and_show(client, queries[0], console)
            console.print("\n[bold]the primary is killed under reads and writes[/]")
            found = dict.fromkeys(
                result.product_id
                for one in asked
                if one.response is not None
                for result in one.response.results
            )
            outcome = fail_over(cluster, shop, list(found), folder, state.bundle_id)
            console.print(failover_table(outcome))
    finally:
        cluster.remove_data()
    console.print(f"\ndone in {time.monotonic() - began_s:.0f} s; record and plot: {folder}")
    return {
        "catalogue": shop.name,
        "products": state.products,
        "bundle": state.bundle_id,
        "answers": [one.describe() for one in asked],
        "recommended": recommended,
        "failover": outcome,
    }


def main(as_json: bool) -> int:
    """Runs the demonstration; returns an exit code: 0 all was shown, 1 something failed, 3 a replica did not
    serve."""
    try:
        with interrupted_by_sigterm():
            result = show(as_json)
    except ClusterError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 3
    except grpc.RpcError as error:
        details = error.details() if isinstance(error, grpc.Call) else str(error)
        print(f"demo: the service refused a call: {details}", file=sys.stderr)
        return 3
    except (Inconclusive, MusterError, ProductError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    if as_json:
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(result), flush=True)
    return 0
