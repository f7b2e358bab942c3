"""What callers send becomes what is kept: checked, under pseudonyms, scrubbed. Nothing raw goes further
than this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from muster.privacy.pseudonyms import SESSION, SHOPPER, Pseudonyms
from muster.privacy.scrub import scrub
from muster.v1 import feedback_pb2 as pb
from muster.v1.catalogue_pb2 import Event
from server.feedback.receipts import Receipts
from server.privacy.secrets import Secrets

EVENTS_MAX = 1_000
ID_CHARACTERS_MAX = 128
NAME_CHARACTERS_MAX = 256
RECEIPT_CHARACTERS_MAX = 64
POSITION_MAX = 1_000
COMMENT_CHARACTERS_MAX = 4_096
QUERY_CHARACTERS_MAX = 1_024
# Of all texts of one request: looking through them takes time that others wait for.
TEXT_CHARACTERS_MAX = 65_536

_ID_ACCEPTED = f"1 to {ID_CHARACTERS_MAX} characters, no control characters"

Violations = list[tuple[str, str]]


def violations(request: pb.RecordRequest) -> Violations:
    """Pairs of field and what is wrong with it. No value is repeated: it may be a shopper's name."""
    found: Violations = []
    if not 1 <= len(request.events) <= EVENTS_MAX:
        return [("events", f"{len(request.events)} events; accepted: 1 to {EVENTS_MAX:,}")]
    texts = 0
    for at, event in enumerate(request.events):
        found += [(f"events[{at}].{field}", problem) for field, problem in _violations(event)]
        texts += len(event.comment) + len(event.query)
    if texts > TEXT_CHARACTERS_MAX:
        most = f"{TEXT_CHARACTERS_MAX:,}"
        found.append(("events", f"comments and queries of {texts:,} characters; accepted: {most}"))
    return found


def _violations(event: pb.FeedbackEvent) -> Violations:
    found: Violations = []

    def check(field: str, good: bool, accepted: str) -> None:
        if not good:
            found.append((field, f"accepted: {accepted}"))

    check("event_id", _is_id(event.event_id), _ID_ACCEPTED)
    check("kind", pb.FEEDBACK_KIND_VIEW <= event.kind <= pb.FEEDBACK_KIND_SHARE, "a kind of FeedbackKind")
    check("product_id", _is_id(event.product_id), _ID_ACCEPTED)
    for field, most in (
        ("receipt_id", RECEIPT_CHARACTERS_MAX),
        ("shopper_id", NAME_CHARACTERS_MAX),
        ("session_id", NAME_CHARACTERS_MAX),
        ("query", QUERY_CHARACTERS_MAX),
    ):
        check(field, len(getattr(event, field)) <= most, f"at most {most:,} characters")
    check("position", event.position <= POSITION_MAX, f"0 to {POSITION_MAX:,}")
    check("occurred_unix_us", event.occurred_unix_us < 2**63, "microseconds since the Unix epoch, below 2^63")
    if event.kind == pb.FEEDBACK_KIND_COMMENT:
        good = 1 <= len(event.comment) <= COMMENT_CHARACTERS_MAX
        check("comment", good, f"1 to {COMMENT_CHARACTERS_MAX:,} characters")
    else:
        check("comment", not event.comment, "nothing, but for comments")
    return found


def _is_id(value: str) -> bool:
    return 1 <= len(value) <= ID_CHARACTERS_MAX and value.isprintable()


@dataclass(frozen=True)
class Recorded:
    """Events as they go into the log, and what was noticed on the way. scrubbed: finds by kind."""

    events: Sequence[Event]
    unknown_receipts: int
    scrubbed: dict[str, int]


class Recorder:
    """Makes what is kept of what callers send."""

    def __init__(self, secrets: Secrets, pseudonyms: Pseudonyms, receipts: Receipts) -> None:
        self._secrets = secrets
        self._pseudonyms = pseudonyms
        self._receipts = receipts

    def recorded(self, events: Sequence[pb.FeedbackEvent], now_s: float) -> Recorded:
        """events: without violations. now_s: the wall clock here, seconds since the Unix epoch."""
        scrubbed: dict[str, int] = {}
        kept = [self._kept(event, now_s, scrubbed) for event in events]
        unknown = sum(event.feedback.receipt == pb.RECEIPT_STATE_UNKNOWN for event in kept)
        return Recorded(kept, unknown, scrubbed)

    def _kept(self, event: pb.FeedbackEvent, now_s: float, scrubbed: dict[str, int]) -> Event:
        state = self._receipts.state(event.receipt_id, now_s)
        names = (event.shopper_id, event.session_id)
        feedback = pb.Feedback(
            kind=event.kind,
            product_id=event.product_id,
            # What is no receipt of ours may be anything, a shopper's name too.
            receipt_id="" if state == pb.RECEIPT_STATE_UNKNOWN else event.receipt_id,
            receipt=state,
            position=event.position,
            shopper=self._pseudonym(SHOPPER, event.shopper_id, now_s),
            session=self._pseudonym(SESSION, event.session_id, now_s),
            occurred_unix_us=event.occurred_unix_us,
            comment=self._scrubbed(event.comment, names, scrubbed),
            query=self._scrubbed(event.query, names, scrubbed),
        )
        return Event(event_id=self._secrets.event_id(event.event_id), feedback=feedback)

    def _pseudonym(self, kind: str, name: str, now_s: float) -> str:
        return self._pseudonyms.of(kind, name, now_s) if name else ""

    def _scrubbed(self, text: str, names: Sequence[str], counts: dict[str, int]) -> str:
        if not text:
            return text
        result = scrub(text, names=names)
        for kind, count in result.found.items():
            counts[kind] = counts.get(kind, 0) + count
        return result.text
