"""What a history says of a search's candidates: the Rust core against a second implementation of the formula
in docs/recommend.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import rankcore
from muster.bundle.recommend import read_section
from muster.v1 import catalogue_pb2
from muster.v1 import ranking_pb2 as pb
from tests.fixtures import tiny_section
from tests.fixtures.tiny_section import ITEM_IDS
from training.recommend.mixture import FromTable
from training.recommend.section import sources_of

WEIGHT = 0.5
# Tables and cosines are in single precision; the rest is double on both sides.
TOLERANCE = 1e-4
HISTORY_READ, SPREAD_PLACES = 10, 10
BRAND, CATEGORY, TEXTS, ALIKE_FROM = 0.5, 0.2, 0.3, 0.5
QUERY = "red phone blue case wireless mouse"
CATALOGUE = [event.upsert for event in tiny_section.catalogue()]
KNOWN = [product.product_id for product in CATALOGUE]
HISTORIES = st.lists(st.sampled_from([*KNOWN, "gone-0", "unheard-of"]), min_size=1, max_size=14, unique=True)


@dataclass(frozen=True)
class Shop:
    """An engine, and what it is to know. tables: weight and rows. vectors: of the texts, as indexed."""

    bundle: str
    engine: rankcore.Engine
    products: dict[str, catalogue_pb2.Product]
    tables: dict[str, tuple[float, dict[str, dict[str, float]]]]
    vectors: dict[str, NDArray[np.float32]]

    def search(self, history: Sequence[str] = (), **more: object) -> pb.SearchResponse:
        request = pb.SearchRequest(
            query=QUERY,
            page_size=100,
            history=[pb.HistoryItem(product_id=item) for item in history],
            **more,  # type: ignore[arg-type]
        )
        return pb.SearchResponse.FromString(
            self.engine.execute(request.SerializeToString(), "lexical", 0, 200)
        )

    def likeness(self, taken: str, shown: str) -> dict[str, float]:
        if taken == shown:
            return {"itself": 1.0}
        one, other = self.products[taken], self.products[shown]
        cosine = float(self.vectors[taken] @ self.vectors[shown])
        kinds = {
            "brand": BRAND * (one.brand.lower() == other.brand.lower() != ""),
            "category": CATEGORY * (list(one.category)[-1:] == list(other.category)[-1:] != []),
            "similar": TEXTS * min(1.0, max(0.0, (cosine - ALIKE_FROM) / (1 - ALIKE_FROM))),
        }
        weights = sum(weight for weight, _ in self.tables.values())
        follows = {}
        for source, (weight, rows) in self.tables.items():
            row = rows.get(taken, {})
            if row:
                follows[source] = weight / weights * row.get(shown, 0.0) / max(row.values())
        best = follows if sum(follows.values()) > sum(kinds.values()) else kinds
        return {source: value for source, value in best.items() if value > 0}

    def tastes(self, history: Sequence[str], shown: Sequence[str]) -> list[dict[tuple[str, str], float]]:
        known = [item for item in history if item in self.products][-HISTORY_READ:][::-1]
        total = sum(1 / place for place in range(1, len(known) + 1))
        return [
            {
                (taken, source): value / place / total
                for place, taken in enumerate(known, start=1)
                for source, value in self.likeness(taken, product).items()
            }
            for product in shown
        ]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    made = tiny_section.make(tmp_path_factory.mktemp("taste"), ordered=False)
    engine = rankcore.Engine(
        str(made.bundle), runtime_library=rankcore.runtime_library(), workers=1, taste_weight=WEIGHT
    )
    generation = engine.empty()
    products = {}
    for at, product in enumerate(CATALOGUE, start=1):
        if at % 3:
            product.category.extend(["all", "things" if at % 2 else "Stuff"])
        products[product.product_id] = product
        event = catalogue_pb2.Event(event_id=product.product_id, upsert=product)
        generation.apply(
            [catalogue_pb2.SequencedEvent(sequence=at, epoch=1, event=event).SerializeToString()]
        )
    engine.serve(generation)
    until_s = time.monotonic() + 60
    while generation.pending():
        assert time.monotonic() < until_s, "vectors of a few products"
        time.sleep(0.01)
    models = rankcore.Models(str(made.bundle), runtime_library=rankcore.runtime_library())
    rows = models.products([product.SerializeToString() for product in products.values()])
    scales = np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)
    vectors = dict(zip(products, np.round(rows / scales) * scales, strict=True))
    sources, weights = sources_of(read_section(made.bundle / "recommend"))
    tables = {}
    for source, weight in zip(sources, weights, strict=True):
        if isinstance(source, FromTable):
            rows: dict[str, dict[str, float]] = {}
            cells = source.table.weights.tocoo()
            for row, column, value in zip(cells.row, cells.col, cells.data, strict=True):
                rows.setdefault(ITEM_IDS[row], {})[ITEM_IDS[column]] = float(value)
            tables[source.table.name] = (float(weight), rows)
    yield Shop(str(made.bundle), engine, products, tables, vectors)
    engine.close()


def most_of(scores: Sequence[float]) -> float:
    """What a taste of 1 adds."""
    spread = scores[0] - scores[min(SPREAD_PLACES, len(scores)) - 1]
    return max(WEIGHT * spread, 1e-6 * (1 + abs(scores[0])))


@given(history=HISTORIES)
@settings(max_examples=60, deadline=None)
def test_scores_rise_by_what_the_formula_says_and_by_nothing_else(shop: Shop, history: list[str]) -> None:
    plain = shop.search()
    before = {result.product_id: result.score for result in plain.results}
    order = [result.product_id for result in plain.results]
    scores = [result.score for result in plain.results]
    most = most_of(scores)
    tastes = [sum(parts.values()) for parts in shop.tastes(history, order)]
    answer = shop.search(history)
    known = [item for item in history if item in shop.products]
    assert answer.history.used == min(len(known), HISTORY_READ)
    assert answer.history.unknown == len(history) - len(known)
    assert answer.history.left_out == len(known) - answer.history.used
    if len(set(tastes)) < 2:
        assert answer.receipt.taste == pb.TASTE_UNRELATED
        assert [result.product_id for result in answer.results] == order
        return
    assert answer.receipt.taste == pb.TASTE_APPLIED
    expected = {product: before[product] + most * taste for product, taste in zip(order, tastes, strict=True)}
    found = {result.product_id: result.score for result in answer.results}
    assert set(found) == set(before)
    for product, score in expected.items():
        assert math.isclose(found[product], score, rel_tol=TOLERANCE, abs_tol=TOLERANCE * max(1.0, most))
    shown = [result.score for result in answer.results]
    assert shown == sorted(shown, reverse=True)
    assert all(found[product] - before[product] <= most * (1 + TOLERANCE) for product in found)


@given(history=HISTORIES)
@settings(max_examples=30, deadline=None)
def test_an_explanation_adds_up_and_names_what_was_looked_at(shop: Shop, history: list[str]) -> None:
    answer = shop.search(history, explain=True)
    plain = shop.search(explain=True)
    assert all(not result.because for result in plain.results)
    scores = [result.score for result in plain.results]
    most = most_of(scores)
    shown = [result.product_id for result in answer.results]
    for result, parts in zip(answer.results, shop.tastes(history, shown), strict=True):
        contributions = sum(signal.contribution for signal in result.signals)
        assert math.isclose(result.base_score + contributions, result.score, rel_tol=1e-9, abs_tol=1e-9)
        if answer.receipt.taste != pb.TASTE_APPLIED:
            continue
        taste = [signal for signal in result.signals if signal.name == "taste"]
        because = {(part.product_id, part.source): part.contribution for part in result.because}
        if not taste:
            assert not parts and not because
            continue
        assert math.isclose(sum(because.values()), taste[0].contribution, rel_tol=1e-9, abs_tol=1e-12)
        told = {key for key in because if key != ("", "")}
        assert told <= set(parts)
        for key in told:
            assert math.isclose(because[key], most * parts[key], rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def test_pages_of_one_shopper_fit_together(shop: Shop) -> None:
    history = ["phone-1", "case-4", "best-2"]
    whole = [result.product_id for result in shop.search(history).results]
    assert whole != [result.product_id for result in shop.search().results]
    pages = []
    for offset in range(0, len(whole), 4):
        request = pb.SearchRequest(
            query=QUERY,
            page_size=4,
            offset=offset,
            history=[pb.HistoryItem(product_id=item) for item in history],
        )
        answer = shop.engine.execute(request.SerializeToString(), "lexical", 0, 200)
        pages += [result.product_id for result in pb.SearchResponse.FromString(answer).results]
    assert pages == whole


def test_who_names_nobody_is_searched_for_as_before_and_views_tell_nothing(shop: Shop) -> None:
    plain = shop.search()
    assert plain.receipt.taste == pb.TASTE_UNSPECIFIED and not plain.HasField("history")
    seen = pb.SearchRequest(
        query=QUERY, page_size=100, history=[pb.HistoryItem(product_id="phone-1", kind=1)]
    )
    answer = pb.SearchResponse.FromString(shop.engine.execute(seen.SerializeToString(), "lexical", 0, 200))
    assert answer.receipt.taste == pb.TASTE_UNKNOWN
    assert answer.results == plain.results


def test_without_a_weight_nothing_is_looked_at_and_a_weight_is_a_share(shop: Shop) -> None:
    library = rankcore.runtime_library()
    with pytest.raises(rankcore.InvalidRequest, match="taste_weight"):
        rankcore.Engine(shop.bundle, runtime_library=library, workers=1, taste_weight=1.5)
    engine = rankcore.Engine(shop.bundle, runtime_library=library, workers=1, taste_weight=0.0)
    try:
        engine.serve(engine.empty())
        request = pb.SearchRequest(query=QUERY, history=[pb.HistoryItem(product_id="phone-1")])
        answer = pb.SearchResponse.FromString(engine.execute(request.SerializeToString(), "lexical", 0, 10))
        assert answer.receipt.taste == pb.TASTE_OFF
        assert not answer.HasField("history")
        assert engine.status()["accounted"]["tastes"] == dict.fromkeys(
            ("applied", "off", "unknown", "unrelated", "time"), 0
        )
    finally:
        engine.close()
