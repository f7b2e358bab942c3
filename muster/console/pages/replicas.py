"""Replicas: who does what now, and the course of the last minutes."""

from __future__ import annotations

import time
from typing import Any

from nicegui import ui

from muster.console.frame import framed, table, text
from muster.console.watching import LOOK_EVERY_S, Moment, Watching, rows

_COLUMNS = (
    ("replica", "replica"),
    ("role", "role"),
    ("serving", "reads"),
    ("epoch", "epoch"),
    ("sequence", "sequence"),
    ("staleness", "lag"),
    ("products", "products"),
    ("bundle", "bundle"),
    ("generation", "generation"),
    ("in_flight", "in flight"),
    ("best", "best plan, its cost now"),
    ("endpoint", "endpoint"),
)
_COLOURS = ("#3b82c4", "#d07a1f", "#3f9d5f", "#9a63c4", "#c4506a", "#7a8794")


class ReplicasPage:
    """The page of one browser."""

    def __init__(self, watching: Watching) -> None:
        self._watching = watching

    def draw(self) -> None:
        """The whole page; it follows the watch."""
        with framed("Replicas"):
            with ui.element("section").classes("card"):
                self._told = ui.label("").props('role="status"')
                self._table = ui.element("div").style("min-width: 0")
            with ui.element("div").classes("grid"):
                self._charts = {
                    "per_s": _chart("Answers a second", self._watching.reads_metrics),
                    "in_time": _chart("Share answered in time", self._watching.reads_metrics, top=1.0),
                    "tiers": _chart("Answers a second by tier", self._watching.reads_metrics),
                    "price": _chart("Price, nDCG per ms of a core", True),
                    "lag": _chart("Lag, events behind the newest", True),
                    "in_flight": _chart("Requests waiting or running", True),
                }
            if not self._watching.reads_metrics:
                ui.label(
                    "The first three need the replicas' metrics: start the console with --metrics HOST:PORT,"
                    " as the replicas' setting metrics.listen says. Without them the price is that of this"
                    " console's last search."
                ).classes("muted")
            ui.timer(LOOK_EVERY_S, self._refresh)

    def _refresh(self) -> None:
        watching = self._watching
        found = rows(watching.found)
        silent = [row for row in found if row["role"] == "no answer"]
        primaries = [row["replica"] for row in found if row["role"] == "primary"]
        at = time.strftime("%H:%M:%S", time.localtime(watching.looked_s))
        told = f"{len(found) - len(silent)} of {len(found)} replicas answer; " + (
            f"{', '.join(primaries)} is primary."
            if primaries
            else "none is primary, so nothing can be written."
        )
        self._told.text = f"{told} Looked at {at}." if found else "Looking."
        self._table.clear()
        with self._table:
            table(
                [head for _, head in _COLUMNS],
                [[str(row.get(key, "-")) for key, _ in _COLUMNS] for row in found],
                caption="Replicas",
                marked=[row["role"] == "no answer" for row in found],
            )
            for row in silent:
                text("p", f"{row['endpoint']} does not answer: {row['problem']}", "bad")
        moments = list(watching.moments)
        _plot(self._charts["per_s"], moments, {"answers": lambda m: m.per_s})
        _plot(self._charts["in_time"], moments, {"in time": lambda m: m.in_time})
        tiers = sorted({tier for moment in moments for tier, rate in moment.tiers.items() if rate})
        _plot(
            self._charts["tiers"], moments, {t: (lambda m, t=t: m.tiers.get(t)) for t in tiers}, stacked=True
        )
        _plot(self._charts["price"], moments, {"price": lambda m: m.price})
        names = sorted({name for moment in moments for name in moment.lag})
        _plot(self._charts["lag"], moments, {n: (lambda m, n=n: m.lag.get(n)) for n in names})
        _plot(self._charts["in_flight"], moments, {"in flight": lambda m: m.in_flight})


def _chart(title: str, shown: bool, *, top: float | None = None) -> ui.echart:
    with ui.element("section").classes("card") as card:
        text("h2", title)
        chart = ui.echart(
            {
                "animation": False,
                "color": list(_COLOURS),
                "grid": {"left": 8, "right": 12, "top": 28, "bottom": 8, "containLabel": True},
                "tooltip": {"trigger": "axis"},
                "legend": {"top": 0, "type": "scroll"},
                "xAxis": {"type": "time", "splitNumber": 4},
                "yAxis": {"type": "value", "min": 0, "splitLine": {"lineStyle": {"opacity": 0.3}}}
                | ({} if top is None else {"max": top}),
                "series": [],
            },
            renderer="svg",
        )
        chart.classes("chart").props(f'role="img" aria-label="{title}, over the last five minutes"')
    card.set_visibility(shown)
    return chart


def _plot(chart: ui.echart, moments: list[Moment], lines: dict[str, Any], *, stacked: bool = False) -> None:
    chart.options["legend"]["show"] = len(lines) > 1
    chart.options["series"] = [
        {
            "name": name,
            "type": "line",
            "showSymbol": False,
            "connectNulls": True,
            "data": [[moment.at_s * 1000, value(moment)] for moment in moments],
        }
        | ({"stack": "all", "areaStyle": {"opacity": 0.35}} if stacked else {})
        for name, value in lines.items()
    ]
    chart.update()
