from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import numpy as np
import pytest

from drills.rig.load import (
    LATE_AFTER_S,
    OK,
    UNSENT,
    OpenLoop,
    Sample,
    SearchFlood,
    Stream,
    closed_loop,
    decode,
    even_arrivals,
    lateness,
    poisson_arrivals,
)
from muster.v1 import ranking_pb2


class Echo:
    """Answers after a fixed time; remembers the intended moments."""

    def __init__(self, service_s: float = 0.0) -> None:
        self.service_s = service_s
        self.intended: list[float] = []
        self.opened = 0
        self.closed = 0

    async def open(self) -> None:
        self.opened += 1

    async def call(self, index: int, intended_s: float) -> tuple[str, dict[str, Any]]:
        self.intended.append(intended_s)
        await asyncio.sleep(self.service_s)
        return OK, {"number": index}

    async def close(self) -> None:
        self.closed += 1


def test_poisson_arrivals_repeat_for_a_seed_and_differ_between_seeds() -> None:
    first, again, other = (list(itertools.islice(poisson_arrivals(100, seed), 3000)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_poisson_arrivals_ascend_at_the_rate_with_exponential_gaps() -> None:
    times = np.array(list(itertools.islice(poisson_arrivals(200, 3), 20_000)))
    gaps = np.diff(times)
    assert (gaps >= 0).all()
    assert times[-1] == pytest.approx(20_000 / 200, rel=0.03)
    # An exponential distribution's standard deviation is its mean; even gaps would give 0.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_rate_must_be_above_zero(rate: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        next(poisson_arrivals(rate, 1))
    with pytest.raises(ValueError, match="above 0"):
        next(even_arrivals(rate))


def test_the_schedule_does_not_wait_for_slow_answers() -> None:
    caller = Echo(service_s=0.3)
    loop = OpenLoop([Stream("read", even_arrivals(100), caller)], duration_s=0.5)
    loop.start()
    samples = loop.join()
    assert len(samples) == 50
    offsets = np.array(sorted(caller.intended)) - min(caller.intended)
    np.testing.assert_allclose(offsets, np.arange(50) / 100, atol=1e-6)
    assert (caller.opened, caller.closed) == (1, 1)


def test_latency_counts_from_the_intended_moment() -> None:
    sample = Sample("read", 0, intended_s=1.0, sent_s=1.4, done_s=1.5, status=OK)
    assert sample.latency_s == pytest.approx(0.5)


class Blocking(Echo):
    """Stalls the whole generator once, as a long collection or a busy core would."""

    async def call(self, index: int, intended_s: float) -> tuple[str, dict[str, Any]]:
        if index == 5:
            time.sleep(0.2)
        return await super().call(index, intended_s)


def test_a_stalled_generator_sends_everything_and_counts_what_was_late() -> None:
    loop = OpenLoop([Stream("read", even_arrivals(100), Blocking())], duration_s=0.5)
    loop.start()
    samples = loop.join()
    report = lateness(samples)
    assert report.requests == 50
    # The 0.2 s stall covers at least the 19 requests that were due meanwhile.
    assert report.late >= 15
    assert report.worst_s >= 0.15


def test_a_punctual_load_is_not_called_late() -> None:
    samples = [Sample("read", n, n, n + LATE_AFTER_S / 2, n + 1, OK) for n in range(10)]
    assert lateness(samples).late_share == 0.0
    assert lateness([]).late_share == 0.0


def test_stop_waits_for_what_is_in_flight_and_may_be_repeated() -> None:
    loop = OpenLoop([Stream("read", even_arrivals(50), Echo(service_s=0.2))])
    loop.start()
    time.sleep(0.1)
    samples = loop.stop()
    assert samples
    assert all(sample.status == OK for sample in samples)
    assert len(loop.stop()) == len(samples)


def test_what_hangs_at_the_end_is_cancelled_and_recorded() -> None:
    loop = OpenLoop([Stream("read", even_arrivals(50), Echo(service_s=60))], drain_s=0.1)
    loop.start()
    time.sleep(0.05)
    assert {sample.status for sample in loop.stop()} == {"CANCELLED"}


def test_a_caller_that_cannot_connect_fails_the_start() -> None:
    class Unreachable(Echo):
        async def open(self) -> None:
            raise ConnectionError("nobody there")

    with pytest.raises(ConnectionError, match="nobody there"):
        OpenLoop([Stream("read", even_arrivals(1), Unreachable())]).start()


def test_streams_keep_their_own_pace() -> None:
    loop = OpenLoop(
        [Stream("read", even_arrivals(100), Echo()), Stream("write", even_arrivals(20), Echo())],
        duration_s=0.5,
    )
    loop.start()
    kinds = [sample.kind for sample in loop.join()]
    assert (kinds.count("read"), kinds.count("write")) == (50, 10)


def test_a_closed_loop_keeps_no_more_than_its_concurrency_in_flight() -> None:
    class Counting(Echo):
        running = 0
        most = 0

        async def call(self, index: int, intended_s: float) -> tuple[str, dict[str, Any]]:
            Counting.running += 1
            Counting.most = max(Counting.most, Counting.running)
            try:
                return await super().call(index, intended_s)
            finally:
                Counting.running -= 1

    samples = asyncio.run(closed_loop(Counting(service_s=0.01), concurrency=3, duration_s=0.2))
    assert Counting.most == 3
    assert len(samples) >= 3


def test_a_closed_loop_may_end_after_so_many_requests() -> None:
    samples = asyncio.run(closed_loop(Echo(), concurrency=2, duration_s=60, requests_max=5))
    assert sorted(sample.index for sample in samples) == [0, 1, 2, 3, 4]


def test_decoding_keeps_the_receipt_and_the_products_where_they_are_wanted() -> None:
    response = ranking_pb2.SearchResponse(
        results=[ranking_pb2.RankedProduct(product_id=name) for name in "ab"],
        receipt=ranking_pb2.Receipt(tier=ranking_pb2.TIER_LATE, depth=7),
    )

    def sample() -> Sample:
        return Sample("read", 0, 0.0, 0.0, 1.0, OK, {"body": response.SerializeToString()})

    plain, whole = sample(), sample()
    decode([plain])
    decode([whole], products=True)
    assert plain.fields["tier"] == "late" and "body" not in plain.fields
    assert whole.fields == {**plain.fields, "product_ids": ["a", "b"]}


def test_a_flood_does_not_send_what_has_no_budget_left() -> None:
    flood = SearchFlood(["127.0.0.1:1"], [b"x"], deadline_ms=50)  # not connected: sending would fail
    status, fields = asyncio.run(flood.call(0, time.monotonic() - 1.0))
    assert (status, fields) == (UNSENT, {})


def test_a_flood_needs_somebody_to_ask_and_something_to_ask() -> None:
    with pytest.raises(ValueError, match="at least one"):
        SearchFlood([], [b"x"], deadline_ms=50)
    with pytest.raises(ValueError, match="at least one"):
        SearchFlood(["127.0.0.1:1"], [], deadline_ms=50)
