"""The course of one read, step by step, without clocks or sockets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.client import ClientSettings
from muster.client.budgets import HedgeBudget, HedgeDelay, RetryBudget
from muster.client.reads import Read, Replicas


def begin(
    count: int, *, retry_tokens: int = 100, hedge_burst: int = 10, **settings: float
) -> tuple[Read, Replicas]:
    replicas = Replicas([f"r{number}:1" for number in range(count)])
    read = Read(
        replicas=replicas,
        settings=ClientSettings(**settings),  # type: ignore[arg-type]
        retries=RetryBudget(retry_tokens, 0.2),
        hedges=HedgeBudget(0.1, hedge_burst),
        hedge_after_s=0.02,
        jitter=lambda: 1.0,
    )
    return read, replicas


def test_a_hedge_goes_to_another_replica_once_the_delay_is_over() -> None:
    read, _ = begin(3)
    first = read.begin(10.0)
    assert read.wake_at_s() == pytest.approx(10.02)
    assert read.wake(10.01) is None
    second = read.wake(10.02)
    assert second is not None and second is not first
    assert read.wake_at_s() is None, "one hedge for a read"


def test_a_single_replica_is_never_hedged() -> None:
    read, _ = begin(1)
    read.begin(10.0)
    assert read.wake_at_s() is None


def test_without_hedge_tokens_nothing_is_sent_twice() -> None:
    read, _ = begin(2, hedge_burst=0)
    read.begin(10.0)
    assert read.wake(10.02) is None
    assert read.wake_at_s() is None


def test_the_silent_loser_of_a_hedge_is_avoided_for_a_while() -> None:
    read, replicas = begin(2)
    slow = read.begin(10.0)
    fast = read.wake(10.02)
    assert fast is not None
    read.answered(fast, 10.03)
    assert read.over
    assert [replicas.order(10.04)[0] for _ in range(3)] == [fast] * 3
    later = [replicas.order(10.04 + 0.3)[0] for _ in range(2)]
    assert slow in later, "it is tried again"
    assert [replicas.order(10.04 + 0.31)[0] for _ in range(2)] == [fast] * 2, "by one read only"


def test_an_unavailable_replica_is_left_at_once_for_each_other_one() -> None:
    read, _ = begin(3)
    first = read.begin(10.0)
    second = read.failed(first, 10.001, retryable=True)
    assert second is not None
    third = read.failed(second, 10.002, retryable=True)
    assert third is not None
    assert len({id(first), id(second), id(third)}) == 3
    assert read.failed(third, 10.003, retryable=True) is None
    assert not read.over and read.wake_at_s() is not None
    assert read.wake(10.003) is None
    assert read.wake(10.02) is first
    assert read.failed(first, 10.03, retryable=True) is None
    assert read.over, "four attempts are made, no more"


def test_backoff_grows_to_its_bound() -> None:
    read, _ = begin(1, attempts_max=5, retry_backoff_min_ms=5.0, retry_backoff_max_ms=12.0)
    replica, now, pauses = read.begin(10.0), 10.0, []
    while not read.over:
        read.failed(replica, now, retryable=True)
        wake_at = read.wake_at_s()
        if wake_at is not None:
            pauses.append(round((wake_at - now) * 1000, 6))
            now = wake_at
            assert read.wake(now) is replica
    assert pauses == [5.0, 10.0, 12.0, 12.0]


def test_a_refusal_ends_the_read_unless_another_sending_is_under_way() -> None:
    read, _ = begin(2)
    first = read.begin(10.0)
    assert read.failed(first, 10.001, retryable=False) is None and read.over
    read, _ = begin(2)
    first = read.begin(10.0)
    second = read.wake(10.02)
    assert second is not None
    assert read.failed(first, 10.03, retryable=False) is None and not read.over
    assert read.failed(second, 10.04, retryable=False) is None and read.over


@given(
    count=st.integers(1, 5),
    steps=st.lists(st.sampled_from(["wake", "unavailable", "refused"]), max_size=30),
    tokens=st.integers(2, 20),
)
def test_every_course_ends_and_keeps_to_its_attempts(count: int, steps: list[str], tokens: int) -> None:
    read, _ = begin(count, retry_tokens=tokens)
    now, sent = 10.0, 1
    read.begin(now)
    for step in [*steps, *["unavailable", "wake"] * 20]:
        if read.over:
            break
        assert read.pending or read.wake_at_s() is not None, "something is always waited for"
        now += 0.05
        if step == "wake":
            sent += read.wake(now) is not None
        elif read.pending:
            sent += read.failed(read.pending[0], now, retryable=step == "unavailable") is not None
    assert read.over
    assert sent <= max(4, count)


def test_the_retry_budget_closes_below_half_and_opens_again() -> None:
    budget = RetryBudget(4, 0.5)
    assert [budget.failed() for _ in range(3)] == [True, False, False]
    for _ in range(3):
        budget.succeeded()
    assert not budget.failed()
    for _ in range(6):
        budget.succeeded()
    assert budget.failed()


def test_the_hedge_budget_is_a_share_of_the_reads() -> None:
    budget = HedgeBudget(0.125, 2)
    assert [budget.take() for _ in range(3)] == [True, True, False]
    for _ in range(16):
        budget.read()
    assert [budget.take() for _ in range(3)] == [True, True, False]


def test_the_hedge_delay_follows_the_slow_answers_under_the_same_budget() -> None:
    delay = HedgeDelay(20.0)
    assert delay.delay_ms("search", 200.0) == 20.0
    for number in range(100):
        delay.answered("search", 200.0, float(number))
    assert delay.delay_ms("search", 200.0) == 95.0
    assert delay.delay_ms("search", 50.0) == 20.0
    assert delay.delay_ms("get", 200.0) == 20.0


def test_the_hedge_delay_leaves_the_second_replica_time() -> None:
    delay = HedgeDelay(20.0)
    for _ in range(100):
        delay.answered("search", 50.0, 49.0)
        delay.answered("search", 10.0, 9.0)
    assert delay.delay_ms("search", 50.0) == 30.0
    assert delay.delay_ms("search", 10.0) == 5.0


@pytest.mark.parametrize(
    "wrong",
    [{"deadline_ms": 0}, {"attempts_max": 6}, {"hedge_share": 1.5}, {"retry_backoff_max_ms": 1.0}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ClientSettings(**wrong)  # type: ignore[arg-type]
