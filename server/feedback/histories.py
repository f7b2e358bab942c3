"""What shoppers did lately, as the log has told this replica: the newest products of each, under pseudonyms,
in memory alone.

Nothing is written: what is forgotten here is only known less, and what the log no longer holds is not looked
for. A shopper who was erased is known no longer from the moment at which the erasure's marks are written.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from muster.v1.catalogue_pb2 import SequencedEvent
from muster.v1.feedback_pb2 import (
    FEEDBACK_KIND_BUY,
    FEEDBACK_KIND_CART,
    FEEDBACK_KIND_CLICK,
    FEEDBACK_KIND_COMMENT,
    FEEDBACK_KIND_SHARE,
    FeedbackKind,
)
from muster.v1.ranking_pb2 import HistoryItem
from server.catalogue.errors import EventsFolded
from server.privacy.erasure import marked
from server.privacy.secrets import EVENT_ID_PREFIX

# A view tells that a product was shown, and nothing of the shopper.
_TELLING = frozenset(
    (
        FEEDBACK_KIND_CLICK,
        FEEDBACK_KIND_CART,
        FEEDBACK_KIND_BUY,
        FEEDBACK_KIND_COMMENT,
        FEEDBACK_KIND_SHARE,
    )
)
# Looking for the mark costs far less than parsing every product.
_MARK = EVENT_ID_PREFIX.encode()


@dataclass(frozen=True)
class HistoryBounds:
    """How much is remembered. products_max: of one shopper, 0: nothing at all. shoppers_max: who did nothing
    for longest is forgotten first. age_max_s: by the server's clock."""

    products_max: int
    shoppers_max: int
    age_max_s: float


@dataclass(frozen=True)
class _Did:
    product_id: str
    kind: FeedbackKind.ValueType
    committed_unix_us: int


class _Remembered:
    """Of one name. shoppers: whose it is, or those of whom a visit told: an erasure takes the visit along."""

    def __init__(self) -> None:
        self.products: OrderedDict[str, _Did] = OrderedDict()
        self.shoppers: set[str] = set()


class ErasedMarks:
    """Whether a pseudonym is that of a shopper who was erased, by the file of marks, which is read again when
    it has changed. mark: see `Secrets.mark`."""

    def __init__(self, path: Path, mark: Callable[[str], str]) -> None:
        self._path = path
        self._mark = mark
        self._seen: tuple[int, int] | None = None
        self._marks: frozenset[str] = frozenset()

    def __call__(self, pseudonym: str) -> bool:
        """Whether it is."""
        try:
            found = self._path.stat()
            seen = (found.st_mtime_ns, found.st_size)
        except FileNotFoundError:
            seen = None
        if seen != self._seen:
            self._marks = frozenset(marked(self._path))
            self._seen = seen
        return bool(self._marks) and self._mark(pseudonym) in self._marks


class Histories:
    """Remembers and tells. Thread-safe. erased: whether nothing may be told of a pseudonym any more."""

    def __init__(
        self, bounds: HistoryBounds, erased: Callable[[str], bool] = lambda pseudonym: False
    ) -> None:
        self._bounds = bounds
        self._erased = erased
        self._lock = threading.Lock()
        self._by_name: OrderedDict[str, _Remembered] = OrderedDict()

    def follow(self, events: Sequence[bytes]) -> None:
        """Take in serialised SequencedEvents, ascending; others than feedback are passed over."""
        if not self._bounds.products_max:
            return
        for payload in events:
            if _MARK not in payload:
                continue
            sequenced = SequencedEvent.FromString(payload)
            feedback = sequenced.event.feedback
            if feedback.erased or feedback.kind not in _TELLING or not feedback.product_id:
                continue
            did = _Did(feedback.product_id, feedback.kind, sequenced.committed_unix_us)
            with self._lock:
                for name in filter(None, (feedback.shopper, feedback.session)):
                    self._note(name, feedback.shopper, did)

    def _note(self, name: str, shopper: str, did: _Did) -> None:
        remembered = self._by_name.setdefault(name, _Remembered())
        if shopper:
            remembered.shoppers.add(shopper)
        products = remembered.products
        self._by_name.move_to_end(name)
        products[did.product_id] = did
        products.move_to_end(did.product_id)
        while len(products) > self._bounds.products_max:
            products.popitem(last=False)
        while len(self._by_name) > self._bounds.shoppers_max:
            self._by_name.popitem(last=False)

    def recall(self, read: Callable[[int], list[bytes]], first_sequence: int, last_sequence: int) -> None:
        """Take in what the log holds from one sequence to another, before anybody follows it.

        read: events from a sequence on, some at a time. Raises: what `read` does, but EventsFolded: what was
        folded is passed over.
        """
        at = first_sequence
        while self._bounds.products_max and at <= last_sequence:
            try:
                events = read(at)
            except EventsFolded as folded:
                at = max(at + 1, folded.first_sequence)
                continue
            if not events:
                return
            self.follow(events)
            at += len(events)

    def of(self, pseudonyms: Iterable[str], now_s: float) -> list[HistoryItem]:
        """What is remembered under any of the pseudonyms, oldest first, each product once.

        now_s: the wall clock, seconds since the Unix epoch.
        """
        since_us = int((now_s - self._bounds.age_max_s) * 1e6)
        latest: dict[str, _Did] = {}
        for name in pseudonyms:
            with self._lock:
                remembered = self._by_name.get(name)
                if remembered is None:
                    continue
                found, shoppers = list(remembered.products.values()), list(remembered.shoppers)
            if any(map(self._erased, shoppers)):
                self.forget([name])
                continue
            for did in found:
                before = latest.get(did.product_id)
                if did.committed_unix_us >= since_us and (
                    before is None or before.committed_unix_us <= did.committed_unix_us
                ):
                    latest[did.product_id] = did
        ordered = sorted(latest.values(), key=lambda did: did.committed_unix_us)
        return [
            HistoryItem(product_id=did.product_id, kind=did.kind, occurred_unix_us=did.committed_unix_us)
            for did in ordered[-self._bounds.products_max :]
        ]

    def forget(self, pseudonyms: Iterable[str]) -> None:
        """Remember nothing of these any more, nor of a visit that one of them made."""
        gone = set(pseudonyms)
        with self._lock:
            for name in [name for name, one in self._by_name.items() if name in gone or one.shoppers & gone]:
                del self._by_name[name]

    def shoppers(self) -> int:
        """Pseudonyms that something is remembered of."""
        return len(self._by_name)
