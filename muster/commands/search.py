"""`muster search`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from muster.commands.arguments import DEFAULT_TARGET, Json, Target, duration
from muster.commands.conditions import (
    Attribute,
    Brand,
    Category,
    InStock,
    PriceMax,
    PriceMin,
    Priority,
    filter_of,
)
from muster.commands.failures import reported
from muster.commands.output import make_console, make_table, number, plain, print_json


@reported
def search(
    query: Annotated[str, typer.Argument(help="What the shopper typed.")],
    target: Target = DEFAULT_TARGET,
    deadline: Annotated[float, duration("--deadline", "Time until the answer is useless.")] = 200.0,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say in words and numbers why each result stands where it does.")
    ] = False,
    page_size: Annotated[int, typer.Option("--page-size", "-n", help="Results wanted, 1 to 100.")] = 10,
    offset: Annotated[int, typer.Option("--offset", help="Results to skip, 0 to 900.")] = 0,
    brand: Brand = None,
    category: Category = None,
    price_min: PriceMin = None,
    price_max: PriceMax = None,
    in_stock: InStock = False,
    attribute: Attribute = None,
    facet: Annotated[
        list[str] | None, typer.Option("--facet", help="Count brand, category or attributes.NAME.")
    ] = None,
    shopper: Annotated[
        str, typer.Option("--shopper", help="The shop's name for the shopper: what feedback told speaks too.")
    ] = "",
    session: Annotated[str, typer.Option("--session", help="The shop's name for the visit.")] = "",
    history: Annotated[
        list[str] | None,
        typer.Option("--history", help="A product that the shopper took lately; more of them oldest first."),
    ] = None,
    min_sequence: Annotated[int, typer.Option("--min-sequence", help="Wait for this sequence.")] = 0,
    priority: Priority = None,
    as_json: Json = False,
) -> None:
    """Asks a running service for ranked products."""
    from muster.client import Client

    conditions = filter_of(brand, category, price_min, price_max, in_stock, attribute)
    with Client(target) as client:
        started = time.perf_counter()
        answer = client.search(
            query,
            deadline_ms=deadline,
            filter=conditions,
            page_size=page_size,
            offset=offset,
            facets=facet or (),
            min_sequence=min_sequence,
            explain=explain,
            priority=priority.value if priority is not None else None,
            shopper_id=shopper,
            session_id=session,
            history=history or (),
        )
        took_ms = (time.perf_counter() - started) * 1000
    if as_json:
        print_json({"query": query, "deadline_ms": deadline, "took_ms": round(took_ms, 3), **plain(answer)})
        return
    _show_answer(plain(answer), offset, took_ms, deadline)


def show_results(console: Any, results: Sequence[Mapping[str, Any]], first: int = 1) -> None:
    """A table of results (as `plain` gives them), numbered from `first`."""
    from rich.text import Text

    if not results:
        console.print("no product matches")
        return
    table = make_table("", "product", "title", "brand", "price", "stock", "score")
    for place, result in enumerate(results, start=first):
        stock = result.get("stock")
        table.add_row(
            str(place),
            Text(result["product_id"]),
            Text(result["title"]),
            Text(result["brand"] or "-"),
            number(result.get("price")),
            "-" if stock is None else str(stock),
            number(result["score"], 4),
        )
    console.print(table)


def _show_answer(answer: Mapping[str, Any], offset: int, took_ms: float, deadline_ms: float) -> None:
    from rich.text import Text

    console = make_console()
    results = answer["results"]
    show_results(console, results, offset + 1)
    for place, result in enumerate(results, start=offset + 1):
        first, *rest = explanation_lines(result) or [""]
        if first:
            console.print(Text("\n".join([f"{place}. {first}", *(f"   {line}" for line in rest)])))
    for facet in answer["facets"]:
        counts = ", ".join(f"{count['value']} {count['count']}" for count in facet["counts"])
        console.print(Text(f"{facet['field']}: {counts or 'nothing'}"))
    if "history" in answer:
        console.print(Text(history_line(answer["history"])))
    console.print(Text(receipt_line(answer["receipt"], took_ms, deadline_ms)))


def history_line(history: Mapping[str, int]) -> str:
    """What was made of the history (as `plain` gives it), in one sentence."""
    text = f"history: {history['used']} products read"
    if history["recorded"]:
        text += f", {history['recorded']} told by feedback alone"
    if history["left_out"]:
        text += f", {history['left_out']} not read"
    if history["unknown"]:
        text += f", {history['unknown']} unknown"
    return text


def explanation_lines(result: Mapping[str, Any]) -> list[str]:
    """Why a result (as `plain` gives it) stands where it does: for a shopper, with what moved it up, then for
    an auditor. Of a ranker that cannot say, the signals alone; nothing where no explanation was asked for.
    """
    from muster.explanation import explain, for_auditor, for_shopper, looked_at

    if not result["signals"]:
        return []
    found = explain(result)
    if found is not None:
        looked = looked_at(result)
        told = [looked] if looked else []
        return [f"{result['product_id']}: {for_shopper(found)}", *told, for_auditor(found)]
    known = [f"{s['name']} {s['value']:.4g}" for s in result["signals"] if s.get("value") is not None]
    return [f"{result['product_id']}: {', '.join(known)}"]


def receipt_line(receipt: Mapping[str, Any], took_ms: float, deadline_ms: float) -> str:
    """The receipt (as `plain` gives it) in one sentence."""
    from muster.explanation import TASTES

    worth = receipt["expected_ndcg"]
    told = f"worth {worth:.0%} of the best plan" if worth else "worth not measured"
    text = (
        f"{took_ms:.1f} of {deadline_ms:g} ms; tier {receipt['tier']}, depth {receipt['depth']}, "
        f"{receipt['candidates']} candidates, {told}, "
        f"reason {receipt['reason']}; "
        f"{receipt['replica'] or 'a replica'} at sequence {receipt['applied_sequence']}"
    )
    if receipt["query_truncated"]:
        text += "; the query was cut"
    if receipt.get("taste") in TASTES:
        text += f"; {TASTES[receipt['taste']]}"
    return text
