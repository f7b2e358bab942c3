"""Apply, Get and Watch through real servers."""

from __future__ import annotations

import threading

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from muster.v1 import catalogue_pb2 as pb
from tests.server.conftest import Pair
from tests.server.replica import Replica, delete, patch, upsert, wait_until
from tests.server.services.test_ranking import refusal


def get(replica: Replica, product_id: str, min_sequence: int = 0, timeout: float = 5) -> pb.GetResponse:
    return replica.catalogue.Get(
        pb.GetRequest(product_id=product_id, min_sequence=min_sequence), timeout=timeout
    )


def refused(pair: Pair, *events: pb.Event) -> tuple[grpc.StatusCode, str, list[str]]:
    """Apply something bad; nothing of it may reach the log."""
    before = pair.primary.status().head_sequence
    with pytest.raises(grpc.RpcError) as caught:
        pair.primary.apply(*events)
    assert pair.primary.status().head_sequence == before
    return refusal(caught.value)


def test_what_is_acknowledged_is_visible_at_once_on_the_primary(pair: Pair) -> None:
    answer = pair.primary.apply(upsert("visible", "green hat", price=5.0), patch("visible", price=6.0))
    assert answer.epoch >= 1
    assert answer.duplicates == 0
    found = get(pair.primary, "visible")
    assert found.product.price == 6.0
    assert found.applied_sequence >= answer.sequence


def test_a_standby_follows(pair: Pair) -> None:
    sequence = pair.primary.apply(upsert("followed", "green scarf")).sequence
    assert get(pair.standby, "followed", sequence).product.title == "green scarf"
    sequence = pair.primary.apply(delete("followed")).sequence
    with pytest.raises(grpc.RpcError) as caught:
        get(pair.standby, "followed", sequence)
    assert refusal(caught.value)[:2] == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_PRODUCT")


def test_an_event_sent_twice_is_applied_once(pair: Pair) -> None:
    event = upsert("once", "blue glove", price=1.0)
    first = pair.primary.apply(event)
    pair.primary.apply(patch("once", price=2.0))
    second = pair.primary.apply(event)
    assert (second.sequence, second.duplicates) == (first.sequence, 1)
    assert get(pair.primary, "once").product.price == 2.0


def test_a_batch_that_deletes_what_it_patches_is_confirmed_when_it_is_sent_again(pair: Pair) -> None:
    pair.primary.apply(upsert("going", "last hat"))
    batch = [patch("going", price=2.0), delete("going")]
    first = pair.primary.apply(*batch)
    second = pair.primary.apply(*batch)
    assert (second.sequence, second.duplicates) == (first.sequence, 2)
    assert refused(pair, batch[0], patch("going", price=3.0))[1] == "UNKNOWN_PRODUCT"


def test_a_standby_names_the_primary(pair: Pair) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        pair.standby.apply(upsert("x", "y"))
    assert refusal(caught.value)[:2] == (grpc.StatusCode.UNAVAILABLE, "NOT_PRIMARY")
    assert "the primary is a" in str(caught.value.details())
    status = rpc_status.from_call(caught.value)
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    assert dict(info.metadata) == {"primary": "a"}


def test_a_patch_of_an_unknown_product_writes_nothing_of_its_batch(pair: Pair) -> None:
    code, reason, _ = refused(pair, upsert("half", "half a batch"), patch("nobody", price=1.0))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_PRODUCT")
    with pytest.raises(grpc.RpcError):
        get(pair.primary, "half")


def test_a_patch_sees_what_its_own_batch_did_before(pair: Pair) -> None:
    assert pair.primary.apply(upsert("in-batch", "a"), patch("in-batch", stock=3)).sequence
    assert refused(pair, delete("in-batch"), patch("in-batch", stock=4))[1] == "UNKNOWN_PRODUCT"
    assert get(pair.primary, "in-batch").product.stock == 3


def test_deleting_an_unknown_product_is_no_error(pair: Pair) -> None:
    assert pair.primary.apply(delete("never-was")).sequence


def product(**fields: object) -> pb.Event:
    return pb.Event(event_id="bad", upsert=pb.Product(**{"product_id": "p", "title": "t", **fields}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (pb.Event(upsert=pb.Product(product_id="p", title="t")), "events[0].event_id"),
        (pb.Event(event_id="x" * 129, upsert=pb.Product(product_id="p", title="t")), "events[0].event_id"),
        (pb.Event(event_id="bad"), "events[0].change"),
        (product(product_id=""), "events[0].upsert.product_id"),
        (product(product_id="a\nb"), "events[0].upsert.product_id"),
        (product(title=""), "events[0].upsert.title"),
        (product(title="x" * 2049), "events[0].upsert.title"),
        (product(brand="x" * 257), "events[0].upsert.brand"),
        (product(category=["x"] * 17), "events[0].upsert.category"),
        (product(category=["a", "x" * 257]), "events[0].upsert.category[1]"),
        (product(bullets=["x"] * 65), "events[0].upsert.bullets"),
        (product(description="x" * 32_769), "events[0].upsert.description"),
        (product(attributes={"x" * 129: "x"}), "events[0].upsert.attributes"),
        (product(attributes={"size": "x" * 1025}), 'events[0].upsert.attributes["size"]'),
        (product(price=float("nan")), "events[0].upsert.price"),
        (product(price=float("inf")), "events[0].upsert.price"),
        (product(price=-1.0), "events[0].upsert.price"),
        (product(stock=-1), "events[0].upsert.stock"),
        (product(rating=5.1), "events[0].upsert.rating"),
        (product(rating=float("nan")), "events[0].upsert.rating"),
        (product(rating_count=-1), "events[0].upsert.rating_count"),
        (product(popularity=float("-inf")), "events[0].upsert.popularity"),
        (pb.Event(event_id="bad", patch=pb.Patch(product_id="red-1")), "events[0].patch"),
        (pb.Event(event_id="bad", patch=pb.Patch(product_id="red-1", price=-0.5)), "events[0].patch.price"),
        (pb.Event(event_id="bad", delete=pb.Delete()), "events[0].delete.product_id"),
    ],
)
def test_a_bad_event_names_its_field_and_nothing_is_written(pair: Pair, event: pb.Event, field: str) -> None:
    code, reason, fields = refused(pair, event)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert fields == [field]


@pytest.mark.parametrize("count", [0, 1001])
def test_a_batch_has_its_size(pair: Pair, count: int) -> None:
    assert refused(pair, *[delete("x")] * count)[::2] == (grpc.StatusCode.INVALID_ARGUMENT, ["events"])


@pytest.mark.parametrize("path", ["/muster.v1.CatalogueService/Apply", "/muster.v1.CatalogueService/Get"])
def test_bytes_that_are_no_message_are_refused(pair: Pair, path: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        pair.primary.channel.unary_unary(path)(b"\x0a\xff", timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_get_refuses_a_bad_id_and_a_sequence_that_does_not_come(pair: Pair) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        get(pair.primary, "")
    assert refusal(caught.value)[2] == ["product_id"]
    with pytest.raises(grpc.RpcError) as caught:
        get(pair.standby, "red-1", min_sequence=10**9, timeout=0.3)
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_a_watch_streams_what_is_there_and_then_what_comes(pair: Pair) -> None:
    stream = pair.standby.catalogue.Watch(pb.WatchRequest(from_sequence=0))
    head = pair.primary.status().head_sequence
    seen = [next(stream).event for _ in range(head)]
    assert [event.sequence for event in seen] == list(range(1, head + 1))
    assert seen[0].event.upsert.title == "red running shoe 0"
    assert seen[0].committed_unix_us > 0
    answer = pair.primary.apply(upsert("watched", "seen by a watcher"))
    following = next(stream).event
    assert (following.sequence, following.epoch) == (answer.sequence, answer.epoch)
    assert following.event.upsert.product_id == "watched"
    stream.cancel()


def test_a_watch_may_begin_in_the_future(pair: Pair) -> None:
    head = pair.primary.status().head_sequence
    stream = pair.primary.catalogue.Watch(pb.WatchRequest(from_sequence=head + 2))
    received: list[int] = []
    reader = threading.Thread(target=lambda: received.append(next(stream).event.sequence))
    reader.start()
    pair.primary.apply(upsert("future-1", "first"), upsert("future-2", "second"))
    reader.join(timeout=10)
    stream.cancel()
    assert received == [head + 2]


def watch(replica: Replica) -> grpc.Call | None:
    """A Watch that has begun, or None where there was no place for it."""
    stream = replica.catalogue.Watch(pb.WatchRequest())
    try:
        next(stream)
    except grpc.RpcError as error:
        assert refusal(error)[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "WATCHES_FULL")
        return None
    return stream


def test_watches_are_bounded_and_a_place_comes_back(pair: Pair) -> None:
    streams: list[grpc.Call] = []

    def full() -> bool:
        stream = watch(pair.primary)
        if stream is not None:
            streams.append(stream)
        return stream is None and len(streams) == 2

    # Watches of other tests may take a moment to leave.
    wait_until(full, "two watches fill the replica", timeout_s=10)
    for stream in streams:
        stream.cancel()
    wait_until(lambda: (again := watch(pair.primary)) is not None and again.cancel(), "a place", timeout_s=10)
