"""The page: one HTML file that needs nothing but itself.

Every word that comes out of the data is escaped; there is no script on it. Each figure's interval is drawn in
its row, so the table is the plot.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from muster.insight.analysis import Insight
from muster.insight.cleaning import REASONS
from muster.insight.hiding import FIGURES, Table

_STYLE = resources.files("muster.insight").joinpath("page.css").read_text(encoding="utf-8").strip()

SIMULATED = (
    "These shoppers do not exist. The events were made by a simulator, to show the page: nothing here says"
    " anything about a real shop."
)
_SECTIONS = (
    ("funnel", "From answer to purchase", ("funnel", "means")),
    ("positions", "By position", ("clicked_by_position", "bought_by_position")),
    ("tiers", "By tier", ("clicked_by_tier", "bought_by_tier", "lift")),
    ("queries", "Queries", ("queries", "queries_without_results", "queries_without_clicks")),
    ("segments", "Groups of shoppers", ("segments",)),
    ("returning", "Who comes back", ("returning", "cohorts")),
    ("time", "Over time", ("growth", "weekdays", "daily")),
)
_CARDS = (
    ("queries", "of answers have a click"),
    ("queries_without_results", "of answers show nothing"),
    ("returning", "of shoppers are back after a week"),
    ("growth", "from week to week"),
)
_NO_LABEL = (*FIGURES, "hidden", "weeks", "of_step_before", "of_step_before_low", "of_step_before_high")


def render(insight: Insight, sources: Sequence[str], made_unix_s: float) -> str:
    """The page. sources: what was read, in words."""
    body = [
        '<a class="skip" href="#funnel">To the figures</a>',
        "<h1>What shoppers did</h1>",
        f'<p class="dim">{insight.events:,} events of {insight.people:,} people, {insight.first_day} to'
        f" {insight.last_day} (UTC), from {_text(', '.join(sources))}. Made {_moment(made_unix_s)}.</p>",
    ]
    if insight.simulated:
        body.append(f'<p class="warn"><strong>{SIMULATED}</strong></p>')
    body.append(_cards(insight))
    links = [*((at, title) for at, title, _ in _SECTIONS), ("left-out", "What was left out")]
    body.append(
        '<nav aria-label="Sections">' + "".join(f'<a href="#{at}">{t}</a>' for at, t in links) + "</nav>"
    )
    body.append("<main>")
    for at, title, names in _SECTIONS:
        tables = [insight.table(name) for name in names]
        body.append(f'<section id="{at}"><h2>{title}</h2>')
        body += [_table(table, alone=len(tables) == 1) for table in tables]
        body.append("</section>")
    body += [_left_out(insight), _how(insight), "</main>"]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>What shoppers did</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _cards(insight: Insight) -> str:
    found = []
    funnel = insight.table("funnel").rows
    chosen = [(funnel[-1], "share", f"of sessions {funnel[-1]['step']}")] if funnel else []
    for name, text in _CARDS:
        table = insight.table(name)
        if table.rows:
            chosen.append((table.rows[0], table.unit, text))
    for row, unit, text in chosen:
        if not row["hidden"]:
            low, high = number(row["low"], unit), number(row["high"], unit)
            value = number(row["value"], unit)
            span = f'<span class="dim">{low} to {high}</span>'
            found.append(f"<div><b>{value}</b>{_text(text)}<br>{span}</div>")
    return f'<div class="cards">{"".join(found)}</div>'


def _table(table: Table, *, alone: bool) -> str:
    parts = [] if alone else [f"<h3>{_text(table.title)}</h3>"]
    if table.about and table.rows:
        parts.append(f'<p class="dim">{_text(table.about)}</p>')
    if table.rows:
        draw = {"cohorts": _matrix, "daily": _days}.get(table.name, _ranges)
        parts.append(draw(table))
    if table.note:
        kind = "warn" if table.name == "lift" and table.rows else "dim"
        parts.append(f'<p class="{kind}">{_text(table.note)}</p>')
    return "\n".join(parts)


def _ranges(table: Table) -> str:
    """A row for each figure: its name, its interval on the scale of the table, and the numbers."""
    labels = [name for name in table.rows[0] if name not in _NO_LABEL]
    seen = [row for row in table.rows if row.get("value") is not None]
    low = min([0.0, *(row["low"] for row in seen)])
    high = max([*(row["high"] for row in seen), low + 1e-9])
    steps = "of_step_before" in table.rows[0]
    head = "".join(f'<th scope="col">{_text(name.replace("_", " "))}</th>' for name in labels)
    head += '<th scope="col">interval</th><th scope="col" class="number">figure</th>'
    head += '<th scope="col" class="number">of the step before</th>' if steps else ""
    head += '<th scope="col" class="number">of</th><th scope="col" class="number">people</th>'
    lines = []
    for row in table.rows:
        cells = "".join(_label(name, row[name]) for name in labels)
        cells += f'<td class="range">{_range(row, table.unit, low, high)}</td>'
        if row.get("value") is None:
            hidden = f'<td class="number figure dim" colspan="{1 + steps}">too few people</td>'
            cells += f"{hidden}{_count(row, 'of')}{_count(row, 'people')}"
        else:
            cells += f'<td class="number figure">{_figure(row, table.unit)}</td>'
            if steps:
                before = number(row["of_step_before"], "share")
                cells += f'<td class="number" data-label="of the step before">{before}</td>'
            cells += _count(row, "of") + _count(row, "people")
        lines.append(f"<tr>{cells}</tr>")
    return _wide(f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>", table.title, "ranges")


def _label(name: str, value: Any) -> str:
    """A number says on a phone, where the table has no head, what it is."""
    what = f' data-name="{_text(name.replace("_", " "))}"' if isinstance(value, int) else ""
    return f'<th scope="row"{what}>{_text(str(value))}</th>'


def _range(row: dict[str, Any], unit: str, low: float, high: float) -> str:
    if row.get("value") is None:
        return ""

    def at(value: float) -> str:
        return f"{100 * (value - low) / (high - low):.2f}"

    zero = at(0.0)
    bar = ""
    if unit == "share":
        bar = f'<rect x="{zero}" y="4" width="{100 * row["value"] / (high - low):.2f}" height="10"/>'
    line = f'<line class="zero" x1="{zero}" x2="{zero}" y1="0" y2="18"/>' if low < 0 else ""
    told = html.escape(f"{number(row['low'], unit)} to {number(row['high'], unit)}")
    return (
        f'<svg viewBox="0 0 100 18" preserveAspectRatio="none" role="img" aria-label="{told}">{bar}{line}'
        f'<line class="span" x1="{at(row["low"])}" x2="{at(row["high"])}" y1="9" y2="9"/>'
        f'<line class="at" x1="{at(row["value"])}" x2="{at(row["value"])}" y1="4" y2="14"/></svg>'
    )


def _figure(row: dict[str, Any], unit: str) -> str:
    low, high = number(row["low"], unit, short=True), number(row["high"], unit, short=True)
    return f'{number(row["value"], unit)} <span class="dim">[{low}, {high}]</span>'


def _count(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    return f'<td class="number dim" data-label="{name}">{"-" if value is None else f"{value:,}"}</td>'


def _matrix(table: Table) -> str:
    weeks = sorted({row["weeks_later"] for row in table.rows})
    firsts = list(
        dict.fromkeys(row["first_week"] for row in sorted(table.rows, key=lambda row: row["first_week"]))
    )
    cells = {(row["first_week"], row["weeks_later"]): row for row in table.rows}
    top = max((row["value"] for row in table.rows if row["value"]), default=1.0)
    head = '<th scope="col">week of</th><th scope="col" class="number">new</th>'
    head += "".join(f'<th scope="col" class="number">+{week}</th>' for week in weeks)
    lines = []
    for first in firsts:
        new = next(
            (row["of"] for (one, _), row in cells.items() if one == first and row["of"] is not None), None
        )
        line = f'<th scope="row">{first}</th><td class="dim">{"-" if new is None else f"{new:,}"}</td>'
        for week in weeks:
            row = cells.get((first, week))
            if row is None:
                line += "<td></td>"
            elif row["value"] is None:
                line += '<td class="dim" title="too few people">·</td>'
            else:
                told = f"{number(row['low'], 'share')} to {number(row['high'], 'share')}"
                shade = 0.55 * row["value"] / top
                line += (
                    f'<td style="background: rgba(var(--cell), {shade:.2f})" title="{told}">'
                    f"{number(row['value'], 'share')}</td>"
                )
        lines.append(f"<tr>{line}</tr>")
    table_html = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    dots = '<p class="dim">·: too few people. Hold the pointer over a cell for its interval.</p>'
    return _wide(table_html, table.title, "matrix") + dots


def _days(table: Table) -> str:
    top = max((row["value"] for row in table.rows if row["value"]), default=1.0)
    width = 1000 / len(table.rows)
    bars = "".join(
        f'<rect x="{at * width:.1f}" y="{100 - 100 * row["value"] / top:.1f}" width="{width * 0.8:.1f}"'
        f' height="{100 * row["value"] / top:.1f}"><title>{row["day"]}: {row["count"]:,}</title></rect>'
        for at, row in enumerate(table.rows)
        if row["value"] is not None
    )
    told = _text(f"{table.about} {table.rows[0]['day']} to {table.rows[-1]['day']}, highest {top:,.0f}")
    hidden = sum(row["hidden"] for row in table.rows)
    note = f'<p class="dim">{hidden} days of too few people are not shown.</p>' if hidden else ""
    return (
        f'<svg class="days" viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="{told}">'
        f'{bars}</svg><div class="ends dim"><span>{table.rows[0]["day"]}</span>'
        f"<span>highest: {top:,.0f}</span><span>{table.rows[-1]['day']}</span></div>{note}"
    )


def _wide(table: str, title: str, kind: str = "") -> str:
    """A table that scrolls by itself, also by keyboard."""
    style = f' class="{kind}"' if kind else ""
    region = f'<div class="wide" tabindex="0" role="region" aria-label="{_text(title)}">'
    return f"{region}<table{style}>{table}</table></div>"


def _left_out(insight: Insight) -> str:
    left = insight.left_out
    items = [f"<li>{count:,} events {REASONS[name]}</li>" for name, count in left.events.items()]
    if left.floods != 0:
        who = f"fewer than {insight.least}" if left.floods is None else f"{left.floods:,}"
        items.append(f"<li>{who} acted faster than people do; their events are among the above</li>")
    if left.server_clock:
        kept = f"kept: {left.server_clock:,} events by the time they were recorded, as the caller's cannot be"
        items.append(f"<li>{kept}</li>")
    told = f"<ul>{''.join(items)}</ul>" if items else "<p>Nothing.</p>"
    return f'<section id="left-out"><h2>What was left out</h2>{told}</section>'


def _how(insight: Insight) -> str:
    return (
        '<section id="how"><h2>How to read it</h2>'
        "<p>Intervals are of 95 %: shares by Wilson, with as many observations as they are worth where one"
        " shopper's belong together; means by resampling shoppers. A row says what it is"
        " of, and how many people. People are shoppers, or visits where no shopper is named. With many rows"
        " some intervals miss the truth: one in twenty.</p>"
        f"<p>Groups of fewer than {insight.least} people are not shown, and where one group alone would be"
        " hidden, another one is too. No shopper is named; texts of queries are scrubbed.</p></section>"
    )


def number(value: float, unit: str, *, short: bool = False) -> str:
    """A figure for people. unit: of its table; short: without the unit."""
    if unit == "":
        return f"{value:,.2f}"
    digits = 2 if abs(value) < 0.0995 else 1
    text = f"{100 * value:+.{digits}f}" if unit in ("points", "change") else f"{100 * value:.{digits}f}"
    return text if short else f"{text} {'points' if unit == 'points' else '%'}"


def _text(text: str) -> str:
    return html.escape(text)


def _moment(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
