"""Samples of series over time, as a scrape brings them, for as long as any window reaches back."""

from __future__ import annotations

import math
import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]
"""Label names and values, by name; without the name of the series."""

STALE_AFTER_S = 300.0
"""A series not seen for so long has no value now, as in Prometheus."""

_NAME = re.compile(r"[{\s]")
_THIN_EVERY = 256
_THINNED_SHARE = 0.01


@dataclass(frozen=True)
class Sample:
    """One value of one series."""

    name: str
    labels: Labels
    value: float


def labels_of(values: Mapping[str, str]) -> Labels:
    """Labels in the order in which they compare."""
    return tuple(sorted(values.items()))


def read_exposition(text: str, names: Collection[str], more: Mapping[str, str]) -> Iterator[Sample]:
    """The samples of these names on a ``/metrics`` page, each with ``more`` labels.

    Raises: ValueError for another text.
    """
    # Lines that nobody asks for are not parsed: a page has some hundred, the rules read some ten of them.
    wanted = "".join(f"{line}\n" for line in text.splitlines() if _NAME.split(line, 1)[0] in names)
    for family in text_string_to_metric_families(wanted):
        for sample in family.samples:
            yield Sample(sample.name, labels_of({**sample.labels, **more}), float(sample.value))


class _Points:
    """Times and values of one series, oldest first.

    Old ones are thinned: two neighbours are at most a hundredth of their age apart, so that a window of three
    days costs some hundred points.
    """

    def __init__(self) -> None:
        self.times = array("d")
        self.values = array("d")
        self.gone = False
        self._thin_at = _THIN_EVERY

    def add(self, at_s: float, value: float, keep_s: float) -> None:
        self.times.append(at_s)
        self.values.append(value)
        self.gone = False
        if len(self.times) >= self._thin_at:
            self._thin(at_s, keep_s)
            self._thin_at = len(self.times) + _THIN_EVERY

    def _thin(self, now_s: float, keep_s: float) -> None:
        times, values = array("d"), array("d")
        for at_s, value in zip(self.times, self.values, strict=True):
            age_s = now_s - at_s
            if age_s <= keep_s and (not times or at_s - times[-1] >= age_s * _THINNED_SHARE):
                times.append(at_s)
                values.append(value)
        self.times, self.values = times, values


class SeriesStore:
    """The samples of all targets. Not thread-safe: one evaluator owns it.

    names: of the series that are kept. keep_s: how far back windows reach. stale_after_s: as
    ``STALE_AFTER_S``.
    """

    def __init__(
        self, names: Collection[str], *, keep_s: float, stale_after_s: float = STALE_AFTER_S
    ) -> None:
        self._names = frozenset(names)
        self._keep_s = keep_s
        self._stale_after_s = stale_after_s
        self._series: dict[str, dict[Labels, _Points]] = {}
        self._by_target: dict[str, set[tuple[str, Labels]]] = {}

    def add(self, at_s: float, target: str, samples: Iterable[Sample]) -> None:
        """What a scrape of a target brought; whatever it brought before and not now has ended."""
        seen = set()
        for sample in samples:
            if sample.name not in self._names:
                continue
            points = self._series.setdefault(sample.name, {}).setdefault(sample.labels, _Points())
            if not math.isnan(sample.value):
                points.add(at_s, sample.value, self._keep_s)
                seen.add((sample.name, sample.labels))
        for name, labels in self._by_target.get(target, set()) - seen:
            self._series[name][labels].gone = True
        self._by_target[target] = seen

    def instant(
        self, name: str, matches: Callable[[Mapping[str, str]], bool], at_s: float
    ) -> dict[Labels, float]:
        """The value of each series at a moment; none of those that have ended or are stale."""
        found = {}
        for labels, points in self._series.get(name, {}).items():
            last = bisect_right(points.times, at_s) - 1
            current = last >= 0 and not (points.gone and last == len(points.times) - 1)
            if current and at_s - points.times[last] < self._stale_after_s and matches(dict(labels)):
                found[labels] = points.values[last]
        return found

    def window(
        self, name: str, matches: Callable[[Mapping[str, str]], bool], at_s: float, window_s: float
    ) -> dict[Labels, list[tuple[float, float]]]:
        """Times and values of each series that has any in the window that ends at a moment."""
        found = {}
        for labels, points in self._series.get(name, {}).items():
            first = bisect_right(points.times, at_s - window_s)
            last = bisect_right(points.times, at_s)
            if first < last and matches(dict(labels)):
                found[labels] = list(zip(points.times[first:last], points.values[first:last], strict=True))
        return found


def total_increase(points: Iterable[tuple[float, float]]) -> float:
    """How much a counter grew; after a reset it counts from 0."""
    growth, before = 0.0, None
    for _, value in points:
        if before is not None:
            growth += value - before if value >= before else value
        before = value
    return growth
