"""Recommendations: the Rust core against the matrices of `training/recommend`, on one section."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import rankcore
from muster.v1 import catalogue_pb2, ranking_pb2
from tests.fixtures import tiny_section
from tests.fixtures.tiny_section import ITEM_IDS, Made
from training.recommend.mixture import mixed, shares_of, strip
from training.recommend.order import first, ordered, signals_of

BUDGET_US = 10_000_000
# The core adds in another order, and mixes in double precision.
TOLERANCE = 1e-5
HISTORIES = st.lists(st.sampled_from(ITEM_IDS), min_size=1, max_size=9, unique=True)


@dataclass(frozen=True)
class Shop:
    """An engine that serves a section, and what that was made of."""

    engine: rankcore.Engine
    made: Made

    def ask(self, history: Sequence[str], **more: object) -> ranking_pb2.RecommendResponse:
        request = ranking_pb2.RecommendRequest(
            history=[ranking_pb2.HistoryItem(product_id=item) for item in history],
            page_size=100,
            **more,  # type: ignore[arg-type]
        )
        answer, _, _ = self.engine.recommend(request.SerializeToString(), BUDGET_US, now_unix_us=1)
        return ranking_pb2.RecommendResponse.FromString(answer)


def _opened(folder: Path, *, with_order: bool, sequence: bool = False) -> Shop:
    made = tiny_section.make(folder, ordered=with_order, sequence=sequence)
    engine = rankcore.Engine(str(made.bundle), runtime_library=rankcore.runtime_library(), workers=1)
    generation = engine.empty()
    # Every item of the section, and nothing else: a product that is in none would be named by its text.
    known = [
        catalogue_pb2.Event(
            event_id=item, upsert=catalogue_pb2.Product(product_id=item, title=f"a {item.replace('-', ' ')}")
        )
        for item in ITEM_IDS
    ]
    generation.apply(
        [
            catalogue_pb2.SequencedEvent(sequence=at, epoch=1, event=event).SerializeToString()
            for at, event in enumerate(known, start=1)
        ]
    )
    engine.serve(generation)
    return Shop(engine, made)


@pytest.fixture(scope="module")
def mixing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    shop = _opened(tmp_path_factory.mktemp("mixing"), with_order=False)
    yield shop
    shop.engine.close()


@pytest.fixture(scope="module")
def ordering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    shop = _opened(tmp_path_factory.mktemp("ordering"), with_order=True)
    yield shop
    shop.engine.close()


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    shop = _opened(tmp_path_factory.mktemp("reading"), with_order=True, sequence=True)
    yield shop
    shop.engine.close()


def _reference(made: Made, history: Sequence[str], repeats: bool) -> tuple[NDArray[np.float32], ...]:
    histories = [np.array([ITEM_IDS.index(item) for item in history])]
    shares = shares_of(made.sources, histories, repeats)
    mixture = mixed(shares, made.weights)
    if not repeats:
        strip(mixture, histories, -np.inf)
    return shares, mixture


@given(history=HISTORIES, repeats=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_mixture_is_that_of_training(mixing: Shop, history: list[str], repeats: bool) -> None:
    _, mixture = _reference(mixing.made, history, repeats)
    answer = mixing.ask(history, repeats=repeats)
    assert answer.receipt.tier == ranking_pb2.TIER_MIXTURE
    scores = {result.product_id: result.score for result in answer.results}
    named = {item for item, score in zip(ITEM_IDS, mixture[0], strict=True) if score > 0}
    filled = set(scores) - named
    assert named <= set(scores)
    for item in named:
        assert scores[item] == pytest.approx(float(mixture[0, ITEM_IDS.index(item)]), rel=TOLERANCE, abs=1e-9)
    # What fills the page stands below everything that something speaks for.
    assert not filled or not named or max(scores[one] for one in filled) < min(scores[one] for one in named)
    assert answer.history.used == min(len(history), tiny_section.HISTORY_MAX)
    assert answer.history.left_out == max(0, len(history) - tiny_section.HISTORY_MAX)


@given(history=HISTORIES)
@settings(max_examples=60, deadline=None)
def test_the_learnt_order_is_that_of_training(ordering: Shop, history: list[str]) -> None:
    shares, mixture = _reference(ordering.made, history, False)
    places = first(mixture, 10)
    signals = signals_of(shares, mixture, places, [np.arange(len(history))])
    counts = ordering.made.sources[-1].evidence([np.array([0])])[0]
    assert ordering.made.order is not None
    expected = [ITEM_IDS[at] for at in ordered(ordering.made.order, places, signals, counts)[0]]
    answer = ordering.ask(history)
    assert (answer.receipt.tier, answer.receipt.depth) == (ranking_pb2.TIER_ORDERED, 10)
    scores = [result.score for result in answer.results]
    assert scores == sorted(scores, reverse=True)
    found = [result.product_id for result in answer.results[:10]]
    assert set(found) == set(expected)
    # Candidates of one leaf have one score; which of them goes first may hang on the last bit of the mixture.
    by_score = dict(zip(found, scores, strict=False))
    for one, other in itertools.pairwise(expected):
        taken = counts[ITEM_IDS.index(one)] and counts[ITEM_IDS.index(other)]
        assert not taken or by_score[one] >= by_score[other]


@given(history=HISTORIES)
@settings(max_examples=40, deadline=None)
def test_with_a_sequence_model_shares_and_order_are_those_of_training(
    reading: Shop, history: list[str]
) -> None:
    shares, mixture = _reference(reading.made, history, False)
    places = first(mixture, 10)
    signals = signals_of(shares, mixture, places, [np.arange(len(history))])[0]
    answer = reading.ask(history, explain=True)
    assert answer.receipt.tier == ranking_pb2.TIER_ORDERED
    found = {result.product_id: result for result in answer.results}
    # At the border of the candidates the last bit of the mixture decides.
    for place, expected in zip(places[0][:8], signals[:8], strict=False):
        told = {signal.name: signal for signal in found[ITEM_IDS[place]].signals}
        if not told:
            continue
        for name, value in zip(
            [*(one.name for one in reading.made.sources), "mixture"], expected, strict=False
        ):
            if np.isnan(value):
                assert not told[name].HasField("value")
            else:
                assert told[name].value == pytest.approx(float(value), rel=1e-4, abs=1e-4)


@given(history=HISTORIES)
@settings(max_examples=30, deadline=None)
def test_reasons_and_contributions_add_up(mixing: Shop, ordering: Shop, history: list[str]) -> None:
    for result in mixing.ask(history, explain=True).results:
        assert sum(part.contribution for part in result.because) == pytest.approx(result.score, rel=1e-6)
        assert all(part.product_id in ("", *history) for part in result.because)
    for result in ordering.ask(history, explain=True).results:
        if result.HasField("base_score"):
            told = result.base_score + sum(signal.contribution for signal in result.signals)
            assert told == pytest.approx(result.score, rel=1e-6, abs=1e-9)
