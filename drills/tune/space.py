"""The settings that are tuned, and a point: one value for each of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Point = Mapping[str, float]
"""Values by the names of settings."""

LEASE, RANKING, CLIENT, REPLICAS = "lease", "ranking", "client", "replicas"
GROUPS = (LEASE, RANKING, CLIENT, REPLICAS)
"""Settings of one group show in the same outcomes, so they are recommended together or not at all."""

WORKERS = "ranking.workers"
CHECK = "lease.check_every_ms"
TTL = "lease.ttl_ms"
BACKLOG = "ranking.backlog_ms"
GAIN = "ranking.price_gain"
CHUNK = "ranking.chunk_pairs"
HEDGE = "client.hedge_after_ms"


@dataclass(frozen=True)
class Setting:
    """name: with its section. default: as shipped. low, high: what may be searched. whole: no fractions.
    automatic: what the value 0 means; empty: 0 is no value. shows: what tells whether it is any good.
    """

    name: str
    unit: str
    group: str
    default: float
    low: float
    high: float
    shows: str
    whole: bool = False
    automatic: str = ""
    searched: bool = True

    def value(self, number: float) -> float:
        """As it is written: whole, or with three digits."""
        return round(number) if self.whole else float(f"{number:.3g}")


SETTINGS: tuple[Setting, ...] = (
    Setting(TTL, "ms", LEASE, 500, 100, 60_000, "how long writes are away when a primary hangs", whole=True),
    Setting(
        CHECK,
        "ms",
        LEASE,
        0,
        5,
        15_000,
        "how long writes are away when a primary dies",
        whole=True,
        automatic="an eighth of lease.ttl_ms",
    ),
    Setting(WORKERS, "threads", RANKING, 0, 1, 256, "the flood", whole=True, automatic="one for each core"),
    Setting(BACKLOG, "ms", RANKING, 0, 0.1, 60_000, "the flood", automatic="the time of one best plan"),
    Setting(GAIN, "times", RANKING, 1, 0.01, 100, "the flood"),
    Setting(
        CHUNK, "pairs", RANKING, 4, 1, 256, "the flood, where the bundle has a cross-encoder", whole=True
    ),
    Setting(HEDGE, "ms", CLIENT, 20, 0.5, 60_000, "reads beside faults"),
    Setting(
        REPLICAS,
        "",
        REPLICAS,
        3,
        2,
        8,
        "double_fault and rolling_restart",
        whole=True,
        searched=False,
    ),
)
BY_NAME: Mapping[str, Setting] = {setting.name: setting for setting in SETTINGS}


def shipped() -> dict[str, float]:
    """The point of a deployment that sets nothing."""
    return {setting.name: setting.default for setting in SETTINGS}


def starting_point(
    replica: Mapping[str, Any], client: Mapping[str, Any], replicas: int | None
) -> dict[str, float]:
    """The point of a deployment. replica: sections of its settings file. client: the client's settings.
    replicas: None: as shipped.

    Raises: ValueError naming a value that is no number.
    """
    point = shipped()
    sections = {**replica, CLIENT: client}
    for setting in SETTINGS:
        section, _, name = setting.name.partition(".")
        values = sections.get(section, {})
        if not name or not isinstance(values, Mapping) or name not in values:
            continue
        value = values[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{setting.name} = {value!r} is no number")
        point[setting.name] = setting.value(value)
    if replicas is not None:
        point[REPLICAS] = replicas
    return point


def key(point: Point) -> str:
    """One text for each point."""
    return json.dumps({name: float(point[name]) for name in sorted(point)})


def sound(point: Point) -> dict[str, float]:
    """The point with what one setting allows another one: a standby looks at least four times in a lease."""
    values = {name: BY_NAME[name].value(value) for name, value in point.items()}
    values[CHECK] = min(values[CHECK], values[TTL] // 4)
    return values


def group_of(point: Point, group: str) -> dict[str, float]:
    """The values of one group's settings."""
    return {name: value for name, value in point.items() if BY_NAME[name].group == group}


def changed(before: Point, after: Point) -> list[str]:
    """Names of the settings that differ."""
    return [setting.name for setting in SETTINGS if before[setting.name] != after[setting.name]]


def file_sections(point: Point) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """What the replicas' settings file and the client's settings hold of a point."""
    replica: dict[str, dict[str, float]] = {}
    client: dict[str, float] = {}
    for name, value in point.items():
        section, _, short = name.partition(".")
        if section == CLIENT:
            client[short] = value
        elif short:
            replica.setdefault(section, {})[short] = value
    return replica, client


def searched_ranges(
    ranges: Mapping[str, Sequence[float]], *, cross_encoder: bool
) -> dict[str, tuple[float, float]]:
    """What is searched on this machine with this bundle. A range that ends with 0 ends with the machine's
    cores; chunks of a cross-encoder matter only where there is one.
    """
    cores = len(os.sched_getaffinity(0))
    found = {}
    for name, (low, high) in ranges.items():
        if name == CHUNK and not cross_encoder:
            continue
        top = cores if name == WORKERS and high == 0 else high
        if top > low:
            found[name] = (float(low), float(top))
    return found
