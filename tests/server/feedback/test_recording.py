"""What callers send becomes what is kept, and nothing raw goes further."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.v1 import feedback_pb2 as pb
from server.feedback.receipts import Receipts
from server.feedback.recording import Recorder, violations
from server.privacy.secrets import Secrets, open_secrets

NOW_S = 1_800_000_000.0


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Secrets:
    return open_secrets(tmp_path_factory.mktemp("secrets") / "file", make=True)


@pytest.fixture
def recorder(secrets: Secrets) -> Recorder:
    return Recorder(secrets, secrets.pseudonyms(90), Receipts(secrets.receipts, 3600.0))


def receipt(key: bytes, given_s: float) -> str:
    """As the front makes it."""
    signed = int(given_s).to_bytes(4, "big") + bytes(8)
    return (signed + hashlib.blake2s(signed, digest_size=8, key=key).digest()).hex()


def sent(**fields: object) -> pb.FeedbackEvent:
    return pb.FeedbackEvent(
        **{"event_id": "e", "kind": pb.FEEDBACK_KIND_CLICK, "product_id": "p", **fields}  # type: ignore[arg-type]
    )


def test_raw_names_ids_and_texts_do_not_go_further(recorder: Recorder) -> None:
    event = sent(
        event_id="anna.meyer-17",
        kind=pb.FEEDBACK_KIND_COMMENT,
        shopper_id="anna.meyer",
        session_id="visit-4711",
        comment="Anna.Meyer here, 13812345678, visit-4711",
        query="anna.meyer shoes",
    )
    recorded = recorder.recorded([event], NOW_S)
    kept = recorded.events[0].SerializeToString()
    for raw in (b"anna", b"Anna", b"Meyer", b"4711", b"138123"):
        assert raw not in kept
    assert recorded.events[0].feedback.comment == "[shopper] here, [phone], [shopper]"
    assert recorded.scrubbed == {"shopper": 3, "phone": 1}


def test_the_same_event_and_shopper_are_recognised_again(recorder: Recorder) -> None:
    one, same, other = recorder.recorded(
        [sent(shopper_id="anna"), sent(shopper_id="anna"), sent(event_id="f", shopper_id="bert")], NOW_S
    ).events
    assert one == same
    assert one.event_id != other.event_id
    assert one.feedback.shopper != other.feedback.shopper


def test_a_receipt_is_known_expired_or_unknown(recorder: Recorder, secrets: Secrets) -> None:
    good = receipt(secrets.receipts, NOW_S - 60)
    forged = receipt(bytes(32), NOW_S - 60)
    spoilt = good[:-1] + ("0" if good[-1] != "0" else "1")
    events = [
        sent(receipt_id=text)
        for text in (good, receipt(secrets.receipts, NOW_S - 7200), forged, spoilt, "anna@x.com", "")
    ]
    recorded = recorder.recorded(events, NOW_S)
    kept = [event.feedback for event in recorded.events]
    assert [feedback.receipt for feedback in kept] == [
        pb.RECEIPT_STATE_KNOWN,
        pb.RECEIPT_STATE_EXPIRED,
        pb.RECEIPT_STATE_UNKNOWN,
        pb.RECEIPT_STATE_UNKNOWN,
        pb.RECEIPT_STATE_UNKNOWN,
        pb.RECEIPT_STATE_UNSPECIFIED,
    ]
    assert recorded.unknown_receipts == 3
    assert [feedback.receipt_id for feedback in kept[:3]] == [good, events[1].receipt_id, ""]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"event_id": ""}, "event_id"),
        ({"event_id": "x" * 129}, "event_id"),
        ({"event_id": "a\nb"}, "event_id"),
        ({"kind": 0}, "kind"),
        ({"kind": 77}, "kind"),
        ({"product_id": ""}, "product_id"),
        ({"receipt_id": "x" * 65}, "receipt_id"),
        ({"shopper_id": "x" * 257}, "shopper_id"),
        ({"session_id": "x" * 257}, "session_id"),
        ({"query": "x" * 1025}, "query"),
        ({"position": 1001}, "position"),
        ({"occurred_unix_us": 2**63}, "occurred_unix_us"),
        ({"comment": "hello"}, "comment"),
        ({"kind": pb.FEEDBACK_KIND_COMMENT}, "comment"),
        ({"kind": pb.FEEDBACK_KIND_COMMENT, "comment": "x" * 4097}, "comment"),
    ],
)
def test_what_is_outside_its_range_is_named_and_not_repeated(fields: dict[str, object], field: str) -> None:
    found = violations(pb.RecordRequest(events=[sent(), sent(**fields)]))
    assert [name for name, _ in found] == [f"events[1].{field}"]
    assert "xxx" not in found[0][1]


def test_batches_and_all_their_texts_are_bounded() -> None:
    assert violations(pb.RecordRequest()) == [("events", "0 events; accepted: 1 to 1,000")]
    assert violations(pb.RecordRequest(events=[sent()] * 1001))[0][0] == "events"
    comment = sent(kind=pb.FEEDBACK_KIND_COMMENT, comment="x" * 4000)
    assert violations(pb.RecordRequest(events=[comment] * 16)) == []
    assert violations(pb.RecordRequest(events=[comment] * 17))[0][0] == "events"


@settings(max_examples=50)
@given(st.text(max_size=80))
def test_any_text_is_a_receipt_or_is_not(text: str) -> None:
    assert Receipts(bytes(32), 1.0).given_s(text) is None


def test_the_front_of_the_core_makes_ids_of_this_form(tmp_path: Path) -> None:
    # The same tag as the test in rankcore/front/src/receipts.rs.
    tag = hashlib.blake2s(bytes(12), digest_size=8, key=bytes(range(32))).hexdigest()
    assert Receipts(bytes(range(32)), 1.0).given_s("0" * 24 + tag) == 0
