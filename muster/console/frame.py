"""What all pages share: the way between them, the theme, and how a problem is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nicegui import ui

from muster.console.failures import sentence

PAGES = (
    ("/", "Search"),
    ("/replicas", "Replicas"),
    ("/drills", "Drills"),
    ("/bundles", "Bundles"),
    ("/alerts", "Alerts"),
)
THEMES = {"auto": "Theme of the system", "light": "Light", "dark": "Dark"}

_CSS = Path(__file__).with_name("page.css")
# The choice is the browser's own and not known to the console, so it is kept there.
_REMEMBER = "localStorage.setItem('muster-theme', {theme!r})"
_RECALL = "localStorage.getItem('muster-theme') || 'auto'"


@contextmanager
def framed(title: str) -> Iterator[None]:
    """Everything around one page's own content."""
    ui.page_title(f"{title} - Muster console")
    ui.add_css(_CSS)
    dark = ui.dark_mode(None)
    main = ui.element("div").classes("page").props('id="content" tabindex="-1"')
    with ui.header().classes("top"), ui.element("div").classes("bar"):
        ui.skip_link("Skip to the content", target=main)
        ui.label("Muster").classes("brand")
        with ui.element("nav").props('aria-label="Pages"'):
            for path, name in PAGES:
                link = ui.link(name, path)
                if name == title:
                    link.props('aria-current="page"')
        _theme_switch(dark)
    with main:
        text("h1", title)
        yield


def _theme_switch(dark: ui.dark_mode) -> None:
    values = {"auto": None, "light": False, "dark": True}

    def choose(theme: str) -> None:
        dark.value = values.get(theme)

    async def recall() -> None:
        theme = await ui.run_javascript(_RECALL, timeout=5.0)
        if theme in values and theme != "auto":
            switch.value = theme

    def changed() -> None:
        choose(str(switch.value))
        ui.run_javascript(_REMEMBER.format(theme=str(switch.value)))

    switch = ui.select(THEMES, value="auto", label="Theme", on_change=changed)
    switch.props("dense outlined options-dense").style("min-width: 9rem")
    ui.timer(0.05, recall, once=True)


def text(tag: str, content: str, classes: str = "") -> ui.element:
    """One element with a text, which is never read as markup."""
    with ui.element(tag) as made:
        ui.label(content).style("display: inline")
    if classes:
        made.classes(classes)
    return made


def say(error: Exception | str) -> None:
    """Tells of a problem, so that a screen reader says it as well."""
    told = error if isinstance(error, str) else sentence(error)
    with ui.element("p").classes("bad").props('role="alert"'):
        ui.label(told)


def table(
    heads: Sequence[str], lines: Iterable[Sequence[str]], *, caption: str, marked: Sequence[bool] = ()
) -> None:
    """A table that can be scrolled sideways by keyboard. marked: lines that stand out, by their place."""
    with (
        ui.element("div").classes("scroll").props(f'tabindex="0" role="region" aria-label="{caption}"'),
        ui.element("table").classes("plain"),
    ):
        with ui.element("thead"), ui.element("tr"):
            for head in heads:
                text("th", head).props('scope="col"')
        with ui.element("tbody"):
            for place, line in enumerate(lines):
                with ui.element("tr") as row:
                    for cell in line:
                        text("td", cell)
                if place < len(marked) and marked[place]:
                    row.classes("differs")


async def confirmed(question: str, consequences: str, yes: str) -> bool:
    """Asks before something that others will notice; False where it is not wanted."""
    with ui.dialog().props('aria-label="Confirmation"') as dialog, ui.card():
        text("h2", question)
        ui.label(consequences)
        with ui.row():
            ui.button("Leave it", on_click=lambda: dialog.submit(False)).props("outline autofocus").classes(
                "plain"
            )
            ui.button(yes, on_click=lambda: dialog.submit(True))
    answer = await dialog
    dialog.delete()
    return bool(answer)
