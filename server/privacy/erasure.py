"""Takes one shopper out of a store, while it serves or while nobody does, and remembers it for backups.

Feedback is the shopper's by its pseudonym, or, where it names no shopper, by a session that also has
feedback of the shopper's. What a backup from before the erasure brings back is erased again: the file of
marks says whom, without saying who that was.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from muster.privacy.pseudonyms import SHOPPER, Pseudonyms
from muster.v1.feedback_pb2 import Feedback
from server.catalogue.feedback import Erased, Wanted
from server.catalogue.rows import EventRow
from server.privacy.secrets import Secrets

FILE_NAME = "erased.jsonl"

_ROWS_AT_ONCE = 1_000
_DAY_S = 86_400.0

Step = Callable[[int, Wanted, int], Erased]
"""First sequence, what is wanted, most rows: one step of `Store.erase_feedback`."""


@dataclass
class Erasure:
    """What was done. pseudonyms: that the shopper may have had. cleared: nothing of them is left in the
    store's files.
    """

    pseudonyms: list[str]
    log_events: int = 0
    folded_events: int = 0
    cleared: bool = False
    sessions: set[str] = field(default_factory=set)


class Eraser:
    """Erases shoppers with the secrets that made their pseudonyms.

    retention_days: how long feedback is kept, and so how far back pseudonyms go. marks: the file that
    remembers.
    """

    def __init__(self, secrets: Secrets, pseudonyms: Pseudonyms, marks: Path, *, retention_days: int) -> None:
        self._secrets = secrets
        self._pseudonyms = pseudonyms
        self._marks = marks
        self._retention_days = retention_days

    def pseudonyms_of(self, shopper_id: str, now_s: float | None = None) -> list[str]:
        """Every pseudonym that the shopper may have in what is kept; clocks may have been a day off."""
        now_s = time.time() if now_s is None else now_s
        earliest_s = max(0.0, now_s - (self._retention_days + 1) * _DAY_S)
        return list(self._pseudonyms.all_of(SHOPPER, shopper_id, earliest_s, now_s + _DAY_S))

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
        erasure = Erasure(self.pseudonyms_of(shopper_id))
        remember(self._marks, (self._secrets.mark(pseudonym) for pseudonym in erasure.pseudonyms))
        known: dict[str, bool] = {}

        def is_shoppers(row: EventRow, feedback: Feedback) -> bool:
            name = feedback.shopper
            if name and name not in known:
                known[name] = self._pseudonyms.belongs(name, SHOPPER, shopper_id)
            if not name or not known[name]:
                return False
            if feedback.session:
                erasure.sessions.add(feedback.session)
            return True

        self._walk(erasure, step, is_shoppers, pause)
        if erasure.sessions:
            self._walk(erasure, step, _of_sessions(erasure.sessions), pause)
        found = [name for name, is_theirs in known.items() if is_theirs]
        erasure.pseudonyms = list(dict.fromkeys([*erasure.pseudonyms, *found]))
        remember(self._marks, (self._secrets.mark(pseudonym) for pseudonym in found))
        erasure.cleared = clear([pseudonym.encode() for pseudonym in erasure.pseudonyms])
        return erasure

    def erase_again(self, step: Step, clear: Callable[[list[bytes]], bool]) -> Erasure:
        """Erase all who were erased before: a backup from before may have brought them back."""
        marks = marked(self._marks)
        erasure = Erasure([])
        found: dict[str, bool] = {}

        def is_marked(row: EventRow, feedback: Feedback) -> bool:
            name = feedback.shopper
            if name and name not in found:
                found[name] = self._secrets.mark(name) in marks
            if not name or not found[name]:
                return False
            if feedback.session:
                erasure.sessions.add(feedback.session)
            return True

        if marks:
            self._walk(erasure, step, is_marked, lambda: None)
            if erasure.sessions:
                self._walk(erasure, step, _of_sessions(erasure.sessions), lambda: None)
            erasure.pseudonyms = [name for name, is_theirs in found.items() if is_theirs]
        erasure.cleared = clear([name.encode() for name in erasure.pseudonyms])
        return erasure

    @staticmethod
    def _walk(erasure: Erasure, step: Step, wanted: Wanted, pause: Callable[[], None]) -> None:
        first: int | None = 1
        while first is not None:
            done = step(first, wanted, _ROWS_AT_ONCE)
            erasure.log_events += done.log_events
            erasure.folded_events += done.folded_events
            first = done.next_sequence
            pause()


def _of_sessions(sessions: Collection[str]) -> Wanted:
    def wanted(row: EventRow, feedback: Feedback) -> bool:
        return not feedback.shopper and feedback.session in sessions

    return wanted


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
