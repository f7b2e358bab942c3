"""The page says what was seen, escapes what it was told, and needs nothing but itself."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from drills.book import Drill
from drills.judges.alerts import Due
from drills.report.headlines import Headline
from drills.report.page import Section, draw, met, number, render, trend
from drills.report.summary import summarise
from tests.drills.report.made import history, read, run, write

DRILL = Drill(
    name="failover",
    hypothesis="writes are back",
    injection="kill -9",
    module="drills.failover",
    needs=(),
)
EVIL = '<script>alert("x")</script>'


class Text(HTMLParser):
    """Collects the words and the tags; whatever is opened must be closed."""

    VOID = ("meta", "img", "path", "line", "circle")

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def page(*sections: Section, picture: bytes | None = None) -> str:
    return render(sections, made_unix_s=1_700_000_000.0, picture=lambda _: picture)


def parsed(text: str) -> Text:
    found = Text()
    found.feed(text)
    assert found.open == []
    return found


def test_verdict_figures_target_and_the_run_before_are_on_the_page() -> None:
    text = page(Section(DRILL, [run(rto_ms=79.0), run(rto_ms=48.0)]), picture=b"PNG")
    words = " ".join(parsed(text).words)
    for wanted in (
        "held",
        "writes are back",
        "79 ms",
        "48 ms",
        "≤ 300 ms",
        "a processor",
        "50 % of the minute",
    ):
        assert wanted in words
    assert "data:image/png;base64,UE5H" in text
    assert 'class="trend"' in text


def test_when_its_alert_fired_is_among_a_drill_s_figures_with_what_is_allowed() -> None:
    alarmed = replace(DRILL, alerts=(Due("MusterPrimaryDown", 3.0),))
    figures = {"alerts": {"MusterPrimaryDown": {"fired_ms_max": 512.0}, "others": []}}
    section = Section(alarmed, [run(figures=figures)])
    assert section.headlines[-1].figure == "alerts.MusterPrimaryDown.fired_ms_max"
    words = " ".join(parsed(page(section)).words)
    assert "MusterPrimaryDown fired after, slowest" in words
    assert "512 ms" in words and "≤ 3,000 ms" in words


def test_where_no_alert_is_due_the_page_says_why_and_names_those_that_fired() -> None:
    quiet = replace(DRILL, silent="only clients see it")
    alerts = {"others": ["MusterStale"], "unforeseen": ["MusterStale"], "not_due": "all was kept"}
    words = " ".join(parsed(page(Section(quiet, [run(figures={"alerts": alerts})]))).words)
    assert "No alert is due: only clients see it." in words
    assert "No alert was due: all was kept." in words
    assert "Alerts without a known cause: MusterStale." in words


def test_what_was_never_run_says_how_to_run_it() -> None:
    words = " ".join(parsed(page(Section(DRILL, []))).words)
    assert "never run" in words
    assert "muster drill run failover" in words


def test_a_deviation_is_open_and_gives_its_reason() -> None:
    text = page(Section(DRILL, [run(verdict="deviated", reason="two writes lost")]))
    assert '<details id="failover" open>' in text
    assert "two writes lost" in text


def test_nothing_that_a_record_says_becomes_markup_and_nothing_is_fetched() -> None:
    nasty = run(verdict="deviated", reason=EVIL, version=EVIL, machine={"cpu": EVIL}, folder=f"x/{EVIL}")
    text = page(Section(DRILL, [nasty]))
    assert "script" not in parsed(text).tags
    assert "&lt;script&gt;" in text
    assert not re.search(r"""(src|href)=["'](?!data:image/png;base64,|#)""", text)
    assert "@import" not in text and "url(" not in text


def test_an_empty_book_is_a_page_too() -> None:
    parsed(page())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (3.0, "3 ms"),
        (1234.0, "1,234 ms"),
        (0.9993, "0.9993 ms"),
        (79.04, "79.0 ms"),
        (250.4, "250 ms"),
    ],
)
def test_figures_are_as_long_as_they_need_to_be(value: float | None, text: str) -> None:
    assert number(value, "ms" if value is not None else "") == text


def test_a_target_is_a_limit_from_above_or_below() -> None:
    upper, lower = Headline("a", "a", target=3.0), Headline("a", "a", target=3.0, at_least=True)
    assert (met(upper, 3.0), met(upper, 3.1), met(lower, 3.1), met(lower, 2.9)) == (True, False, True, False)
    assert met(upper, None) is None
    assert met(Headline("a", "a"), 1.0) is None


def test_a_line_over_time_stays_inside_its_box() -> None:
    line = trend([1.0, 5.0, 3.0], 9.0, "a < b")
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", line)]
    assert len(heights) == 3
    assert all(0 <= height <= 24 for height in heights)
    assert "a &lt; b" in line
    assert trend([1.0], None, "one") == ""
    assert "M0.0 22.0" in trend([2.0, 2.0], None, "level")


def test_a_history_becomes_a_picture_and_one_without_requests_none() -> None:
    full = history(read(1.0), write(1.5, 1), {"kind": "fault", "at_s": 2.0, "fault": "kill"}, read(3.0))
    section = Section(DRILL, [run()], full, summarise(full))
    picture = draw(section)
    assert picture is not None and picture.startswith(b"\x89PNG")
    assert draw(Section(DRILL, [run()], history())) is None
    assert draw(Section(DRILL, [run()])) is None
