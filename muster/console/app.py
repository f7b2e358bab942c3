"""Wires the console together and serves it until it is interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from nicegui import ui

from muster.client import AsyncClient
from muster.console import drilling
from muster.console.access import Access
from muster.console.alerting import Alerts
from muster.console.jobs import Jobs
from muster.console.pages.alerts import AlertsPage
from muster.console.pages.bundles import BundlesPage
from muster.console.pages.drills import DrillsPage
from muster.console.pages.replicas import ReplicasPage
from muster.console.pages.search import SearchPage
from muster.console.settings import ConsoleSettings
from muster.console.watching import LOOK_EVERY_S, Watching

_FAVICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3"'
    ' fill="#0b57d0"/><path d="M3 12V4l5 5 5-5v8" fill="none" stroke="#fff" stroke-width="2"/></svg>'
)
# A drill's report is a page without scripts; it gets nothing of the console's rights, framed or alone.
_REPORT_HEADERS = {
    "content-security-policy": (
        "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
    )
}


class Console:
    """Everything that pages share. Must be made inside the event loop that serves them."""

    def __init__(self, settings: ConsoleSettings) -> None:
        self.settings = settings
        self.client = AsyncClient(settings.endpoints)
        self.watching = Watching(self.client, settings.metrics)
        self.alerts = Alerts()
        self.drills = Jobs()
        self.deploys = Jobs()

    async def watch(self) -> None:
        """Look at the replicas, and have the rules of alerts look too, until it is cancelled."""
        looking = asyncio.create_task(self.watching.run())
        try:
            while True:
                self.alerts.take(self.watching.pages, self.watching.looked_s)
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            looking.cancel()

    async def close(self) -> None:
        """Ends what was started."""
        await asyncio.gather(self.drills.stop(), self.deploys.stop())
        await self.client.close()


def make_app(settings: ConsoleSettings) -> FastAPI:
    """The ASGI application, without its guard."""
    consoles: list[Console] = []

    @contextlib.asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        console = Console(settings)
        consoles.append(console)
        watch = asyncio.create_task(console.watch())
        try:
            yield
        finally:
            watch.cancel()
            await console.close()

    app = FastAPI(lifespan=living, docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/drills/report")
    async def report() -> HTMLResponse:
        try:
            page = await asyncio.to_thread(drilling.report)
        # The records' own error is of another room, which may not be imported here.
        except Exception as error:
            return HTMLResponse(_problem_page(str(error)), 503, _REPORT_HEADERS)
        return HTMLResponse(page, headers=_REPORT_HEADERS)

    def console() -> Console:
        return consoles[-1]

    pages: dict[str, Callable[[], None]] = {
        "/": lambda: SearchPage(console().client, console().watching).draw(),
        "/replicas": lambda: ReplicasPage(console().watching).draw(),
        "/drills": lambda: DrillsPage(settings, console().drills).draw(),
        "/bundles": lambda: BundlesPage(settings, console().deploys).draw(),
        "/alerts": lambda: AlertsPage(console().alerts, console().watching).draw(),
    }
    for path, draw in pages.items():
        ui.page(path)(draw)
    ui.run_with(
        app,
        title="Muster console",
        favicon=_FAVICON,
        dark=None,
        language="en-GB",
        tailwind=False,
        show_welcome_message=False,
    )
    return app


def _problem_page(problem: str) -> str:
    from html import escape

    told = f"<p>There is no report: {escape(problem)}</p>"
    return f"<!doctype html><html lang='en-GB'><title>No report</title>{told}"


def serve(settings: ConsoleSettings, *, ready: Callable[[str], None]) -> None:
    """Serves the pages until SIGINT or SIGTERM. ready: told the address once it listens. Raises: OSError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
        listening.listen(128)
        port = int(listening.getsockname()[1])
        guarded = Access(make_app(settings), settings, lambda: port)
        config = uvicorn.Config(guarded, log_level="warning", lifespan="on", timeout_graceful_shutdown=2)
        shown = f"[{settings.host}]" if family == socket.AF_INET6 else settings.host
        ready(f"http://{shown}:{port}/")
        uvicorn.Server(config).run(sockets=[listening])
