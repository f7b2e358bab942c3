"""Snapshot and engine agree: whatever is folded, a replica ends with the same products."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rankcore
from muster.v1.catalogue_pb2 import Delete, Event, Patch, Product
from server.catalogue.errors import StoreDamaged
from server.catalogue.opening import open_store
from server.catalogue.store import NewEvent, Store
from server.generation.build import live_products
from server.generation.catch_up import load_snapshot
from server.standby.lease import Holder

IDS = st.sampled_from(["a", "b", "c", "d", "e"])
PRICES = st.none() | st.sampled_from([0.0, 1.5, 99.0])
COUNTS = st.none() | st.integers(0, 5)


@st.composite
def changes(draw: st.DrawFn) -> Product | Patch | Delete:
    product_id = draw(IDS)
    kind = draw(st.sampled_from(["upsert", "upsert", "patch", "patch", "delete"]))
    if kind == "delete":
        return Delete(product_id=product_id)
    columns = {
        "price": draw(PRICES),
        "stock": draw(COUNTS),
        "rating": draw(PRICES.filter(lambda value: value != 99.0)),
        "rating_count": draw(COUNTS),
        "popularity": draw(PRICES),
    }
    if kind == "patch":
        return Patch(product_id=product_id, **columns)
    return Product(
        product_id=product_id,
        title=draw(st.sampled_from(["red shoe", "blue hat"])),
        attributes=draw(st.dictionaries(st.sampled_from(["size", "sole"]), st.just("1"))),
        **columns,
    )


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Iterator[rankcore.Engine]:
    engine = rankcore.Engine(str(bundle), runtime_library=rankcore.runtime_library(), workers=1)
    yield engine
    engine.close()


def append(store: Store, some: list[Product | Patch | Delete]) -> None:
    head = store.head().sequence
    events = []
    for number, change in enumerate(some):
        event = Event(event_id=f"e{head + number}")
        field = {Product: event.upsert, Patch: event.patch, Delete: event.delete}[type(change)]
        field.SetInParent()
        field.MergeFrom(change)
        events.append(NewEvent.of(event))
    if events:
        store.append([events], epoch=1)


def fold(store: Store, events: int) -> None:
    store.fold(epoch=1, wanted=lambda row: True, events_max=events)


def follow(store: Store, generation: rankcore.Generation) -> None:
    """What a replica does: the snapshot where events are folded, then the log."""
    load_snapshot(store, generation)
    generation.apply(store.read_range(generation.applied_sequence() + 1))


def products(generation: rankcore.Generation) -> list[Product]:
    found = [Product.FromString(product) for product in generation.snapshot()]
    return sorted(found, key=lambda product: product.product_id)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    some=st.lists(changes(), min_size=2, max_size=40),
    folds=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    left_off=st.integers(0, 40),
)
def test_replicas_that_loaded_the_snapshot_hold_what_those_that_saw_every_event_hold(
    engine: rankcore.Engine, some: list[Product | Patch | Delete], folds: list[int], left_off: int
) -> None:
    with TemporaryDirectory() as folder:
        store = open_store(Path(folder) / "catalogue.sqlite3")
        store.claim_lease(Holder("test", 1, 1, "boot"), expected_epoch=0, ttl_ns=10**15)
        append(store, some)
        whole, frozen, fresh = engine.empty(), engine.empty(), engine.empty()
        whole.apply(store.read_range(1))
        frozen.apply(store.read_range(1, min(left_off, len(some))) if left_off else [])
        with store.view() as view:
            before = list(live_products(view))
        for events in folds:
            fold(store, events)
        for generation in (frozen, fresh):
            follow(store, generation)
            assert generation.applied_sequence() == len(some)
            assert products(generation) == products(whole)
        with store.view() as view:
            after = list(live_products(view))
        # The very order as well, which decides between products of the same score.
        assert [Product.FromString(product) for product in after] == [
            Product.FromString(product) for product in before
        ]
        store.close()


def test_a_generation_of_another_catalogue_is_found_out(tmp_path: Path) -> None:
    store = open_store(tmp_path / "catalogue.sqlite3")
    store.claim_lease(Holder("test", 1, 1, "boot"), expected_epoch=0, ttl_ns=10**15)
    append(store, [Product(product_id="a", title="here"), Delete(product_id="x"), Delete(product_id="y")])
    fold(store, 2)
    with pytest.raises(StoreDamaged, match="different catalogues"):
        load_snapshot(store, _Crowded())
    store.close()


class _Crowded:
    """Holds more than the folded events could have deleted."""

    def apply(self, events: list[bytes]) -> int:
        return 0

    def applied_sequence(self) -> int:
        return 0

    def snapshot(self) -> Iterator[bytes]:
        return (Product(product_id=f"z{number}").SerializeToString() for number in range(9))
