"""Takes one shopper out of a store, while it serves or while nobody does, and remembers it for backups.

Feedback is the shopper's by its pseudonym, or, where it names no shopper, by a session that also has
feedback of the shopper's. What a backup from before the erasure brings back is erased again: the file of
marks says whom, without saying who that was.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from muster.privacy.pseudonyms import SHOPPER
from muster.v1.feedback_pb2 import Feedback
from server.catalogue.feedback import Erased, Wanted
from server.catalogue.rows import EventRow
from server.privacy.secrets import Secrets

FILE_NAME = "erased.jsonl"

_ROWS_AT_ONCE = 1_000
_DAY_S = 86_400.0

Step = Callable[[int, Wanted, int], Erased]
"""First sequence, what is wanted, most rows: one step of `Store.erase_feedback`."""


class Trail:
    """Feedback of somebody: first all under a pseudonym of theirs, then what names nobody but a session of
    those.

    is_theirs: whether a pseudonym is; asked once for each.
    """

    def __init__(self, is_theirs: Callable[[str], bool]) -> None:
        self._is_theirs = is_theirs
        self._known: dict[str, bool] = {}
        self.sessions: set[str] = set()

    @property
    def found(self) -> list[str]:
        """Pseudonyms of theirs that were seen."""
        return [name for name, theirs in self._known.items() if theirs]

    def named(self, shopper: str, session: str) -> bool:
        """Whether feedback is under a pseudonym of theirs; notes its session."""
        if not shopper:
            return False
        if shopper not in self._known:
            self._known[shopper] = self._is_theirs(shopper)
        if self._known[shopper] and session:
            self.sessions.add(session)
        return self._known[shopper]

    def of_session(self, shopper: str, session: str) -> bool:
        """Whether feedback names only a session that was noted."""
        return not shopper and session in self.sessions


@dataclass
class Erasure:
    """What was done. pseudonyms: that the shopper may have had. cleared: nothing of them is left in the
    store's files.
    """

    pseudonyms: list[str]
    log_events: int = 0
    folded_events: int = 0
    cleared: bool = False


class Eraser:
    """Erases shoppers with the secrets that made their pseudonyms.

    marks: the file that remembers. period_days: of the pseudonyms made now. retention_days: how long
    feedback is kept, and so how far back pseudonyms go.
    """

    def __init__(
        self, secrets: Secrets, marks: Path, *, period_days: int = 90, retention_days: int = 3650
    ) -> None:
        self._secrets = secrets
        self._pseudonyms = secrets.pseudonyms(period_days)
        self._marks = marks
        self._retention_days = retention_days

    def pseudonyms_of(self, shopper_id: str, now_s: float | None = None) -> list[str]:
        """Every pseudonym that the shopper may have in what is kept; clocks may have been a day off."""
        now_s = time.time() if now_s is None else now_s
        earliest_s = max(0.0, now_s - (self._retention_days + 1) * _DAY_S)
        return list(self._pseudonyms.all_of(SHOPPER, shopper_id, earliest_s, now_s + _DAY_S))

    def trail(self, shopper_id: str) -> Trail:
        """Of one shopper, whenever a pseudonym was made."""
        return Trail(lambda name: self._pseudonyms.belongs(name, SHOPPER, shopper_id))

    def trail_of_marked(self) -> Trail:
        """Of all who were erased before."""
        marks = marked(self._marks)
        return Trail(lambda name: bool(marks) and self._secrets.mark(name) in marks)

    def erase(
        self,
        shopper_id: str,
        step: Step,
        clear: Callable[[list[bytes]], bool],
        *,
        pause: Callable[[], None] = lambda: None,
    ) -> Erasure:
        """Erase a shopper. The marks are written first: an erasure that is cut short is done again by them.

        clear: clears the store's files of some texts. pause: called between two steps. Raises: what `step`
        does.
        """
        pseudonyms = self.pseudonyms_of(shopper_id)
        remember(self._marks, (self._secrets.mark(name) for name in pseudonyms))
        trail = self.trail(shopper_id)
        erasure = _walked(trail, step, pause)
        remember(self._marks, (self._secrets.mark(name) for name in trail.found))
        erasure.pseudonyms = list(dict.fromkeys([*pseudonyms, *trail.found]))
        erasure.cleared = clear([name.encode() for name in erasure.pseudonyms])
        return erasure

    def erase_again(self, step: Step, clear: Callable[[list[bytes]], bool]) -> Erasure:
        """Erase all who were erased before: a backup from before may have brought them back."""
        trail = self.trail_of_marked()
        erasure = _walked(trail, step, lambda: None)
        erasure.pseudonyms = trail.found
        erasure.cleared = clear([name.encode() for name in erasure.pseudonyms])
        return erasure


def _walked(trail: Trail, step: Step, pause: Callable[[], None]) -> Erasure:
    erasure = Erasure([])

    def walk(theirs: Callable[[str, str], bool]) -> None:
        def wanted(row: EventRow, feedback: Feedback) -> bool:
            return theirs(feedback.shopper, feedback.session)

        first: int | None = 1
        while first is not None:
            done = step(first, wanted, _ROWS_AT_ONCE)
            erasure.log_events += done.log_events
            erasure.folded_events += done.folded_events
            first = done.next_sequence
            pause()

    walk(trail.named)
    if trail.sessions:
        walk(trail.of_session)
    return erasure


# --- the file of marks ------------------------------------------------------------------------------------


def remember(path: Path, marks: Iterable[str]) -> None:
    """Add marks to the file, durably, each once."""
    new = [mark for mark in dict.fromkeys(marks) if mark not in marked(path)]
    if not new:
        return
    lines = "".join(json.dumps({"mark": mark, "erased_unix_s": int(time.time())}) + "\n" for mark in new)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def marked(path: Path) -> set[str]:
    """The marks in the file; none where there is no file. A line that was cut short by a crash is passed
    over.
    """
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except FileNotFoundError:
        return set()
    marks = set()
    for line in lines:
        try:
            marks.add(str(json.loads(line)["mark"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return marks
