"""Search: what a deadline buys, product by product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from muster.client import AsyncClient, MusterError
from muster.commands.output import number
from muster.console import asking
from muster.console.frame import framed, say, text
from muster.console.watching import Watching
from muster.explanation import Explanation, explain, for_auditor, for_shopper, looked_at, shown_value

_START_MS = 50.0
_PARTS_SHOWN = 6


class SearchPage:
    """One browser's search. An answer that comes after a newer question was asked is dropped."""

    def __init__(self, client: AsyncClient, watching: Watching) -> None:
        self._client = client
        self._watching = watching
        self._asked = 0
        self._chosen: dict[str, set[str]] = {"brand": set(), "category": set()}

    def draw(self) -> None:
        """The whole page."""
        with framed("Search"):
            with ui.element("form").classes("card").props('role="search"').on("submit.prevent", self._search):
                self._draw_fields()
            self._status = ui.element("div").props('role="status" aria-live="polite"')
            self._answer = ui.element("div").classes("page").style("padding: 0")
            with self._answer:
                ui.label(
                    "Ask for something: the deadline decides how good the answer can be, and the page shows"
                    " what a longer one would change."
                ).classes("muted")

    def _draw_fields(self) -> None:
        with ui.element("div").classes("fields"):
            self._query = ui.input("What the shopper types").props("outlined dense maxlength=1024 name=query")
            self._query.classes("wide")
            ui.button("Search").props("type=submit")
        with ui.element("div").classes("fields"):
            self._deadline = ui.number(
                "Deadline, ms", value=_START_MS, min=asking.DEADLINE_MS_MIN, max=10_000, on_change=self._typed
            )
            self._deadline.props("outlined dense").classes("narrow")
            self._slider = ui.slider(
                min=0, max=1, step=0.01, value=asking.position_of(_START_MS), on_change=self._slid
            )
            self._slider.classes("wide").props('aria-label="Deadline, from 2 to 200 ms, logarithmic"')
        with ui.element("div").classes("fields"):
            self._price_min = (
                ui.number("Price from", min=0).props("outlined dense clearable").classes("narrow")
            )
            self._price_max = ui.number("Price to", min=0).props("outlined dense clearable").classes("narrow")
            self._in_stock = ui.checkbox("Not sold out")
            self._shopper = ui.input("Shopper").props(
                "outlined dense clearable maxlength=256 autocomplete=off name=shopper"
            )
            self._shopper.classes("narrow")

    def _slid(self) -> None:
        value = asking.deadline_of(float(self._slider.value))
        if abs(asking.position_of(float(self._deadline.value or 0) or 2.0) - self._slider.value) > 0.006:
            self._deadline.value = value

    def _typed(self) -> None:
        if self._deadline.value:
            position = asking.position_of(float(self._deadline.value))
            if abs(position - self._slider.value) > 0.006:
                self._slider.value = round(position, 2)

    def _wish(self) -> asking.Wish:
        return asking.Wish(
            query=str(self._query.value or ""),
            deadline_ms=float(self._deadline.value or 0.0),
            brands=tuple(sorted(self._chosen["brand"])),
            categories=tuple(sorted(self._chosen["category"])),
            price_min=self._price_min.value,
            price_max=self._price_max.value,
            in_stock=bool(self._in_stock.value),
            shopper=str(self._shopper.value or ""),
        )

    async def _search(self) -> None:
        self._asked += 1
        asked, wish = self._asked, self._wish()
        self._tell("Searching.")
        try:
            found = await asking.ask(self._client, wish, deadline_ms=wish.deadline_ms)
        except MusterError as error:
            if asked == self._asked:
                self._tell(error)
            return
        self._watching.price_seen = float(found.receipt["price"])
        longer: asking.Found | MusterError
        try:
            longer_ms = asking.longer_deadline_ms(wish.deadline_ms)
            longer = await asking.ask(self._client, wish, deadline_ms=longer_ms, explain=False)
        except MusterError as error:
            longer = error
        if asked == self._asked:
            self._tell(asking.receipt_words(found))
            self._show(found, longer)

    def _tell(self, told: MusterError | str) -> None:
        self._status.clear()
        with self._status:
            if isinstance(told, MusterError):
                say(told)
            else:
                ui.label(told).props('data-testid="receipt"')

    def _show(self, found: asking.Found, longer: asking.Found | MusterError) -> None:
        self._answer.clear()
        with self._answer:
            moves: dict[str, asking.Move] = {}
            with ui.element("section").classes("card"):
                text("h2", "What a longer deadline would have changed")
                if isinstance(longer, MusterError):
                    say(longer)
                else:
                    comparison = asking.compare(found.results, longer.results)
                    moves = {move.product_id: move for move in comparison.moves}
                    self._show_comparison(comparison, longer)
            with (
                ui.element("div")
                .classes("grid")
                .style("grid-template-columns: repeat(auto-fit, minmax(min(100%, 16rem), 1fr))")
            ):
                self._show_facets(found)
            with ui.element("section").classes("card"):
                text("h2", "Products")
                if not found.results:
                    ui.label("No product matches. Take a filter away, or ask with other words.")
                with ui.element("ol").classes("results").props('data-testid="results"'):
                    for place, result in enumerate(found.results, start=1):
                        self._show_result(place, result, moves.get(result["product_id"]))
            self._show_receipt(found)

    def _show_comparison(self, comparison: asking.Comparison, longer: asking.Found) -> None:
        receipt = longer.receipt
        ui.label(
            f"{comparison.told()} ({longer.deadline_ms:g} ms: tier {receipt['tier']}, answered in"
            f" {longer.took_ms:.1f} ms, worth {receipt['expected_ndcg']:.0%} of the best plan.)"
        ).props('data-testid="longer"')
        new = [move for move in comparison.moves if move.before is None]
        if new:
            with ui.element("ul").style("margin: 0; padding-left: 1.2rem"):
                for move in new:
                    text("li", f"{move.title} {move.told()}")

    def _show_facets(self, found: asking.Found) -> None:
        for facet in found.answer["facets"]:
            name = facet["field"]
            with ui.element("section").classes("card"):
                text("h2", name.capitalize())
                if not facet["counts"]:
                    ui.label("none").classes("muted")
                for count in facet["counts"][:6]:
                    self._draw_choice(name, count)

    def _draw_choice(self, name: str, count: Mapping[str, Any]) -> None:
        value = str(count["value"])

        async def changed(event: Any) -> None:
            (self._chosen[name].add if event.value else self._chosen[name].discard)(value)
            await self._search()

        ui.checkbox(
            f"{value} ({count['count']})", value=value in self._chosen[name], on_change=changed
        ).props("dense")

    def _show_result(self, place: int, result: Mapping[str, Any], move: asking.Move | None) -> None:
        with ui.element("li").classes("result"):
            text("div", str(place), "place")
            with ui.element("div").classes("body"):
                text("div", result["title"] or result["product_id"], "title")
                stock = result.get("stock")
                facts = [
                    result["brand"] or "brand unknown",
                    f"price {number(result.get('price'))}"
                    if result.get("price") is not None
                    else "price unknown",
                    "stock unknown" if stock is None else (f"{stock} in stock" if stock else "sold out"),
                    f"score {result['score']:.4f}",
                ]
                text("div", ", ".join(facts), "muted")
                if move is not None and move.before != move.after:
                    rises = move.after is not None and move.after < (move.before or 0)
                    text(
                        "div",
                        f"With a longer deadline it {move.told()}.",
                        f"moved {'good' if rises else 'warn'}",
                    )
                explanation = explain(result)
                if explanation is not None:
                    text("div", f"{for_shopper(explanation)} {looked_at(result)}".strip())
                    with ui.expansion("Why, in numbers").props("dense dense-toggle"):
                        _draw_parts(explanation)

    def _show_receipt(self, found: asking.Found) -> None:
        timings = found.receipt["timings"]
        told = [
            f"{name.removesuffix('_us')} {value / 1000:.2f} ms" for name, value in timings.items() if value
        ]
        with ui.element("section").classes("card"):
            text("h2", "Receipt")
            ui.label(
                f"Replica {found.receipt['replica']}, bundle {found.receipt['bundle_id']}, generation"
                f" {found.receipt['generation_id']}, sequence {found.receipt['applied_sequence']}, epoch"
                f" {found.receipt['epoch']}, {found.receipt['staleness_ms']} ms behind the log at most, price"
                f" {found.receipt['price']:.4g}."
            )
            ui.label(f"Where the time went: {', '.join(told) or 'too little to tell'}.").classes("muted")


def _draw_parts(explanation: Explanation) -> None:
    """Bars of what each signal adds, to one scale: left of the middle lowers the score, right raises it."""
    most = max((abs(part.contribution) for part in explanation.parts), default=0.0) or 1.0
    with ui.element("div").classes("parts"):
        for part in explanation.parts[:_PARTS_SHOWN]:
            ui.label(f"{part.signal} ({shown_value(part.value)})").style("overflow-wrap: anywhere")
            with ui.element("div").classes("track").props('aria-hidden="true"'):
                width = 50 * abs(part.contribution) / most
                left, colour = (50.0, "up") if part.contribution >= 0 else (50 - width, "down")
                ui.element("div").classes("fill").style(
                    f"left: {left:.2f}%; width: {width:.2f}%; background: var(--{colour})"
                )
                ui.element("div").classes("zero").style("left: 50%")
            ui.label(f"{part.contribution:+.4f}").classes("figure")
    ui.label(for_auditor(explanation, parts_max=_PARTS_SHOWN)).classes("muted").style(
        "font-size: .85rem; overflow-wrap: anywhere"
    )
