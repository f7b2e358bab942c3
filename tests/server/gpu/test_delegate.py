"""The engine with a scorer of its own choosing for a cross-encoder's pairs: what it is asked, and what its
answers become. Needs no torch.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import rankcore
from muster.v1 import catalogue_pb2, ranking_pb2
from tests.server.replica import shoes, wait_until

PRODUCTS = 40
CHUNK = 8

Ids = npt.NDArray[np.int32]


@dataclass
class Recorder:
    """A scorer that writes down what it is asked."""

    answer: Callable[[int], npt.NDArray[np.float32] | None]
    asked: list[tuple[list[list[int]], list[int], int | None]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def __call__(
        self, ids: Ids, starts: Ids, seconds: Ids, within_us: int | None
    ) -> npt.NDArray[np.float32] | None:
        rows = [ids[starts[at] : starts[at + 1]].tolist() for at in range(seconds.size)]
        self.asked.append((rows, seconds.tolist(), within_us))
        self.threads.add(threading.get_ident())
        return self.answer(seconds.size)


def falling(pairs: int) -> npt.NDArray[np.float32]:
    """The first pair is the best."""
    return np.arange(pairs, 0, -1, dtype=np.float32)


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Iterator[rankcore.Engine]:
    engine = rankcore.Engine(str(bundle), runtime_library=rankcore.runtime_library(), workers=2)
    generation = engine.empty()
    generation.apply(
        [
            catalogue_pb2.SequencedEvent(sequence=number, epoch=1, event=event).SerializeToString()
            for number, event in enumerate(shoes(PRODUCTS), start=1)
        ]
    )
    wait_until(lambda: generation.pending() == 0, "vectors of all products")
    engine.serve(generation)
    engine.warm_up(["red shoe"])
    yield engine
    engine.close()


@pytest.fixture
def delegated(engine: rankcore.Engine) -> Iterator[Callable[[Recorder], Recorder]]:
    def delegate(scorer: Recorder) -> Recorder:
        engine.delegate("cross_small", scorer, CHUNK)
        return scorer

    yield delegate
    engine.delegate("cross_small", None, CHUNK)


def rerank(query: str = "red running shoe") -> bytes:
    ids = [f"red-{number}" for number in range(PRODUCTS)]
    return ranking_pb2.RerankRequest(query=query, product_ids=ids).SerializeToString()


def answered(reply: bytes) -> ranking_pb2.RerankResponse:
    return ranking_pb2.RerankResponse.FromString(reply)


def test_scores_of_the_delegate_decide_the_order_chunk_by_chunk(
    engine: rankcore.Engine, delegated: Callable[[Recorder], Recorder]
) -> None:
    by_late = [one.product_id for one in answered(engine.execute_rerank(rerank(), "late", PRODUCTS)).results]
    step = iter(range(100, 0, -1))
    scorer = delegated(Recorder(lambda pairs: np.full(pairs, next(step), np.float32)))
    reply = answered(engine.execute_rerank(rerank(), "cross_small", 20))
    assert [one.product_id for one in reply.results] == by_late
    assert [one.score for one in reply.results[:20]] == [100.0] * 8 + [99.0] * 8 + [98.0] * 4
    assert [len(rows) for rows, _, _ in scorer.asked] == [8, 8, 4]
    for rows, seconds, within_us in scorer.asked:
        # No deadline, no hurry.
        assert within_us is None
        first = rows[0]
        for row, second in zip(rows, seconds, strict=True):
            # [CLS] query [SEP] product [SEP]
            assert row[:second] == first[:second]
            assert (row[0], row[second - 1], row[-1]) == (first[0], first[-1], first[-1])
            assert 3 < second < len(row)


def test_a_chunk_is_as_large_as_it_was_said_to_be(engine: rankcore.Engine) -> None:
    scorer = Recorder(falling)
    engine.delegate("cross_small", scorer, 64)
    engine.execute_rerank(rerank(), "cross_small", PRODUCTS)
    engine.delegate("cross_small", None, CHUNK)
    assert [len(rows) for rows, _, _ in scorer.asked] == [PRODUCTS]


def test_the_time_that_the_answer_needs_is_kept_from_the_delegate(
    engine: rankcore.Engine, delegated: Callable[[Recorder], Recorder]
) -> None:
    scorer = delegated(Recorder(falling))
    reply = answered(engine.rerank(rerank(), 5_000_000))
    assert reply.receipt.tier == ranking_pb2.TIER_CROSS_SMALL
    assert reply.receipt.reason == ranking_pb2.REASON_BEST
    # `reserve_ms` is the least that is kept.
    limits = [within_us for _, _, within_us in scorer.asked]
    assert limits and all(limit is not None and 0 < limit <= 4_999_500 for limit in limits)
    assert limits == sorted(limits, key=lambda limit: -(limit or 0))
    assert threading.get_ident() not in scorer.threads


def test_pairs_that_would_come_too_late_leave_the_order_that_there_is(
    engine: rankcore.Engine, delegated: Callable[[Recorder], Recorder]
) -> None:
    before = engine.status()
    scorer = delegated(Recorder(lambda pairs: None))
    reply = answered(engine.rerank(rerank(), 5_000_000))
    assert len(scorer.asked) == 1
    assert reply.receipt.tier == ranking_pb2.TIER_LATE
    assert reply.receipt.planned_tier == ranking_pb2.TIER_CROSS_SMALL
    assert reply.receipt.reason == ranking_pb2.REASON_LOAD
    assert [one.product_id for one in reply.results] == [
        one.product_id for one in answered(engine.execute_rerank(rerank(), "late", PRODUCTS)).results
    ]
    after = engine.status()
    # A refusal is no measure of what pairs cost.
    assert after["stages"]["cross_small"]["unit_us"] == before["stages"]["cross_small"]["unit_us"]
    assert after["counters"]["part_failures"] == before["counters"]["part_failures"]


def test_pairs_scored_before_it_became_too_late_count(
    engine: rankcore.Engine, delegated: Callable[[Recorder], Recorder]
) -> None:
    answers = iter([np.full(CHUNK, math.pi, np.float32), None])
    delegated(Recorder(lambda pairs: next(answers)))
    reply = answered(engine.rerank(rerank(), 5_000_000))
    assert reply.receipt.tier == ranking_pb2.TIER_CROSS_SMALL
    assert reply.receipt.depth == CHUNK
    assert reply.receipt.reason == ranking_pb2.REASON_LOAD
    assert [one.score for one in reply.results[:CHUNK]] == [pytest.approx(math.pi)] * CHUNK


def broken(pairs: int) -> npt.NDArray[np.float32]:
    raise RuntimeError("the device is gone")


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (broken, "the device is gone"),
        (lambda pairs: np.zeros(pairs + 1, np.float32), "scores of 8 pairs"),
        (lambda pairs: np.zeros(pairs, np.float64), "pair scorer"),
    ],
    ids=["an exception", "too many scores", "another type"],
)
def test_where_the_delegate_fails_the_bundles_model_scores(
    engine: rankcore.Engine,
    delegated: Callable[[Recorder], Recorder],
    answer: Callable[[int], npt.NDArray[np.float32]],
    complaint: str,
) -> None:
    wanted = answered(engine.rerank(rerank(), 5_000_000))
    failures = engine.status()["counters"]["part_failures"]
    delegated(Recorder(answer))
    reply = answered(engine.rerank(rerank(), 5_000_000))
    assert reply.receipt.tier == ranking_pb2.TIER_CROSS_SMALL
    assert [(one.product_id, one.score) for one in reply.results] == [
        (one.product_id, one.score) for one in wanted.results
    ]
    status = engine.status()
    assert status["counters"]["part_failures"] > failures
    assert complaint in status["last_part_failure"]


def test_golden_requests_are_asked_of_the_delegate(
    engine: rankcore.Engine, delegated: Callable[[Recorder], Recorder]
) -> None:
    assert engine.verify_golden() == []
    delegated(Recorder(lambda pairs: np.full(pairs, 99.0, np.float32)))
    complaints = engine.verify_golden()
    assert complaints
    assert all("cross_small is 99.0000" in complaint for complaint in complaints)


@pytest.mark.parametrize(("tier", "chunk_pairs"), [("late", 8), ("tiny", 8), ("cross_small", 0)])
def test_only_cross_encoders_can_be_delegated_in_chunks_of_pairs(
    engine: rankcore.Engine, tier: str, chunk_pairs: int
) -> None:
    with pytest.raises(rankcore.InvalidRequest):
        engine.delegate(tier, Recorder(falling), chunk_pairs)


def test_a_closed_engine_lets_go_of_its_delegate(bundle: Path) -> None:
    import gc
    import weakref

    engine = rankcore.Engine(str(bundle), runtime_library=rankcore.runtime_library(), workers=1)
    scorer = Recorder(falling)
    gone = weakref.ref(scorer)
    engine.delegate("cross_small", scorer, CHUNK)
    del scorer
    gc.collect()
    assert gone() is not None
    engine.close()
    gc.collect()
    assert gone() is None
