"""The settings files of a recommendation: TOML, each value with its reason."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from drills.rig.cluster import write_toml
from drills.tune.space import BY_NAME, CLIENT, LEASE, RANKING, REPLICAS, Point, Setting
from drills.tune.study import Result

REPLICA_FILE = "replica.toml"
CLIENT_FILE = "client.toml"
WIDTH = 108
_WHAT = {
    LEASE: ("ms without writes after a fault", "unavailable_s", 1000.0),
    RANKING: ("% of the flood not in time", "flood_missed_share", 100.0),
    CLIENT: ("% of the reads beside faults too late", "read_missed_share", 100.0),
    REPLICAS: ("replicas", "replicas", 1.0),
}
"""What shows a group first: in words, and the outcome's field, times what."""


def group_sentence(group: str, result: Result) -> str:
    """What a group of settings has changed, as it was measured and in points."""
    words, field, factor = _WHAT[group]
    before, after = (
        factor * fmean(getattr(one, field) for one in side) for side in (result.before, result.after)
    )
    points = result.decision.groups[group]
    difference = points.difference
    interval = "" if difference.low is None else f" [{difference.low:+.3f}, {difference.high:+.3f}]"
    return (
        f"{words}: {shown_number(before)} -> {shown_number(after)}; points {points.before:.3f} ->"
        f" {points.after:.3f}, difference {difference.mean:+.3f}{interval}"
    )


def reason(setting: Setting, point: Point, result: Result) -> str:
    """Why this value."""
    before, value = result.start[setting.name], point[setting.name]
    if value == before:
        return "as it was: no other value was surely better"
    ruled = result.ruled.point[setting.name] == value and setting.name in result.ruled.reasons
    how = (
        result.ruled.reasons[setting.name] if ruled else f"best of {len(result.found.tried)} points searched"
    )
    return f"was {shown_value(setting, before)}; {how}; {group_sentence(setting.group, result)}"


def shown_number(value: float) -> str:
    """Three digits, and all of those before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def shown_value(setting: Setting, value: float) -> str:
    """A value with its unit; 0 of a setting that has an automatic value says which."""
    if value == 0 and setting.automatic:
        return f"0 ({setting.automatic})"
    return f"{value:g} {setting.unit}".strip()


def write_settings(
    folder: Path, result: Result, *, sections: Mapping[str, Any], client: Mapping[str, Any]
) -> tuple[Path, Path]:
    """Writes what is recommended for replicas and clients, everything else as it was; returns both files.

    sections, client: the settings that were not tuned.
    """
    point = result.point
    replica: dict[str, Any] = {name: dict(values) for name, values in sections.items()}
    reasons: dict[str, str] = {}
    told_client: dict[str, Any] = dict(client)
    for name, value in point.items():
        setting, (section, _, short) = BY_NAME[name], name.partition(".")
        if not short or (value == setting.default == result.start[name]):
            continue
        if section == CLIENT:
            told_client[short] = value
        else:
            replica.setdefault(section, {})[short] = value
        reasons[name] = reason(setting, point, result)
    head = [
        f"Found by `muster drill tune` on {time.strftime('%Y-%m-%d')}; {len(result.before)} runs a side.",
        f"Replicas: {point[REPLICAS]:g}. {result.survival}.",
        f"In all {result.decision.total.before:.3f} -> {result.decision.total.after:.3f} points.",
    ]
    files = (folder / REPLICA_FILE, folder / CLIENT_FILE)
    texts = (
        _commented(write_toml(replica), reasons, ""),
        _commented(write_toml(told_client), reasons, CLIENT),
    )
    for path, text in zip(files, texts, strict=True):
        path.write_text("".join(f"# {line}\n" for line in head) + "\n" + text.lstrip("\n"), encoding="utf-8")
    return files


def _commented(text: str, reasons: Mapping[str, str], section: str) -> str:
    """TOML with a comment above each value that has a reason."""
    lines = []
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        told = reasons.get(f"{section}.{line.partition(' =')[0]}", "")
        lines += [f"# {part}" for part in textwrap.wrap(told, WIDTH)]
        lines.append(line)
    return "\n".join(lines) + "\n"
