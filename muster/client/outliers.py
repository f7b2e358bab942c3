"""Which replicas are left aside, and for how long: a state machine without clock, threads or sockets.

Two kinds of evidence. A replica that is unavailable or silent is left aside at once, for a moment that
doubles each time until it answers. A replica that answers, but slowly or with errors, is ejected once its
share of such answers stands out from that of the others; a load or a fault that hits all of them alike ejects
none. Either way it is then tried by one read at a time, and after an ejection it must answer well a few times
in a row. No replica is ejected where half of them are aside already, and "aside" means asked last, not never.

Compare outlier detection in Envoy; here the others are the measure, not a fixed threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

AVOID_MIN_S = 0.25
AVOID_MAX_S = 2.0
EJECT_MIN_S = 0.5
EJECT_MAX_S = 10.0

SILENCES_MAX = 2
"""Lost hedges in a row that count as a failure: one is what the slow twentieth of a healthy replica does."""

PROBES = 3
"""Good answers in a row by which an ejected replica comes back for good."""

_MEMORY = 32
_ENOUGH = 12.0
_BAD_SHARE_MIN = 0.25
_STANDS_OUT = 3.0
_FORGIVEN_AFTER = 64


@dataclass
class Standing:
    """The last answers of one replica, older ones weighing less: `weight` of them, of which `bad` were slow
    or failed."""

    weight: float = 0.0
    bad: float = 0.0

    def note(self, bad: bool) -> None:
        """One more answer."""
        fade = 1.0 - 1.0 / _MEMORY
        self.weight = self.weight * fade + 1.0
        self.bad = self.bad * fade + bad

    def clear(self) -> None:
        """Begin anew."""
        self.weight = self.bad = 0.0


@dataclass
class Replica:
    """One replica as this client knows it.

    failures: unavailable or silent so many times since it last answered. silences: hedges lost in a row.
    aside_until_s: monotonic seconds; asked last until then. ejections: how long the next ejection is, a power
    of two. probes_left: good answers it still owes after an ejection. good: good answers since the last
    ejection or forgiveness. applied: sequence up to which its last answer had the log.
    """

    endpoint: str
    failures: int = 0
    silences: int = 0
    aside_until_s: float = 0.0
    ejections: int = 0
    probes_left: int = 0
    good: int = 0
    applied: int = 0
    standing: Standing = field(default_factory=Standing)

    @property
    def on_trial(self) -> bool:
        """Tried by one read at a time."""
        return self.failures > 0 or self.probes_left > 0

    def rank(self, now_s: float) -> tuple[bool, bool, float]:
        """Lower ones are asked before. Of those that are aside, one that answers, badly as it may, comes
        before one that does not."""
        aside = self.aside_until_s > now_s
        return aside, aside and self.failures > 0, max(self.aside_until_s, now_s)

    def try_once(self, now_s: float) -> None:
        """A read goes to it: the others leave it alone until that one has ended."""
        if self.on_trial:
            self.aside_until_s = now_s + AVOID_MIN_S

    def fail(self, now_s: float) -> None:
        """It was unavailable, or silent for as long as a read could wait."""
        pause_s = min(AVOID_MAX_S, AVOID_MIN_S * 2**self.failures)
        self.failures = min(self.failures + 1, 8)
        self.silences = 0
        self.aside_until_s = max(self.aside_until_s, now_s + pause_s)

    def lose(self, now_s: float) -> None:
        """Another replica, asked later, answered first."""
        self.silences += 1
        if self.silences >= SILENCES_MAX:
            self.fail(now_s)

    def answer(self, bad: bool) -> None:
        """It answered. bad: slowly, or with an error that is not the caller's fault."""
        self.failures = self.silences = 0
        self.standing.note(bad)
        if self.probes_left == 0:
            self.aside_until_s = 0.0
        elif not bad:
            self.probes_left -= 1
            self.aside_until_s = 0.0
        if bad:
            return
        self.good += 1
        if self.good >= _FORGIVEN_AFTER and self.ejections:
            self.ejections -= 1
            self.good = 0

    def eject(self, now_s: float) -> None:
        """Leave it aside because it stands out."""
        pause_s = min(EJECT_MAX_S, EJECT_MIN_S * 2**self.ejections)
        self.ejections = min(self.ejections + 1, 8)
        self.aside_until_s = max(self.aside_until_s, now_s + pause_s)
        self.probes_left = PROBES
        self.good = 0
        self.standing.clear()


def to_eject(suspect: Replica, replicas: Sequence[Replica]) -> bool:
    """Whether the suspect, which has just answered badly, is to be ejected.

    During its probes one bad answer is enough. Otherwise its share of bad answers must be a quarter, and
    three times that of the others together. A replica that does not answer at all is no measure, and counts
    as left aside: of two that have gone, their old answers must not drive out the third.
    """
    rest = [replica for replica in replicas if replica is not suspect]
    if sum(replica.on_trial for replica in rest) >= len(replicas) // 2:
        return False
    if suspect.probes_left > 0:
        return True
    mine = suspect.standing
    others = [replica.standing for replica in rest if replica.failures == 0]
    weight = sum(standing.weight for standing in others)
    if mine.weight < _ENOUGH or weight < _ENOUGH:
        return False
    share = mine.bad / mine.weight
    usual = sum(standing.bad for standing in others) / weight
    return share >= max(_BAD_SHARE_MIN, _STANDS_OUT * usual)
