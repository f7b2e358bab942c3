"""The report: one HTML page that needs nothing but itself.

Per drill what is claimed, what was seen, against the run before and the target, over time and as a picture of
the run. Every word that comes out of a record is escaped; there is no script on the page.
"""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from drills.book import Drill
from drills.experiment import Verdict
from drills.journal import History
from drills.report.headlines import HEADLINES, Headline, alert_headlines
from drills.report.records import Run
from drills.report.summary import Summary, deadline_of

NEVER = "never run"

_STYLE = resources.files("drills.report").joinpath("page.css").read_text(encoding="utf-8").strip()

_MARKS = {"held": "✓", "deviated": "✗", "inconclusive": "?", NEVER: "-"}


@dataclass(frozen=True)
class Section:
    """What the page says of one drill. runs: newest first; none: it was never run. history: of the newest
    run's most telling single run, with its summary; None: the record's files are gone.
    """

    drill: Drill
    runs: Sequence[Run]
    history: History | None = None
    summary: Summary | None = None

    @property
    def headlines(self) -> tuple[Headline, ...]:
        """The figures to show, the most telling one first."""
        return (*HEADLINES.get(self.drill.name, ()), *alert_headlines(self.drill.alerts))

    @property
    def verdict(self) -> str:
        """Of the newest run."""
        return self.runs[0].verdict if self.runs else NEVER


def render(
    sections: Sequence[Section], *, made_unix_s: float, picture: Callable[[Section], bytes | None]
) -> str:
    """The page. picture: draws a section's history as PNG; None where there is nothing to draw."""
    newest = max((section.runs[0] for section in sections if section.runs), key=_ended, default=None)
    body = [
        "<h1>Drills</h1>",
        f'<p class="dim">Made {_moment(made_unix_s)}. {_counts(sections)}.</p>',
    ]
    if newest is not None:
        body.append(f'<p class="dim">Newest run on {_machine(newest)}. {_noise(newest)}</p>')
    body += ['<div class="wide">', _overview(sections), "</div>"]
    body += [_section(section, picture(section)) for section in sections]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Drills, {_moment(made_unix_s)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def draw(section: Section) -> bytes | None:
    """The section's history over time, as PNG."""
    if section.history is None or not section.history.of("read") + section.history.of("write"):
        return None
    # Only where something is drawn: it takes a second to import.
    from drills.plot import timeline

    with tempfile.TemporaryDirectory() as folder:
        path = timeline(
            section.history,
            Path(folder) / "timeline.png",
            title=f"{section.drill.name}: {section.verdict}",
            deadline_ms=deadline_of(section.history),
        )
        return path.read_bytes()


def number(value: float | None, unit: str = "") -> str:
    """A figure for people."""
    if value is None:
        return "-"
    if value == int(value):
        text = f"{int(value):,}"
    elif abs(value) >= 100:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 10 else f"{value:.1f}"
    return f"{text} {unit}".strip()


def met(headline: Headline, value: float | None) -> bool | None:
    """Whether a figure keeps its target; None: there is none, or nothing was measured."""
    if headline.target is None or value is None:
        return None
    return value >= headline.target if headline.at_least else value <= headline.target


def trend(values: Sequence[float], target: float | None, label: str) -> str:
    """A line of figures over time, oldest first, with the target dashed."""
    if len(values) < 2:
        return ""
    low, high = (
        min(*values, *([target] if target is not None else [])),
        max(*values, *([target] if target is not None else [])),
    )
    span = (high - low) or 1.0

    def place(index: int, value: float) -> tuple[float, float]:
        return 100.0 * index / (len(values) - 1), 22.0 - 20.0 * (value - low) / span

    points = [place(index, value) for index, value in enumerate(values)]
    path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dashed = ""
    if target is not None:
        _, level = place(0, target)
        dashed = f'<line x1="0" x2="100" y1="{level:.1f}" y2="{level:.1f}"/>'
    return (
        '<svg class="trend" viewBox="-2 0 104 24" preserveAspectRatio="none" role="img"'
        f' aria-label="{html.escape(label)}"><title>{html.escape(label)}</title>{dashed}'
        f'<path d="{path}"/></svg>'
    )


def _overview(sections: Sequence[Section]) -> str:
    rows = []
    for section in sections:
        name = html.escape(section.drill.name)
        headline = section.headlines[0] if section.headlines else None
        figure = now = line = ""
        if headline is not None and section.runs:
            value = section.runs[0].figure(headline.figure)
            figure = html.escape(headline.name)
            now = html.escape(number(value, headline.unit) + _against(headline))
            line = _trend(section, headline)
        when = _moment(section.runs[0].ended_unix_s) if section.runs else ""
        rows.append(
            f'<tr><td><a href="#{name}">{name}</a></td><td>{_badge(section.verdict)}</td>'
            f'<td>{figure}</td><td class="number">{now}</td><td>{line}</td>'
            f'<td class="dim when">{when}</td></tr>'
        )
    return (
        '<div class="wide"><table><thead><tr><th>drill</th><th>verdict</th><th>figure</th>'
        '<th class="number">now</th><th>over time</th><th>last run</th></tr></thead><tbody>'
        + "\n".join(rows)
        + "</tbody></table></div>"
    )


def _section(section: Section, picture: bytes | None) -> str:
    drill, run = section.drill, section.runs[0] if section.runs else None
    # What needs a look is open.
    opened = " open" if section.verdict == Verdict.DEVIATED else ""
    parts = [
        f'<details id="{html.escape(drill.name)}"{opened}>',
        f"<summary><h2>{html.escape(drill.name)}</h2> {_badge(section.verdict)}</summary>",
        f"<p>Must hold: {html.escape(drill.hypothesis)}.</p>",
        f'<p class="dim">Breaks: {html.escape(drill.injection)}.</p>',
    ]
    if run is None:
        needs = f" It needs {html.escape(', '.join(drill.needs))}." if drill.needs else ""
        parts.append(
            f"<p>Never run here: <code>muster drill run {html.escape(drill.name)}</code>.{needs}</p>"
        )
    else:
        if run.reason:
            parts.append(f"<p><strong>{html.escape(run.reason)}</strong></p>")
        parts += ['<div class="wide">', _figures(section), "</div>", *_alerts(drill, run)]
        if picture is not None:
            data = base64.b64encode(picture).decode()
            about = f"{drill.name}: requests over time by tier, errors, the fault and its end"
            parts.append(f'<img alt="{html.escape(about)}" src="data:image/png;base64,{data}">')
        elif section.history is None:
            parts.append('<p class="dim">The files of this run are gone, so there is no picture of it.</p>')
        parts.append(
            f'<p class="dim">Run {run.number}, {_moment(run.ended_unix_s)}, version'
            f" {html.escape(run.version)}, on {_machine(run)}. {_noise(run)}"
            f" Record: {html.escape(Path(run.folder).name)}.</p>"
        )
    parts.append("</details>")
    return "\n".join(parts)


def _alerts(drill: Drill, run: Run) -> list[str]:
    """What the figures do not say of the alerts: why none is due, and which fired without a known cause."""
    told: dict[str, Any] = run.figures.get("alerts") or {}
    lines = []
    if drill.silent and told:
        lines.append(f'<p class="dim">No alert is due: {html.escape(drill.silent)}.</p>')
    if "not_due" in told:
        lines.append(f'<p class="dim">No alert was due: {html.escape(str(told["not_due"]))}.</p>')
    if unforeseen := told.get("unforeseen"):
        names = html.escape(", ".join(map(str, unforeseen)))
        lines.append(f"<p><strong>Alerts without a known cause: {names}.</strong></p>")
    return lines


def _figures(section: Section) -> str:
    now, before = section.runs[0], section.runs[1] if len(section.runs) > 1 else None
    rows = []
    for headline in section.headlines:
        value = now.figure(headline.figure)
        kept = met(headline, value)
        state = "" if kept is None else " held" if kept else " deviated"
        earlier = number(before.figure(headline.figure) if before else None, headline.unit)
        target = _against(headline).removeprefix(" of ") or "-"
        rows.append(
            f"<tr><td>{html.escape(headline.name)}</td>"
            f'<td class="number{state}">{html.escape(number(value, headline.unit))}</td>'
            f'<td class="number">{html.escape(earlier)}</td><td class="number">{html.escape(target)}</td>'
            f"<td>{_trend(section, headline)}</td></tr>"
        )
    summary = section.summary
    if summary is not None:
        rows += [
            f'<tr><td>{html.escape(name)}</td><td class="number">{html.escape(text)}</td>'
            '<td class="number">-</td><td class="number">-</td><td></td></tr>'
            for name, text in _told(summary)
        ]
    return (
        '<table><thead><tr><th>figure</th><th class="number">this run</th><th class="number">run before</th>'
        '<th class="number">target</th><th>over time</th></tr></thead><tbody>'
        + "\n".join(rows)
        + "</tbody></table>"
    )


def _told(summary: Summary) -> list[tuple[str, str]]:
    """What was measured of a summary, in words. It is of the single run that the picture shows."""
    told = [
        ("pictured run: writes back after (RTO)", summary.rto_ms, "ms"),
        ("pictured run: acknowledged writes lost (RPO)", summary.writes_lost, ""),
        ("pictured run: reads in time before the fault", summary.in_time_share_before, ""),
        ("pictured run: reads in time from the fault on", summary.in_time_share, ""),
        ("pictured run: quality kept from the fault on", summary.quality_kept, ""),
    ]
    return [(name, number(value, unit)) for name, value, unit in told if value is not None]


def _trend(section: Section, headline: Headline) -> str:
    values = [value for run in reversed(section.runs) if (value := run.figure(headline.figure)) is not None]
    if len(values) < 2:
        return ""
    between = f"{number(min(values), headline.unit)} to {number(max(values), headline.unit)}"
    label = f"{headline.name}, {len(values)} runs: {between}"
    return trend(values, headline.target, label)


def _against(headline: Headline) -> str:
    if headline.target is None:
        return ""
    return f" of {'≥' if headline.at_least else '≤'} {number(headline.target, headline.unit)}"


def _badge(verdict: str) -> str:
    kind = "never" if verdict == NEVER else html.escape(verdict)
    return f'<span class="verdict {kind}">{_MARKS.get(verdict, "?")} {html.escape(verdict)}</span>'


def _counts(sections: Sequence[Section]) -> str:
    kinds = [*(str(verdict) for verdict in Verdict), NEVER]
    counted = [(kind, sum(section.verdict == kind for section in sections)) for kind in kinds]
    return ", ".join(f"{count} {kind}" for kind, count in counted if count)


def _machine(run: Run) -> str:
    machine = run.machine
    return html.escape(
        f"{machine.get('cpu', 'an unknown processor')}, {machine.get('cores', '?')} cores,"
        f" Linux {machine.get('kernel', '?')}"
    )


def _noise(run: Run) -> str:
    told: list[tuple[str, Any]] = [
        ("durable write p99", run.noise.get("fsync_p99_ms")),
        ("read before the fault p99", run.noise.get("base_read_p99_ms")),
        ("generator late p99", run.noise.get("generator_stall_p99_ms")),
    ]
    parts = [f"{name} {number(value, 'ms')}" for name, value in told if value is not None]
    pressure = run.noise.get("cpu_pressure")
    if pressure is not None:
        parts.append(f"something waited for a core {100 * pressure:.0f} % of the minute")
    return html.escape(f"Noise: {', '.join(parts)}.") if parts else ""


def _moment(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _ended(run: Run) -> float:
    return run.ended_unix_s
