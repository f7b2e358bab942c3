"""The page is whole, needs nothing but itself, and escapes what is in the data."""

from __future__ import annotations

from html.parser import HTMLParser

from muster.insight.analysis import Choice, Insight, analyse
from muster.insight.page import SIMULATED, number, render
from tests.muster.insight.conftest import NOW_US
from tests.muster.insight.event_rows import events, row

_VOID = {"meta", "br", "line", "rect"}


class _Balanced(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.open.append(tag)
        self.ids += [value for name, value in attributes if name == "id" and value]
        self.links += [value for name, value in attributes if name in ("href", "src") and value]

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag


def test_the_page_is_well_formed_and_loads_nothing(insight: Insight) -> None:
    page = render(insight, ["a simulated shop"], 0.0)
    parser = _Balanced()
    parser.feed(page)
    assert not parser.open
    assert len(parser.ids) == len(set(parser.ids))
    assert all(link.startswith("#") and link[1:] in parser.ids for link in parser.links)
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_simulated_shop_is_called_one(insight: Insight) -> None:
    assert SIMULATED in render(insight, ["x"], 0.0)


def test_what_was_left_out_is_on_the_page(insight: Insight) -> None:
    page = render(insight, ["x"], 0.0)
    assert "3,600 events of those who act faster than people do" in page
    assert "fewer than 10 acted faster than people do" in page
    assert "60 events on answers that were never given" in page
    assert "90 events told twice" in page
    assert "kept: 40 events by the time they were recorded" in page


def test_words_of_the_data_are_escaped() -> None:
    rows = [
        row(
            "answer",
            person,
            receipt_id=f"a{person}",
            results=3,
            query="<b onclick=x>hose</b>",
            tier="<i>late</i>",
        )
        for person in range(20)
    ]
    page = render(analyse(events(rows), {}, Choice(), NOW_US), ["<u>file</u>"], 0.0)
    for raw in ("<b ", "<i>", "<u>"):
        assert raw not in page.replace("<b>", "")
    assert "&lt;b onclick=x&gt;hose" in page


def test_figures_are_written_for_people() -> None:
    assert number(0.1234, "share") == "12.3 %"
    assert number(0.0123, "share") == "1.23 %"
    assert number(0.0123, "points") == "+1.23 points"
    assert number(-0.2, "change") == "-20.0 %"
    assert number(1.5, "", short=True) == "1.50"
