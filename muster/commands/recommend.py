"""`muster recommend`."""

from __future__ import annotations

import time
from collections.abc import Mapping
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
from muster.commands.output import make_console, plain, print_json
from muster.commands.search import history_line, receipt_line, show_results


@reported
def recommend(
    taken: Annotated[
        list[str] | None, typer.Argument(help="Products that the shopper took, oldest first.")
    ] = None,
    shopper: Annotated[
        str, typer.Option("--shopper", help="The shop's name for the shopper, as feedback names it.")
    ] = "",
    session: Annotated[str, typer.Option("--session", help="The shop's name for the visit.")] = "",
    target: Target = DEFAULT_TARGET,
    deadline: Annotated[float, duration("--deadline", "Time until the answer is useless.")] = 200.0,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say which product of the history brought each result, and how.")
    ] = False,
    page_size: Annotated[int, typer.Option("--page-size", "-n", help="Results wanted, 1 to 100.")] = 10,
    diversity: Annotated[
        float, typer.Option("--diversity", help="How much likeness to the results before costs, 0 to 1.")
    ] = 0.0,
    repeats: Annotated[
        bool, typer.Option("--repeats", help="Name what the shopper took already as well.")
    ] = False,
    brand: Brand = None,
    category: Category = None,
    price_min: PriceMin = None,
    price_max: PriceMax = None,
    in_stock: InStock = False,
    attribute: Attribute = None,
    min_sequence: Annotated[int, typer.Option("--min-sequence", help="Wait for this sequence.")] = 0,
    priority: Priority = None,
    as_json: Json = False,
) -> None:
    """Asks a running service what a shopper takes next."""
    from muster.client import Client

    conditions = filter_of(brand, category, price_min, price_max, in_stock, attribute)
    with Client(target) as client:
        started = time.perf_counter()
        answer = client.recommend(
            taken or (),
            shopper_id=shopper,
            session_id=session,
            deadline_ms=deadline,
            filter=conditions,
            page_size=page_size,
            min_sequence=min_sequence,
            explain=explain,
            priority=priority.value if priority is not None else None,
            diversity=diversity,
            repeats=repeats,
        )
        took_ms = (time.perf_counter() - started) * 1000
    if as_json:
        print_json({"deadline_ms": deadline, "took_ms": round(took_ms, 3), **plain(answer)})
        return
    _show(plain(answer), took_ms, deadline)


def _show(answer: Mapping[str, Any], took_ms: float, deadline_ms: float) -> None:
    from rich.text import Text

    from muster.explanation import brought, brought_sum

    console = make_console()
    show_results(console, answer["results"])
    for place, result in enumerate(answer["results"], start=1):
        if result["because"]:
            console.print(
                Text(f"{place}. {result['product_id']}: {brought(result)}\n   {brought_sum(result)}")
            )
    console.print(Text(history_line(answer["history"])))
    console.print(Text(receipt_line(answer["receipt"], took_ms, deadline_ms)))
