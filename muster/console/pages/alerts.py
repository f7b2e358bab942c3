"""Alerts: what fires, and every rule."""

from __future__ import annotations

from nicegui import ui

from muster.console.alerting import Alerts
from muster.console.frame import framed, say, table, text
from muster.console.watching import LOOK_EVERY_S, Watching


class AlertsPage:
    """The page of one browser."""

    def __init__(self, alerts: Alerts, watching: Watching) -> None:
        self._alerts = alerts
        self._watching = watching

    def draw(self) -> None:
        """The whole page; it follows the watch."""
        with framed("Alerts"):
            if self._alerts.problem:
                say(self._alerts.problem)
                return
            with ui.element("section").classes("card"):
                text("h2", "Firing")
                if not self._watching.reads_metrics:
                    say("Alerts need the replicas' metrics: start the console with --metrics HOST:PORT,...")
                self._firing = (
                    ui.element("div").props('role="status" aria-live="polite"').style("min-width: 0")
                )
            with ui.element("section").classes("card"):
                text("h2", "Rules")
                table(
                    ["alert", "severity", "must hold for", "what it means"],
                    [
                        [name, severity, f"{for_s:g} s", what]
                        for name, severity, for_s, what in self._alerts.rules()
                    ],
                    caption="Rules of alerts",
                )
            ui.timer(LOOK_EVERY_S, self._refresh)

    def _refresh(self) -> None:
        firing = self._alerts.firing()
        self._firing.clear()
        with self._firing:
            if not firing:
                ui.label("Nothing fires." if self._watching.reads_metrics else "Nothing is evaluated.")
                return
            table(
                ["alert", "severity", "since", "what"],
                [[one.name, one.severity, one.since, one.what] for one in firing],
                caption="Alerts that fire",
            )
