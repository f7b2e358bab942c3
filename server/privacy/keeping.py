"""What a replica needs to take feedback and to erase shoppers, made from its settings."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from muster.v1 import catalogue_pb2, feedback_pb2
from server.catalogue.feedback import Erased, Wanted
from server.catalogue.location import is_postgresql
from server.catalogue.store import Store
from server.config import Settings
from server.errors import NotThePrimary
from server.feedback.histories import Histories, HistoryBounds
from server.feedback.receipts import Receipts
from server.feedback.recording import Recorder
from server.privacy.erasure import Eraser, Erasure
from server.privacy.secrets import Secrets, SecretsRefused, open_secrets

logger = logging.getLogger(__name__)

_AGREED = "privacy_secrets"
_PAUSE_S = 0.002


class Keeping:
    """The recorder of this replica, its eraser, and what was counted. Open with `Keeping.open`."""

    def __init__(self, store: Store, secrets: Secrets, settings: Settings) -> None:
        """Use `Keeping.open`."""
        self._store = store
        pseudonyms = secrets.pseudonyms(settings.privacy.pseudonym_days)
        self.receipt_key = secrets.receipts
        self.receipts = Receipts(self.receipt_key, settings.privacy.receipt_hours * 3600.0)
        self.recorder = Recorder(secrets, pseudonyms, self.receipts)
        self.histories = Histories(
            HistoryBounds(
                settings.privacy.history_products_max,
                settings.privacy.history_shoppers_max,
                settings.privacy.history_hours * 3600.0,
            ),
            secrets,
            settings.privacy.pseudonym_days,
            settings.erased_file,
        )
        self._eraser = Eraser(
            secrets,
            settings.erased_file,
            period_days=settings.privacy.pseudonym_days,
            retention_days=settings.privacy.retention_days,
        )
        self._lock = threading.Lock()
        self._kinds: Counter[str] = Counter()
        self._receipts: Counter[str] = Counter()
        self._scrubbed: Counter[str] = Counter()

    @classmethod
    def open(cls, settings: Settings, store: Store) -> Keeping:
        """Read the secrets, made where there are none yet.

        Raises: SecretsRefused: they cannot be used, or are not those of the store's other replicas.
        StoreError.
        """
        secrets = open_secrets(settings.secrets_file, make=settings.privacy.secrets_file is None)
        if is_postgresql(store.location):
            # On one machine all read the same file.
            agreed = store.agree_on(_AGREED, secrets.fingerprint)
            if agreed != secrets.fingerprint:
                raise SecretsRefused(
                    f"{settings.secrets_file} is not the file of secrets that the other replicas of this"
                    " store have: copy theirs here"
                )
        return cls(store, secrets, settings)

    def erase(self, shopper_id: str, writing_epoch: Callable[[], int | None]) -> Erasure:
        """Take a shopper out of the store. Raises: NotThePrimary, StoreError."""

        def step(first_sequence: int, wanted: Wanted, rows_max: int) -> Erased:
            epoch = writing_epoch()
            if epoch is None:
                raise NotThePrimary("")
            return self._store.erase_feedback(
                epoch=epoch, first_sequence=first_sequence, wanted=wanted, rows_max=rows_max
            )

        if writing_epoch() is None:
            raise NotThePrimary("")
        erasure = self._eraser.erase(
            shopper_id, step, self._store.clear_traces, pause=lambda: time.sleep(_PAUSE_S)
        )
        self.histories.forget(erasure.pseudonyms)
        # How many, not who.
        logger.info(
            "a shopper was erased: %d events of the log, %d of the feedback that was folded",
            erasure.log_events,
            erasure.folded_events,
        )
        return erasure

    def count(self, events: Sequence[catalogue_pb2.Event], scrubbed: Mapping[str, int]) -> None:
        """Note what was recorded, and what was scrubbed."""
        with self._lock:
            for event in events:
                self._kinds[_word(feedback_pb2.FeedbackKind.Name(event.feedback.kind))] += 1
                self._receipts[_word(feedback_pb2.ReceiptState.Name(event.feedback.receipt))] += 1
            self._scrubbed.update(scrubbed)

    def counters(self) -> dict[str, dict[str, int]]:
        """The counts by the names that `server.metrics` publishes."""
        with self._lock:
            return {
                "feedback_by_kind": dict(self._kinds),
                "feedback_by_receipt": dict(self._receipts),
                "scrubbed_by_kind": dict(self._scrubbed),
            }


def _word(name: str) -> str:
    """FEEDBACK_KIND_VIEW is "view", RECEIPT_STATE_UNSPECIFIED "none"."""
    word = name.split("_", 2)[2].lower()
    return "none" if word == "unspecified" else word
