"""What shoppers did lately, as the log has told this replica: the newest products of each, under pseudonyms,
in memory alone. The core keeps it, so that a search can ask it without the interpreter; here it is fed.

Nothing is written: what is forgotten here is only known less, and what the log no longer holds is not looked
for. A shopper who was erased is known no longer from the moment at which the erasure's marks are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import rankcore
from muster.v1.feedback_pb2 import FeedbackKind
from muster.v1.ranking_pb2 import HistoryItem
from server.catalogue.errors import EventsFolded
from server.privacy.secrets import Secrets


@dataclass(frozen=True)
class HistoryBounds:
    """How much is remembered. products_max: of one shopper, 0: nothing at all. shoppers_max: who did nothing
    for longest is forgotten first. age_max_s: by the server's clock."""

    products_max: int
    shoppers_max: int
    age_max_s: float


class Histories:
    """Remembers and tells. Thread-safe. core: the same, for what is answered without the interpreter.

    period_days: of pseudonyms. erased: the file with the marks of the erased; nothing is told of them.
    """

    def __init__(self, bounds: HistoryBounds, secrets: Secrets, period_days: int, erased: Path) -> None:
        self._bounds = bounds
        self.core = rankcore.Shoppers(
            products_max=bounds.products_max,
            shoppers_max=bounds.shoppers_max,
            age_max_us=int(bounds.age_max_s * 1e6),
            secrets=secrets.pseudonym_keys,
            period_days=period_days,
            mark_key=secrets.mark_key,
            erased=str(erased),
        )

    def follow(self, events: Sequence[bytes]) -> None:
        """Take in serialised SequencedEvents, ascending; others than feedback are passed over."""
        self.core.follow(list(events))

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
        return [
            HistoryItem(product_id=product_id, kind=FeedbackKind.ValueType(kind), occurred_unix_us=at_us)
            for product_id, kind, at_us in self.core.of(list(pseudonyms), int(now_s * 1e6))
        ]

    def forget(self, pseudonyms: Iterable[str]) -> None:
        """Remember nothing of these any more, nor of a visit that one of them made."""
        self.core.forget(list(pseudonyms))

    def shoppers(self) -> int:
        """Pseudonyms that something is remembered of."""
        return self.core.count()
