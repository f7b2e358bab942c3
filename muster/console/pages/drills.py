"""Drills: the book, one run at a time with its output, history, and the report."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from nicegui import ui

from muster.commands.failures import MissingRoomError
from muster.console import drilling
from muster.console.frame import confirmed, framed, say, table, text
from muster.console.jobs import Busy, Jobs
from muster.console.output import Output
from muster.console.settings import ConsoleSettings


class DrillsPage:
    """The page of one browser."""

    def __init__(self, settings: ConsoleSettings, jobs: Jobs) -> None:
        self._settings = settings
        self._jobs = jobs

    def draw(self) -> None:
        """The whole page."""
        with framed("Drills"):
            ui.label(
                "Rehearsed failures: real replicas are started beside yours, something is broken, and a judge"
                " that reads only what callers saw gives the verdict."
            ).classes("muted")
            self._problem = ui.element("div")
            self._output = Output(self._jobs, "Output", drilling.ended)
            try:
                book = drilling.book()
            except MissingRoomError as error:
                say(str(error))
                return
            with ui.element("section").classes("card"):
                text("h2", "History")
                self._history = ui.element("div").style("min-width: 0")
                with ui.expansion("The report of all drills").props("dense") as report:
                    frame = ui.element("div")
                report.on_value_change(lambda event: _show_report(frame) if event.value else frame.clear())
            with ui.element("section").classes("card"):
                text("h2", "The book")
                with ui.element("ul").classes("drills"):
                    for drill in book:
                        self._draw_drill(drill)
            names = [str(drill["name"]) for drill in book]
            ui.timer(0.1, lambda: self._show_history(names), once=True)

    def _draw_drill(self, drill: dict[str, Any]) -> None:
        with ui.element("li"):
            with ui.element("div").classes("told"):
                text("h3", drill["name"]).style(
                    "font-weight: 650; font-size: 1rem; line-height: 1.4; margin: 0"
                )
                text("p", f"Breaks: {drill['injection']}.")
                text("p", f"Must hold: {drill['hypothesis']}.", "muted")
                text("p", drilling.alerts(drill), "muted")
                if drill["needs"]:
                    text("p", f"Needs {', '.join(drill['needs'])}.", "muted")
            with ui.element("div").classes("fields"):
                control = ui.checkbox("control").props(
                    f'aria-label="{drill["name"]}: without its protection"'
                )
                control.set_visibility(bool(drill["control"]))
                service = ui.checkbox("on the running service")
                service.set_visibility(bool(drill["target"]))

                async def run() -> None:
                    await self._run(drill, bool(control.value), bool(service.value))

                ui.button("Run", on_click=run).props(f'outline aria-label="Run {drill["name"]}"').classes(
                    "plain"
                )

    async def _run(self, drill: dict[str, Any], control: bool, service: bool) -> None:
        target = self._settings.target if service else ""
        self._problem.clear()
        if service and not await confirmed(
            f"Run {drill['name']} on the running service?",
            f"It is done to {target}, as far as the replicas' settings allow. `muster drill abort` ends it.",
            "Run it",
        ):
            return
        try:
            line = drilling.command(drill, control=control, target=target)
            await self._jobs.start(f"drill {drill['name']}" + (", control" if control else ""), line)
        except (ValueError, Busy, OSError) as error:
            with self._problem:
                say(f"{error}.")
            return
        self._output.follow()
        ui.run_javascript("window.scrollTo({top: 0})")

    async def _show_history(self, names: list[str]) -> None:
        try:
            found = await asyncio.to_thread(drilling.history, names)
        # The records' own error is of another room, which may not be imported here.
        except Exception as error:
            with self._history:
                say(f"The records cannot be read: {error}")
            return
        with contextlib.suppress(RuntimeError), self._history:
            if not found:
                ui.label("No drill has been run here.").classes("muted")
                return
            table(
                ["run", "drill", "verdict", "ended", "figures", "why"],
                [[str(p.number), p.drill, p.verdict, p.ended, p.figures, p.reason] for p in found],
                caption="Runs of drills, newest first",
                marked=[past.verdict == "deviated" for past in found],
            )


def _show_report(frame: ui.element) -> None:
    frame.clear()
    with frame:
        ui.element("iframe").classes("report").props(
            'src="/drills/report" title="Report of all drills" sandbox=""'
        )
        ui.link("Open it alone", "/drills/report", new_tab=True)
