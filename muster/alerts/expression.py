"""The part of PromQL that the rules use: parsed, and evaluated on a ``SeriesStore``.

    and, unless (with `on (labels)`)   > < >= <= == !=   + -   * /   numbers, parentheses
    selectors with = != =~ !~          sum max min count avg, with `by (labels)`
    over a window `[5m]`: rate increase delta changes max_over_time min_over_time avg_over_time
    time()

What Prometheus does beyond that is a parse error here, never another meaning. One difference is on purpose:
rate and increase are told from the first to the last sample in the window, not extrapolated to its edges.
Source of the semantics: the Prometheus documentation, "Querying Prometheus: operators, functions".
"""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from muster.alerts.series import Labels, SeriesStore, labels_of, total_increase

Vector = dict[Labels, float]
Value = float | Vector


class ExpressionError(ValueError):
    """The text is no expression that is understood here; says where."""


_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}


def duration_s(text: str) -> float:
    """Seconds of a duration as Prometheus writes it, such as 30s, 5m, 1h30m. Raises: ExpressionError."""
    if not re.fullmatch(r"(?:\d{1,9}(?:ms|[smhdw]))+", text, re.ASCII):
        raise ExpressionError(f"{text!r} is no duration such as 30s or 5m")
    return sum(
        int(count) * _UNITS_S[unit] for count, unit in re.findall(r"(\d+)(ms|[smhdw])", text, re.ASCII)
    )


@dataclass(frozen=True)
class Expression:
    """A node. Frozen; ``value`` touches nothing."""

    def value(self, store: SeriesStore, at_s: float) -> Value:
        """Its value at a moment: a number, or one for each series."""
        raise NotImplementedError

    def scaled(self, factor: float) -> Expression:
        """The same with every window multiplied."""
        changed = {
            field.name: node.scaled(factor)
            for field in fields(self)
            if isinstance(node := getattr(self, field.name), Expression)
        }
        return replace(self, **changed)

    def parts(self) -> Iterator[Expression]:
        """This node and all below it."""
        yield self
        for field in fields(self):
            node = getattr(self, field.name)
            if isinstance(node, Expression):
                yield from node.parts()

    def names(self) -> frozenset[str]:
        """Names of the series that it reads."""
        return frozenset(part.name for part in self.parts() if isinstance(part, Selector))

    def window_s(self) -> float:
        """The longest window in it, seconds; 0 without any."""
        return max((part.range_s for part in self.parts() if isinstance(part, Windowed)), default=0.0)


@dataclass(frozen=True)
class Number(Expression):
    """A constant."""

    number: float

    def value(self, store: SeriesStore, at_s: float) -> Value:
        return self.number


@dataclass(frozen=True)
class Now(Expression):
    """``time()``: the moment of the evaluation, seconds since 1970."""

    def value(self, store: SeriesStore, at_s: float) -> Value:
        return at_s


@dataclass(frozen=True)
class Selector(Expression):
    """Series of one name whose labels match. matchers: label, operator, text."""

    name: str
    matchers: tuple[tuple[str, str, str], ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a series with these labels is meant; a label that is not there is empty."""
        for label, how, text in self.matchers:
            found = labels.get(label, "")
            same = re.fullmatch(text, found) is not None if "~" in how else found == text
            if same == how.startswith("!"):
                return False
        return True

    def value(self, store: SeriesStore, at_s: float) -> Value:
        return store.instant(self.name, self.matches, at_s)


Points = list[tuple[float, float]]


def _rate(points: Points) -> float | None:
    took_s = points[-1][0] - points[0][0]
    return total_increase(points) / took_s if took_s > 0 else None


def _increase(points: Points) -> float | None:
    return total_increase(points) if len(points) > 1 else None


def _delta(points: Points) -> float | None:
    return points[-1][1] - points[0][1] if len(points) > 1 else None


def _changes(points: Points) -> float | None:
    return float(sum(now[1] != before[1] for before, now in itertools.pairwise(points)))


_OVER_WINDOWS: dict[str, Callable[[Points], float | None]] = {
    "rate": _rate,
    "increase": _increase,
    "delta": _delta,
    "changes": _changes,
    "max_over_time": lambda points: max(value for _, value in points),
    "min_over_time": lambda points: min(value for _, value in points),
    "avg_over_time": lambda points: math.fsum(value for _, value in points) / len(points),
}


@dataclass(frozen=True)
class Windowed(Expression):
    """A function of what each series was within a window."""

    function: str
    selector: Selector
    range_s: float

    def value(self, store: SeriesStore, at_s: float) -> Value:
        windows = store.window(self.selector.name, self.selector.matches, at_s, self.range_s)
        told = {labels: _OVER_WINDOWS[self.function](points) for labels, points in windows.items()}
        return {labels: value for labels, value in told.items() if value is not None}

    def scaled(self, factor: float) -> Windowed:
        return replace(self, range_s=self.range_s * factor)


_AGGREGATES: dict[str, Callable[[list[float]], float]] = {
    "sum": math.fsum,
    "max": max,
    "min": min,
    "count": lambda values: float(len(values)),
    "avg": lambda values: math.fsum(values) / len(values),
}


@dataclass(frozen=True)
class Aggregate(Expression):
    """One value for all series, or for each combination of the labels in ``by``."""

    function: str
    inner: Expression
    by: tuple[str, ...] = ()

    def value(self, store: SeriesStore, at_s: float) -> Value:
        inner = self.inner.value(store, at_s)
        if not isinstance(inner, dict):
            raise ExpressionError(f"{self.function} is of series, not of a number")
        groups: dict[Labels, list[float]] = {}
        for labels, value in inner.items():
            groups.setdefault(_only(labels, self.by), []).append(value)
        return {labels: _AGGREGATES[self.function](values) for labels, values in groups.items()}


def _divided(left: float, right: float) -> float:
    if right:
        return left / right
    return math.nan if left == 0 or math.isnan(left) else math.copysign(math.inf, left)


_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divided,
}
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True)
class Binary(Expression):
    """Arithmetic, or a comparison that keeps the series for which it is true.

    Two vectors meet where their labels are the same.
    """

    sign: str
    left: Expression
    right: Expression

    def value(self, store: SeriesStore, at_s: float) -> Value:
        left, right = self.left.value(store, at_s), self.right.value(store, at_s)
        if not isinstance(left, dict) and not isinstance(right, dict):
            if self.sign in _COMPARISONS:
                raise ExpressionError("two numbers cannot be compared")
            return _ARITHMETIC[self.sign](left, right)
        kept = left if isinstance(left, dict) else right
        assert isinstance(kept, dict)
        pairs = {
            labels: (
                left[labels] if isinstance(left, dict) else left,
                right[labels] if isinstance(right, dict) else right,
            )
            for labels in kept
            if not isinstance(right, dict) or labels in right
        }
        if self.sign in _COMPARISONS:
            holds = _COMPARISONS[self.sign]
            return {labels: kept[labels] for labels, pair in pairs.items() if holds(*pair)}
        compute = _ARITHMETIC[self.sign]
        return {labels: compute(*pair) for labels, pair in pairs.items()}


@dataclass(frozen=True)
class Both(Expression):
    """``and``, ``unless``: the series on the left that have, or have not, one on the right.

    on: the labels that are compared; None: all.
    """

    sign: str
    left: Expression
    right: Expression
    on: tuple[str, ...] | None = None

    def value(self, store: SeriesStore, at_s: float) -> Value:
        left, right = self.left.value(store, at_s), self.right.value(store, at_s)
        if not isinstance(left, dict) or not isinstance(right, dict):
            raise ExpressionError(f"{self.sign} stands between series, not numbers")
        there = {self._key(labels) for labels in right}
        return {
            labels: value
            for labels, value in left.items()
            if (self._key(labels) in there) == (self.sign == "and")
        }

    def _key(self, labels: Labels) -> Labels:
        return labels if self.on is None else _only(labels, self.on)


def _only(labels: Labels, names: Collection[str]) -> Labels:
    return labels_of({name: value for name, value in labels if name in names})


# --- parsing -----------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.]))
        |(?P<duration>(?:\d+(?:ms|[smhdw]))+(?!\w))
        |(?P<name>[A-Za-z_:][\w:]*)
        |(?P<text>"[^"\\]*"|'[^'\\]*')
        |(?P<sign>=~|!~|>=|<=|==|!=|[-+*/<>=(){}\[\],]))""",
    re.VERBOSE | re.ASCII,
)
_SET_SIGNS = ("and", "unless")
_TEXT_MAX = 4_096
_DEPTH_MAX = 50


def parse(text: str) -> Expression:
    """The expression that a text stands for. Raises: ExpressionError."""
    if len(text) > _TEXT_MAX:
        raise ExpressionError(f"longer than {_TEXT_MAX} characters")
    return _Parser(text).whole()


class _Parser:
    """Recursive descent, one method for each level of precedence."""

    _LEVELS: ClassVar = (tuple(_COMPARISONS), ("+", "-"), ("*", "/"))

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str, int]] = []
        self._at = 0
        self._depth = 0
        place = 0
        while text[place:].strip():
            match = _TOKEN.match(text, place)
            if match is None:
                raise ExpressionError(f"not understood at character {place}: {text[place:][:20]!r}")
            kind = str(match.lastgroup)
            self._tokens.append((kind, match[kind], place))
            place = match.end()
        self._tokens.append(("end", "", place))

    def whole(self) -> Expression:
        found = self._sets()
        if self._kind != "end":
            raise self._unexpected()
        return found

    @property
    def _kind(self) -> str:
        return self._tokens[self._at][0]

    @property
    def _token(self) -> str:
        return self._tokens[self._at][1]

    def _unexpected(self, wanted: str = "") -> ExpressionError:
        _, token, place = self._tokens[self._at]
        hint = f", {wanted} is wanted" if wanted else ""
        return ExpressionError(f"{token or 'the end'!r} is not expected at character {place}{hint}")

    def _take(self, token: str = "", kind: str = "") -> str:
        if (token and self._token != token) or (kind and self._kind != kind):
            raise self._unexpected(repr(token) if token else f"a {kind}")
        taken = self._token
        self._at += 1
        return taken

    def _sets(self) -> Expression:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise ExpressionError("nested too deeply")
        found = self._level(0)
        while self._token in _SET_SIGNS:
            sign = self._take()
            on = self._labels() if self._token == "on" and self._take() else None
            found = Both(sign, found, self._level(0), on)
        self._depth -= 1
        return found

    def _level(self, level: int) -> Expression:
        if level == len(self._LEVELS):
            return self._factor()
        found = self._level(level + 1)
        while self._kind == "sign" and self._token in self._LEVELS[level]:
            found = Binary(self._take(), found, self._level(level + 1))
        return found

    def _factor(self) -> Expression:
        if self._kind == "number":
            return Number(float(self._take()))
        if self._token == "(":
            self._take()
            inner = self._sets()
            self._take(")")
            return inner
        name = self._take(kind="name")
        if name == "time" and self._token == "(":
            self._take("(")
            self._take(")")
            return Now()
        if name in _AGGREGATES and self._token in ("(", "by"):
            by = self._labels() if self._token == "by" and self._take() else ()
            self._take("(")
            inner = self._sets()
            self._take(")")
            if not by and self._token == "by":
                self._take()
                by = self._labels()
            return Aggregate(name, inner, by)
        if name in _OVER_WINDOWS and self._token == "(":
            self._take("(")
            selector = self._selector(self._take(kind="name"))
            self._take("[")
            range_s = duration_s(self._take(kind="duration"))
            self._take("]")
            self._take(")")
            return Windowed(name, selector, range_s)
        if self._token == "(":
            raise ExpressionError(f"the function {name!r} is not known here")
        return self._selector(name)

    def _selector(self, name: str) -> Selector:
        matchers = []
        if self._token == "{":
            self._take()
            while self._token != "}":
                label = self._take(kind="name")
                how = self._take(kind="sign")
                if how not in ("=", "!=", "=~", "!~"):
                    self._at -= 1
                    raise self._unexpected("one of = != =~ !~")
                text = self._take(kind="text")[1:-1]
                if "~" in how:
                    _check_pattern(text)
                matchers.append((label, how, text))
                if self._token != "}":
                    self._take(",")
            self._take("}")
        return Selector(name, tuple(matchers))

    def _labels(self) -> tuple[str, ...]:
        self._take("(")
        names = [self._take(kind="name")]
        while self._token == ",":
            self._take()
            names.append(self._take(kind="name"))
        self._take(")")
        return tuple(names)


def _check_pattern(text: str) -> None:
    """Alternatives of plain words, and `.*`: what Go's and Python's expressions agree on."""
    if not re.fullmatch(r"(?:[\w |-]|\.[*+])*", text, re.ASCII):
        raise ExpressionError(f"the pattern {text!r} may hold words, '|', '.*' and '.+' alone")
