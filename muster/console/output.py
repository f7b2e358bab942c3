"""A job's output on a page: followed live, with its end in words."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui

from muster.console.frame import text
from muster.console.jobs import Jobs

_FOLLOW_S = 0.5
_LINES_A_TIME = 500


class Output:
    """Draws the last job of some jobs where it is made. ended: the words for an exit code."""

    def __init__(self, jobs: Jobs, title: str, ended: Callable[[int], str]) -> None:
        self._jobs = jobs
        self._ended = ended
        self._job = jobs.last
        self._seen = 0
        self._at_end = False
        with ui.element("section").classes("card") as self._card:
            text("h2", title)
            self._state = ui.label("").props('role="status" data-testid="job"')
            self._stop = ui.button("Stop it", on_click=jobs.stop).props("outline").classes("plain")
            self._log = (
                ui.element("div").classes("output").props('tabindex="0" role="log" aria-label="Output"')
            )
        self._timer = ui.timer(_FOLLOW_S, self.follow)

    def follow(self) -> None:
        """Shows what is new."""
        job = self._jobs.last
        self._card.set_visibility(job is not None)
        if job is None:
            return
        if job is not self._job:
            self._job, self._seen = job, 0
            self._at_end = False
            self._log.clear()
        fresh = job.since(self._seen)[-_LINES_A_TIME:]
        self._seen = job.told
        with self._log:
            for line in fresh:
                ui.label(line or " ")
        if fresh:
            ui.run_javascript(f"const e = getHtmlElement({self._log.id}); e.scrollTop = e.scrollHeight")
        self._stop.set_visibility(job.runs)
        if job.runs:
            self._state.text = f"{job.title}: under way."
        elif not self._at_end:
            self._at_end = True
            self._state.text = (
                f"{job.title}: {self._ended(job.exit_code if job.exit_code is not None else -1)}"
            )
