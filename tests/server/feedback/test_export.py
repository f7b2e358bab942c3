"""Feedback comes out of a store whole, for those who analyse it beside running replicas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.v1 import feedback_pb2 as pb
from muster.v1.catalogue_pb2 import Event
from server.catalogue.opening import open_store
from server.catalogue.store import NewEvent
from server.feedback.export import SCHEMA, feedback_batches
from server.standby.lease import Holder
from tests.muster.commands.command_line import muster

_KINDS = (pb.FEEDBACK_KIND_VIEW, pb.FEEDBACK_KIND_CLICK, pb.FEEDBACK_KIND_BUY)


@pytest.fixture
def data_folder(tmp_path: Path) -> Iterator[Path]:
    """Views, clicks and purchases of 40 shoppers, as a primary keeps them, and one click on no answer."""
    store = open_store(tmp_path / "catalogue.sqlite3")
    assert store.claim_lease(Holder("a/1", 1, 2, "boot"), expected_epoch=0, ttl_ns=10**12) is not None
    kept = [
        pb.Feedback(
            kind=kind,
            product_id=f"p{person % 5}",
            receipt_id=f"{person:040x}",
            receipt=pb.RECEIPT_STATE_KNOWN,
            position=1,
            shopper=f"00000001-90-1-{person:032x}",
            query="garden hose",
        )
        for person in range(40)
        for kind in _KINDS[: 1 + person % 3]
    ]
    kept.append(pb.Feedback(kind=_KINDS[1], product_id="p", receipt=pb.RECEIPT_STATE_UNKNOWN, session="v"))
    events = [NewEvent.of(Event(event_id=str(at), feedback=one)) for at, one in enumerate(kept)]
    store.append([events], epoch=1)
    yield tmp_path
    store.close()


def test_all_feedback_is_read_with_its_texts(data_folder: Path) -> None:
    batches = list(feedback_batches(data_folder / "catalogue.sqlite3"))
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert all(batch.schema.equals(SCHEMA) for batch in batches)
    assert len(rows) == 14 + 2 * 13 + 3 * 13 + 1
    assert rows[0]["query"] == "garden hose"
    assert rows[-1]["receipt"] == "unknown"


def test_muster_insight_looks_at_a_data_folder_while_the_store_is_open(data_folder: Path) -> None:
    page = data_folder / "page.html"
    result = muster("insight", str(data_folder), "--out", str(page), "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["people"] == 40
    assert said["left_out"]["events"] == {"unknown_receipt": 1}
    (clicked,) = said["tables"]["clicked_by_position"]["rows"]
    assert (clicked["count"], clicked["of"]) == (26, 40)
    assert said["tables"]["clicked_by_tier"]["note"].startswith("The data do not say which tier")
    assert "00000001-90-1" not in page.read_text(encoding="utf-8")
