"""The judge of a history: what clients saw of a service, against the log that it left behind.

Pure: it reads records of `drills.journal` and nothing else. The same rules hold a simulated service and real
processes to account:

- an acknowledged write is in the log, where its acknowledgement says, and only there;
- a write that was refused as not written is not in the log; one of unknown outcome may be or not;
- sequences have no gaps; epochs only rise, in the log and for whoever sends after having seen one;
- what was acknowledged before a write was sent stands before it in the log;
- a session never reads what is older than it has written or read before; no answer is newer than the log.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from drills.journal import History, Record

OK = "OK"
NOT_WRITTEN = "not_written"


@dataclass(frozen=True)
class WriteFindings:
    """What became of the writes, by event id. gaps: also places that two events claim.

    refused: written although their sender was told that they were not. reordered: acknowledged before
    another one was sent, but after it in the log.
    """

    acknowledged: int
    lost: tuple[str, ...]
    doubled: tuple[str, ...]
    misplaced: tuple[str, ...]
    gaps: int
    refused: tuple[str, ...] = ()
    reordered: tuple[str, ...] = ()

    def problems(self) -> list[str]:
        """A sentence for each thing that must not be; empty: all is well."""
        sentences = (
            (self.lost, "acknowledged writes are not in the log"),
            (self.doubled, "events are in the log twice"),
            (self.refused, "events are in the log though their writes ended as not written"),
            (self.reordered, "writes stand before one that was acknowledged before they were sent"),
        )
        found = [f"{len(ids)} {what}, first {ids[0]}" for ids, what in sentences if ids]
        if self.misplaced:
            found.append(f"{len(self.misplaced)} acknowledgements name a place where the event is not")
        if self.gaps:
            found.append(f"the log has {self.gaps} gaps or clashes in its sequence")
        return found


def check_writes(history: History) -> WriteFindings | None:
    """Compares the writes with the log; None where the log was not read to its end."""
    if history.first("log_end") is None:
        return None
    log = history.of("log")
    places: dict[str, list[int]] = defaultdict(list)
    for entry in log:
        places[entry["event_id"]].append(entry["sequence"])
    writes = history.of("write")
    acknowledged = [write for write in writes if write["status"] == OK]
    there = [write for write in acknowledged if write["event_id"] in places]
    sequences = sorted({entry["sequence"] for entry in log})
    gaps = sum(later - earlier != 1 for earlier, later in itertools.pairwise(sequences))
    # Two events at one place: the second one overwrote the first for somebody.
    clashes = sum(count > 1 for count in Counter(entry["sequence"] for entry in log).values())
    # An event whose write was refused may have been sent again, and then be there with good reason.
    settled = {write["event_id"] for write in writes if write.get("outcome") != NOT_WRITTEN}
    return WriteFindings(
        acknowledged=len(acknowledged),
        lost=tuple(write["event_id"] for write in acknowledged if write["event_id"] not in places),
        doubled=tuple(event_id for event_id, found in places.items() if len(set(found)) > 1),
        misplaced=tuple(w["event_id"] for w in there if w["sequence"] not in places[w["event_id"]]),
        gaps=gaps + clashes,
        refused=tuple(
            write["event_id"]
            for write in writes
            if write.get("outcome") == NOT_WRITTEN
            and write["event_id"] in places
            and write["event_id"] not in settled
        ),
        reordered=tuple(_reordered(there, places)),
    )


def _reordered(acknowledged: Sequence[Record], places: dict[str, list[int]]) -> Iterator[str]:
    """Writes that were sent after a later place of the log had been acknowledged.

    One whose event was there already, from a sending before, has its place by right of that one.
    """
    for write, seen in _after_what_was_seen(acknowledged, "sequence"):
        if write.get("duplicates", 0) == 0 and min(places[write["event_id"]]) < seen:
            yield write["event_id"]


def _after_what_was_seen(writes: Iterable[Record], field: str) -> Iterator[tuple[Record, int]]:
    """Each write with the highest value of the field that had arrived, with others, before it left."""
    arrivals = sorted(writes, key=lambda write: write["done_s"])
    seen, position = 0, 0
    for write in sorted(arrivals, key=lambda write: write["sent_s"]):
        while position < len(arrivals) and arrivals[position]["done_s"] < write["sent_s"]:
            seen = max(seen, arrivals[position][field])
            position += 1
        yield write, seen


def check_epochs(history: History) -> list[str]:
    """Sentences for every fall of the epoch, in the log or as the callers saw it; empty: they only rise."""
    problems: list[str] = []
    highest = 0
    for entry in sorted(history.of("log"), key=lambda record: record["sequence"]):
        if entry["epoch"] < highest:
            problems.append(
                f"the log's epoch falls from {highest} to {entry['epoch']} at sequence {entry['sequence']}"
            )
        highest = max(highest, entry["epoch"])
    acknowledged = [write for write in history.of("write") if write["status"] == OK]
    problems += [
        f"write {write['event_id']} was acknowledged in epoch {write['epoch']} "
        f"though it was sent after epoch {seen} had been seen"
        for write, seen in _after_what_was_seen(acknowledged, "epoch")
        if write["epoch"] < seen
    ]
    return problems


def check_sessions(history: History) -> list[str]:
    """Sentences for every read that shows less than its session had seen, or more than the log holds.

    A session is what records name in `session`; reads without one promise nothing. Of calls that overlap
    nothing is demanded.
    """
    problems: list[str] = []
    calls: dict[Any, list[Record]] = defaultdict(list)
    for record in (*history.of("write"), *history.of("read")):
        if record["status"] == OK and record.get("session") is not None:
            calls[record["session"]].append(record)
    for session, records in calls.items():
        for record, seen in _after_what_was_seen([_with_sequence(record) for record in records], "sequence"):
            if record["kind"] == "read" and record["sequence"] < seen:
                problems.append(
                    f"session {session} had seen sequence {seen} and then read at {record['sequence']}"
                )
    end = history.first("log_end")
    shown = [] if end is None else [read.get("applied_sequence", 0) for read in history.of("read")]
    ahead = [sequence for sequence in shown if end is not None and sequence > end["head"]]
    if ahead:
        problems.append(f"{len(ahead)} answers show more than the log holds, first sequence {ahead[0]}")
    return problems


def _with_sequence(record: Record) -> Record:
    """What the call tells of the log: where a write is, up to where a read saw it."""
    return record if record["kind"] == "write" else {**record, "sequence": record["applied_sequence"]}
