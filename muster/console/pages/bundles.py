"""Bundles: cards side by side, what the replicas hold, deploying and going back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from nicegui import ui

from muster.client import MusterError
from muster.console import bundles
from muster.console.frame import confirmed, framed, say, table, text
from muster.console.jobs import Busy, Jobs
from muster.console.output import Output
from muster.console.settings import ConsoleSettings
from muster.deploy.deployer import phase_name
from muster.deploy.judge import Limits
from muster.deploy.replicas import Replicas
from muster.deploy.steps import View

_LOOK_S = 3.0


class BundlesPage:
    """The page of one browser."""

    def __init__(self, settings: ConsoleSettings, jobs: Jobs) -> None:
        self._settings = settings
        self._jobs = jobs
        self._cards: list[bundles.Card] = []

    def draw(self) -> None:
        """The whole page."""
        with framed("Bundles"):
            self._problem = ui.element("div")
            self._output = Output(self._jobs, "Deploy", ended)
            with ui.element("section").classes("card"):
                text("h2", "On the replicas")
                self._held = ui.element("div").style("min-width: 0")
                with ui.element("div").classes("fields"):
                    back = ui.button("Roll back", on_click=self._roll_back).props("outline").classes("plain")
                    back.tooltip("Serve the bundle before the last deploy again")
            with ui.element("section").classes("card"):
                text("h2", f"In the folder {self._settings.bundles}")
                self._requests = ui.number(
                    "Requests to compare", value=Limits.min_requests, min=1, precision=0, format="%d"
                ).props("outlined dense")
                self._requests.tooltip("In each of the two trials, before the next step")
                self._found = ui.element("div").style(
                    "min-width: 0; display: flex; flex-direction: column; gap: .8rem"
                )
                with self._found:
                    ui.label("Reading and verifying.").classes("muted")
            ui.timer(0.1, self._read, once=True)
            ui.timer(_LOOK_S, self._look)

    async def _look(self) -> None:
        try:
            views = await asyncio.to_thread(_look_at, self._settings.endpoints)
        except MusterError as error:
            views = []
            self._held.clear()
            with self._held:
                say(error)
            return
        self._held.clear()
        with self._held:
            table(
                ["replica", "serves", "candidate", "compared, served", "before", "deploy"],
                [_row(view) for view in views],
                caption="Bundles on the replicas",
            )

    async def _read(self) -> None:
        self._cards = await asyncio.to_thread(bundles.find, self._settings.bundles)
        self._found.clear()
        with self._found:
            if not self._cards:
                ui.label("There is no bundle here. `muster train` makes one; --bundles names another folder.")
                return
            titles = {str(place): card.title for place, card in enumerate(self._cards)}
            chosen = ui.select(titles, value=list(titles)[:2], multiple=True, label="Compare")
            chosen.props("outlined dense use-chips")
            compared = ui.element("div").style("min-width: 0")

            def show() -> None:
                compared.clear()
                cards = [self._cards[int(place)] for place in chosen.value]
                with compared:
                    self._compare(cards)

            chosen.on_value_change(show)
            show()

    def _compare(self, cards: Sequence[bundles.Card]) -> None:
        rows = bundles.compare(cards)
        table(
            ["", *(card.title for card in cards)],
            [[name, *texts] for name, texts, _ in rows],
            caption="Cards side by side",
            marked=[differs for _, _, differs in rows],
        )
        for card in cards:
            if card.problem:
                say(f"{card.title}: {card.problem}")
                continue

            async def deploy(card: bundles.Card = card) -> None:
                await self._deploy(card)

            ui.button(f"Deploy {card.folder.name}", on_click=deploy)

    async def _deploy(self, card: bundles.Card) -> None:
        # The folder is one that was found here, never one that a browser names.
        if await confirmed(
            f"Deploy {card.title}?",
            f"Every replica of {self._settings.target} loads it; a share of the requests is compared and"
            " then served with it, and then all. It goes back by itself on errors, latency, quality or"
            " disagreement.",
            "Deploy it",
        ):
            await self._start(f"deploy of {card.folder.name}", [str(card.folder), *self._trials()])

    def _trials(self) -> list[str]:
        """The option for what was asked for; the deployer's own where nothing was."""
        wanted = self._requests.value
        return [] if wanted is None or wanted < 1 else ["--min-requests", str(int(wanted))]

    async def _roll_back(self) -> None:
        if await confirmed(
            "Roll back?",
            f"Every replica of {self._settings.target} serves the bundle before the last deploy again,"
            " at once.",
            "Roll back",
        ):
            await self._start("roll-back", ["--roll-back"])

    async def _start(self, title: str, arguments: list[str]) -> None:
        self._problem.clear()
        line = ["-m", "muster.cli", "deploy", *arguments, "--target", self._settings.target]
        try:
            await self._jobs.start(title, line)
        except (Busy, OSError) as error:
            with self._problem:
                say(f"{error}.")
            return
        self._output.follow()


def ended(code: int) -> str:
    """The end of a deploy in words."""
    told = {0: "done.", 10: "rolled back; the output says why.", 130: "stopped; start it again to go on."}
    return told.get(code, "it could not be done; the output says why, and nothing else was changed.")


def _look_at(endpoints: Sequence[str]) -> list[View]:
    with Replicas(endpoints) as replicas:
        return replicas.look()


def _row(view: View) -> list[str]:
    held = view.bundles
    if held is None:
        return [view.endpoint, "no answer", "-", "-", "-", "-"]
    shares = f"{held.shadow_share:.0%}, {held.canary_share:.0%}" if held.HasField("candidate") else "-"
    last = held.deploy
    deploy = "-"
    if held.HasField("deploy"):
        deploy = f"{last.bundle_id}: {phase_name(last.phase).replace('_', ' ')}"
    return [
        held.replica,
        held.serving.bundle_id,
        held.candidate.bundle_id or "-",
        shares,
        held.previous.bundle_id or "-",
        deploy,
    ]
