"""Whether what is asked, and how well the catalogue answers it, has moved from what it was.

The ranking core counts each answered search in bins: words of the query, rarity of its words in the
catalogue, score of the best product as a share of what its words allow, cosine of the nearest product. Here
the counts of the last minutes are compared with a reference by the population stability index.

The reference is what the bundle was first asked on this machine, and is kept beside the data: a generation is
built from products, without a query, and the labels that a bundle was trained on are no sample of the traffic
that it meets. It outlives restarts and new generations, or a slow drift would be taken for the normal state.
Remove the file to take what is asked from now on as normal.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

Counts = Mapping[str, Sequence[int]]

_SMOOTHING = 0.5
_BYTES_MAX = 1 << 16
_LOOKS_PER_WINDOW = 30


def stability_index(reference: Sequence[int], seen: Sequence[int]) -> float:
    """Population stability index of two histograms over the same bins; 0: alike, above 0.25: moved.

    reference, seen: counts, shape (bins,), each with a sum above 0. Half a count is added to each bin, so
    that an empty one is finite. Returns: sum over bins of (p - q) ln(p / q), in nats, at least 0. Two samples
    of one distribution come to about (bins - 1) x (1/n + 1/m).
    Raises: ValueError for histograms of different or no length, or without a count.
    Source: Yurdakul 2018, "Statistical properties of population stability index", section 2.
    """
    if len(reference) != len(seen) or not sum(reference) or not sum(seen):
        raise ValueError("two histograms of the same bins are compared, each with a count")
    bins = len(reference)
    total, total_seen = sum(reference) + _SMOOTHING * bins, sum(seen) + _SMOOTHING * bins
    index = 0.0
    for expected, found in zip(reference, seen, strict=True):
        p, q = (found + _SMOOTHING) / total_seen, (expected + _SMOOTHING) / total
        index += (p - q) * math.log(p / q)
    return index


@dataclass(frozen=True)
class DriftPolicy:
    """reference_answers: searches that make the reference. window_s: how far back "now" reaches.
    window_answers: fewer searches than that in the window tell nothing."""

    reference_answers: int
    window_s: float
    window_answers: int


@dataclass(frozen=True)
class Drifted:
    """What one look found.

    index: stability index by distribution; none where too little was asked to tell. reference: searches in
    the reference, 0: there is none yet.
    """

    index: Mapping[str, float]
    reference: int


class Drift:
    """The measure of one replica. Thread-safe. Pulled: it learns of counts when somebody looks."""

    def __init__(self, folder: Path, policy: DriftPolicy) -> None:
        self._folder = folder
        self._policy = policy
        self._lock = threading.Lock()
        self._bundle_id = ""
        self._looks: deque[tuple[float, Counts]] = deque()

    def path(self, bundle_id: str) -> Path:
        """Where the reference of a bundle is kept."""
        return self._folder / f"{bundle_id}.json"

    def look(self, now_s: float, bundle_id: str, counts: Counts) -> Drifted:
        """Compare the window that ends now with the reference of the bundle.

        now_s: on the monotonic clock. counts: since the bundle was opened, by distribution; they only grow.
        """
        with self._lock:
            if bundle_id != self._bundle_id or self._fell(counts):
                self._bundle_id = bundle_id
                self._looks.clear()
            reference = read_reference(self.path(bundle_id))
            window = self._window(now_s, counts, comparing=reference is not None)
            if reference is None and _answers(window) >= self._policy.reference_answers:
                reference = self._keep(bundle_id, window)
            if reference is None:
                return Drifted({}, 0)
            index = {
                name: stability_index(reference[name], seen)
                for name, seen in window.items()
                if name in reference
                and len(reference[name]) == len(seen)
                and sum(reference[name]) > 0
                and sum(seen) >= self._policy.window_answers
            }
            return Drifted(index, _answers(reference))

    def _fell(self, counts: Counts) -> bool:
        """Whether another engine counts now, from 0."""
        return bool(self._looks) and _answers(counts) < _answers(self._looks[-1][1])

    def _window(self, now_s: float, counts: Counts, *, comparing: bool) -> Counts:
        """What was counted within the window that ends now.

        comparing: there is a reference. Without one, all since the start, or since the reference was removed.
        """
        looks, policy = self._looks, self._policy
        if not looks:
            looks.append((now_s, {name: [0] * len(seen) for name, seen in counts.items()}))
        elif comparing and now_s - looks[-1][0] >= policy.window_s / _LOOKS_PER_WINDOW:
            looks.append((now_s, {name: list(seen) for name, seen in counts.items()}))
        while len(looks) > 1 and now_s - looks[1][0] >= policy.window_s:
            looks.popleft()
        return self._since(counts, looks[0][1])

    @staticmethod
    def _since(counts: Counts, before: Counts) -> dict[str, list[int]]:
        return {
            name: [now - then for now, then in zip(seen, before[name], strict=True)]
            for name, seen in counts.items()
        }

    def _keep(self, bundle_id: str, reference: Counts) -> Counts | None:
        path = self.path(bundle_id)
        draft = path.with_name(f".{path.name}-{os.getpid()}")
        try:
            self._folder.mkdir(exist_ok=True)
            draft.write_text(
                json.dumps({name: list(seen) for name, seen in reference.items()}), encoding="utf-8"
            )
            draft.replace(path)
        except OSError as error:
            logger.warning("the reference of drift cannot be written to %s: %s", path, error)
            return None
        logger.info("reference of drift: %d searches, in %s", _answers(reference), path)
        return reference


def read_reference(path: Path) -> Counts | None:
    """The reference in a file; None where there is none, or it is no reference."""
    try:
        with path.open("rb") as file:
            read = json.loads(file.read(_BYTES_MAX))
        counts = {str(name): [int(count) for count in seen] for name, seen in read.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        logger.warning("%s holds no reference of drift (%s); remove it to take a new one", path, error)
        return None
    return counts if all(count >= 0 for seen in counts.values() for count in seen) else None


def _answers(counts: Counts) -> int:
    return max((sum(seen) for seen in counts.values()), default=0)
