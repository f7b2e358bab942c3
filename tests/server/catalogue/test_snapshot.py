"""Events folded into the snapshot: nothing is lost, ids are known, the file shrinks, damage is not carried
on.
"""

from __future__ import annotations

import pytest

from muster.v1.catalogue_pb2 import Delete, Event, Patch, Product
from server.catalogue.errors import EventsFolded, Fenced
from server.catalogue.store import Appended, Head, NewEvent, Store
from tests.server.catalogue.conftest import OTHER, TTL_NS, event_ids, new_events


def fold(store: Store, events_max: int = 1000, last: int = 10**9, epoch: int = 1) -> int:
    return store.fold(epoch=epoch, wanted=lambda row: row.sequence <= last, events_max=events_max).events


def products(store: Store) -> dict[str, Product]:
    with store.view() as view:
        rows = [Event.FromString(row.payload).upsert for row in view.snapshot_rows()]
    return {product.product_id: product for product in rows}


def changes(store: Store, *some: Product | Patch | Delete) -> None:
    head = store.head().sequence
    events = []
    for number, change in enumerate(some, start=head + 1):
        field = {Product: "upsert", Patch: "patch", Delete: "delete"}[type(change)]
        events.append(NewEvent.of(Event(event_id=f"c{number}", **{field: change})))  # type: ignore[arg-type]
    store.append([events], epoch=1)


def test_folded_events_are_merged_into_one_upsert_a_product(store: Store) -> None:
    changes(
        store,
        Product(product_id="kept", title="shoe", price=1.0, stock=5),
        Product(product_id="gone", title="hat"),
        Patch(product_id="kept", price=2.0),
        Patch(product_id="kept", stock=0),
        Delete(product_id="gone"),
        Patch(product_id="gone", price=1.0),
        Product(product_id="other", title="last"),
    )
    assert fold(store) == 6
    assert products(store) == {"kept": Product(product_id="kept", title="shoe", price=2.0, stock=0)}
    with store.view() as view:
        assert (view.snapshot.sequence, view.snapshot.products, view.head) == (6, 1, Head(7, 1))
        [row] = view.snapshot_rows()
        assert (row.sequence, row.changed_sequence) == (1, 4)
        assert [row.sequence for row in view.log_rows()] == [7]


def test_the_last_event_is_never_folded_so_the_log_always_has_a_head(store: Store) -> None:
    store.append([new_events("a", "b", "c")], epoch=1)
    assert fold(store) == 2
    assert fold(store) == 0
    assert store.head() == Head(3, 1)


def test_a_fold_stops_before_the_first_event_that_is_to_stay(store: Store) -> None:
    store.append([new_events(*"abcdefgh")], epoch=1)
    assert fold(store, last=3) == 3
    assert fold(store, events_max=2) == 2
    assert event_ids(store.read_range(6)) == ["f", "g", "h"]


def test_folded_events_are_refused_by_the_first_one_that_is_still_there(store: Store) -> None:
    store.append([new_events(*"abcdef")], epoch=1)
    fold(store, last=4)
    for first in (0, 1, 4):
        with pytest.raises(EventsFolded, match="the log begins with event 5") as caught:
            store.read_range(first)
        assert caught.value.first_sequence == 5
    assert event_ids(store.read_range(5)) == ["e", "f"]
    assert store.read_range(7) == []


def test_a_folded_event_sent_again_is_a_duplicate_until_its_id_is_forgotten(store: Store) -> None:
    store.append([new_events(*"abcdef")], epoch=1)
    fold(store, last=4)
    assert store.append([new_events("b", "g", "b")], epoch=1).batches == [Appended(7, 1, 2)]
    assert store.append([new_events("a")], epoch=1).batches == [Appended(1, 1, 1)]

    def forget(ids_max: int, before_us: int = 0, rows_max: int = 100) -> int:
        return store.forget_event_ids(
            epoch=1, committed_before_unix_us=before_us, ids_max=ids_max, rows_max=rows_max
        )

    assert forget(ids_max=4) == 0
    assert forget(ids_max=3) == 1
    assert store.append([new_events("b")], epoch=1).batches == [Appended(2, 1, 1)]
    # Beyond the window nobody knows that it was there: it is a new event.
    assert store.append([new_events("a")], epoch=1).batches == [Appended(8, 1, 0)]
    assert forget(ids_max=100, before_us=2**62, rows_max=2) == 2
    assert forget(ids_max=100, before_us=2**62) == 1
    assert forget(ids_max=0) == 0


def test_only_the_reigning_primary_folds_forgets_and_seals(store: Store) -> None:
    store.append([new_events(*"abc")], epoch=1)
    assert store.claim_lease(OTHER, expected_epoch=1, ttl_ns=TTL_NS) is not None
    with pytest.raises(Fenced):
        fold(store, epoch=1)
    with pytest.raises(Fenced):
        store.seal(epoch=1, rows_max=10)
    assert event_ids(store.read_range(1)) == ["a", "b", "c"]
    assert fold(store, epoch=2) == 2
    with pytest.raises(Fenced):
        store.forget_event_ids(epoch=1, committed_before_unix_us=2**62, ids_max=0, rows_max=10)


def test_a_view_does_not_see_what_is_folded_meanwhile(store: Store) -> None:
    store.append([new_events(*"abcd")], epoch=1)
    with store.view() as view:
        fold(store)
        assert view.snapshot.sequence == 0
        assert [row.event_id for row in view.log_rows()] == ["a", "b", "c", "d"]
    with store.view() as view:
        assert view.snapshot.sequence == 3
