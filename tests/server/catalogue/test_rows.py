from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from muster.v1.catalogue_pb2 import SequencedEvent
from server.catalogue.rows import sequenced
from tests.server.catalogue.conftest import event


@given(payload_bytes=st.integers(0, 70_000), sequence=st.integers(1, 2**60), epoch=st.integers(1, 2**60))
def test_stored_events_are_framed_as_protobuf_would(payload_bytes: int, sequence: int, epoch: int) -> None:
    inner = event("e", title="x" * payload_bytes)
    framed = sequenced(sequence, epoch, 7, inner.SerializeToString())
    assert SequencedEvent.FromString(framed) == SequencedEvent(
        sequence=sequence, epoch=epoch, committed_unix_us=7, event=inner
    )
