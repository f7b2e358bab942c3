"""Finds those who give feedback faster than people do.

The rule: an actor is a shopper, or a session where no shopper is named. All feedback of an actor is left
out that has more than `per_minute_max` events within some 60 seconds, or more than `per_day_max` within
some 24 hours, or more than `per_receipt_max` on one answer, by the clock of the server. Views are not
counted: a page shows many products at once. Feedback that names neither shopper nor session cannot be told
apart: it is kept, and counted, and `named_only` leaves it out.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

_MINUTE_US = 60 * 1_000_000
_DAY_US = 24 * 60 * _MINUTE_US


@dataclass(frozen=True)
class FloodRule:
    """What a person does at most. Each 0: no bound."""

    per_minute_max: int = 60
    per_day_max: int = 2_000
    per_receipt_max: int = 200


@dataclass
class _Actor:
    minute: deque[int] = field(default_factory=deque)
    day: deque[int] = field(default_factory=deque)
    receipts: Counter[str] = field(default_factory=Counter)


class Floods:
    """Takes events in the order of their commit; afterwards `outliers` are known. Holds a day of times for
    each actor.
    """

    def __init__(self, rule: FloodRule) -> None:
        self._rule = rule
        self._actors: dict[str, _Actor] = {}
        self.outliers: dict[str, str] = {}

    def take(self, actor: str, committed_unix_us: int, receipt_id: str, *, view: bool) -> None:
        """Note one event. actor: empty: nobody that could be told apart."""
        if not actor or view or actor in self.outliers:
            return
        seen = self._actors.setdefault(actor, _Actor())
        rule = self._rule
        for times, length_us, most, name in (
            (seen.minute, _MINUTE_US, rule.per_minute_max, "minute"),
            (seen.day, _DAY_US, rule.per_day_max, "day"),
        ):
            if not most:
                continue
            times.append(committed_unix_us)
            while times[0] <= committed_unix_us - length_us:
                times.popleft()
            if len(times) > most:
                self._out(actor, f"more than {most:,} events a {name}")
                return
        if receipt_id and rule.per_receipt_max:
            seen.receipts[receipt_id] += 1
            if seen.receipts[receipt_id] > rule.per_receipt_max:
                self._out(actor, f"more than {rule.per_receipt_max:,} events on one answer")

    def _out(self, actor: str, why: str) -> None:
        self.outliers[actor] = why
        self._actors.pop(actor, None)


def actor_of(shopper: str, session: str) -> str:
    """Whom an event counts for; empty: nobody that could be told apart."""
    return shopper or session


def outliers(events: Iterable[tuple[str, int, str, bool]], rule: FloodRule) -> dict[str, str]:
    """Actors to leave out, and why. events: actor, time of commit, receipt, whether a view; by rising
    time.
    """
    floods = Floods(rule)
    for actor, committed_unix_us, receipt_id, view in events:
        floods.take(actor, committed_unix_us, receipt_id, view=view)
    return floods.outliers
