"""The course of one read, step by step, without clocks or sockets."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.client import ClientSettings, DeadlineExceeded, InvalidRequest, MusterError, Unavailable
from muster.client.budgets import HedgeBudget, HedgeDelay, RetryBudget
from muster.client.outliers import Replica
from muster.client.reads import Read, Reads, Replicas
from muster.client.requests import Deadline

CODE = grpc.StatusCode


class Failure(grpc.RpcError):
    """A failed sending."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__()
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "scripted"


UNAVAILABLE = Failure(CODE.UNAVAILABLE)
REFUSED = Failure(CODE.INVALID_ARGUMENT)
TOO_LATE = Failure(CODE.DEADLINE_EXCEEDED)


def read_of(
    replicas: Replicas,
    *,
    budget_ms: float = 1_000.0,
    now_s: float = 10.0,
    retry_tokens: int = 100,
    hedge_burst: int = 10,
    **settings: float,
) -> Read:
    """A read that begins at now_s; each replica is hedged after 20 ms."""
    return Read(
        method="search",
        budget_ms=budget_ms,
        deadline_s=now_s + budget_ms / 1000,
        replicas=replicas,
        settings=ClientSettings(**settings),  # type: ignore[arg-type]
        retries=RetryBudget(retry_tokens, 0.2),
        hedges=HedgeBudget(0.1, hedge_burst),
        hedge_delay=HedgeDelay(20.0),
        jitter=lambda: 1.0,
    )


def begin(count: int, **given: float) -> tuple[Read, Replicas]:
    replicas = Replicas([f"r{number}:1" for number in range(count)])
    return read_of(replicas, **given), replicas  # type: ignore[arg-type]


def test_a_hedge_goes_to_another_replica_once_the_delay_is_over() -> None:
    read, _ = begin(3)
    first = read.begin(10.0)
    assert read.wait_until_s() == pytest.approx(10.02)
    assert read.wake(10.01) is None
    second = read.wake(10.021)
    assert second is not None and second.replica is not first.replica
    assert read.wait_until_s() > read.deadline_s, "one hedge for a read"


def test_a_single_replica_is_never_hedged() -> None:
    read, _ = begin(1)
    read.begin(10.0)
    assert read.wait_until_s() > read.deadline_s


def test_without_hedge_tokens_nothing_is_sent_twice() -> None:
    read, _ = begin(2, hedge_burst=0)
    read.begin(10.0)
    assert read.wake(10.021) is None
    assert read.wait_until_s() > read.deadline_s


def lose_a_hedge(replicas: Replicas, loser: Replica, now_s: float) -> None:
    """One read whose first replica, `loser`, is silent while another one answers."""
    read = read_of(replicas, now_s=now_s)
    while read.begin(now_s).replica is not loser:
        read = read_of(replicas, now_s=now_s)
    second = read.wake(now_s + 0.021)
    assert second is not None
    read.answered(second, now_s + 0.022)
    assert read.over


def test_a_replica_that_loses_two_hedges_in_a_row_is_left_aside_for_a_while() -> None:
    _, replicas = begin(2)
    slow = replicas.order(9.0)[0]
    lose_a_hedge(replicas, slow, 10.0)
    assert slow in [replicas.order(10.03)[0] for _ in range(2)], "one lost hedge says little"
    lose_a_hedge(replicas, slow, 10.05)
    assert slow not in [replicas.order(10.08)[0] for _ in range(4)]
    later = [replicas.order(10.4)[0] for _ in range(4)]
    assert later.count(slow) == 1, "it is tried again, by one read at a time"


def test_an_answer_between_two_lost_hedges_forgives_the_first() -> None:
    _, replicas = begin(2)
    slow = replicas.order(9.0)[0]
    for now_s in (10.0, 11.0, 12.0):
        lose_a_hedge(replicas, slow, now_s)
        replicas.answered(slow, now_s + 0.1)
        assert slow in [replicas.order(now_s + 0.2)[0] for _ in range(2)]


def test_an_unavailable_replica_is_left_at_once_for_each_other_one() -> None:
    read, _ = begin(3)
    first = read.begin(10.0)
    second = read.failed(first, 10.001, UNAVAILABLE)
    assert second is not None
    third = read.failed(second, 10.002, UNAVAILABLE)
    assert third is not None
    assert len({id(attempt.replica) for attempt in (first, second, third)}) == 3
    assert read.failed(third, 10.003, UNAVAILABLE) is None
    assert not read.over and read.wait_until_s() < read.deadline_s
    assert read.wake(10.003) is None
    again = read.wake(10.02)
    assert again is not None and again.replica is first.replica
    assert read.failed(again, 10.03, UNAVAILABLE) is None
    assert read.over, "four attempts are made, no more"
    assert isinstance(read.error(), Unavailable) and read.error().__cause__ is UNAVAILABLE


def test_backoff_grows_to_its_bound() -> None:
    read, _ = begin(1, attempts_max=5, retry_backoff_min_ms=5.0, retry_backoff_max_ms=12.0)
    attempt, now, pauses = read.begin(10.0), 10.0, []
    while not read.over:
        read.failed(attempt, now, UNAVAILABLE)
        if not read.over:
            wake_at = read.wait_until_s()
            pauses.append(round((wake_at - now) * 1000, 6))
            now = wake_at
            again = read.wake(now)
            assert again is not None
            attempt = again
    assert pauses == [5.0, 10.0, 12.0, 12.0]


def test_a_refusal_ends_the_read_unless_another_sending_is_under_way() -> None:
    read, _ = begin(2)
    first = read.begin(10.0)
    assert read.failed(first, 10.001, REFUSED) is None and read.over
    assert isinstance(read.error(), InvalidRequest)
    read, _ = begin(2)
    first = read.begin(10.0)
    second = read.wake(10.021)
    assert second is not None
    assert read.failed(first, 10.03, REFUSED) is None and not read.over
    assert read.failed(second, 10.04, REFUSED) is None and read.over


def test_a_first_attempt_leaves_room_for_a_second_and_the_last_has_all_of_the_time() -> None:
    read, _ = begin(2, hedge_burst=0, budget_ms=200.0)
    first = read.begin(10.0)
    assert first.ends_s == pytest.approx(10.18)
    second = read.failed(first, first.ends_s, TOO_LATE)
    assert second is not None and second.replica is not first.replica
    assert second.ends_s == read.deadline_s
    assert read.failed(second, read.deadline_s, TOO_LATE) is None and read.over
    assert isinstance(read.error(), DeadlineExceeded)


def test_trying_a_mistrusted_replica_never_costs_the_caller_the_answer() -> None:
    _, replicas = begin(2)
    ill = replicas.order(9.0)[0]
    for outcome in ("unavailable", "silent"):
        replicas.failed(ill, 10.0)
        now_s = 20.0
        while (read := read_of(replicas, now_s=now_s, retry_tokens=2, hedge_burst=0)).begin(
            now_s
        ).replica is not ill:
            pass
        [probe] = read.pending
        if outcome == "unavailable":
            again = read.failed(probe, now_s + 0.001, UNAVAILABLE)
        else:
            again = read.wake(now_s + 0.021)
        assert again is not None and again.replica is not ill, "though both budgets are empty"
        replicas.answered(ill, now_s)


def test_where_all_replicas_are_mistrusted_the_budgets_rule() -> None:
    _, replicas = begin(2)
    for replica in replicas.order(9.0):
        replicas.failed(replica, 10.0)
    read = read_of(replicas, now_s=20.0, retry_tokens=2, hedge_burst=0)
    first = read.begin(20.0)
    assert read.wake(20.021) is None
    assert read.failed(first, 20.03, UNAVAILABLE) is None and read.over


def test_a_share_too_small_for_an_answer_is_not_kept_back() -> None:
    for count, budget_ms in ((2, 20.0), (1, 1_000.0)):
        read, _ = begin(count, budget_ms=budget_ms)
        assert read.begin(10.0).ends_s == read.deadline_s


def test_a_server_that_says_too_late_before_its_time_is_believed() -> None:
    read, _ = begin(2)
    assert read.failed(read.begin(10.0), 10.001, TOO_LATE) is None
    assert read.over and isinstance(read.error(), DeadlineExceeded)
    assert str(read.error()) == "scripted"


def test_a_deadline_that_passes_names_what_failed_before() -> None:
    read, _ = begin(2, budget_ms=100.0)
    second = read.failed(read.begin(10.0), 10.001, UNAVAILABLE)
    assert second is not None
    assert read.failed(second, 10.1, TOO_LATE) is None
    assert "within 100 ms" in str(read.error()) and "scripted" in str(read.error())


def test_a_call_that_never_ends_ends_shortly_after_its_deadline() -> None:
    read, _ = begin(2, budget_ms=100.0, hedge_burst=0)
    read.begin(10.0)
    assert read.wake(10.03) is None
    assert 10.1 < read.wait_until_s() < 10.3
    assert read.wake(10.12) is None and not read.over
    assert read.wake(read.wait_until_s()) is None and read.over


@given(
    count=st.integers(1, 5),
    budget_ms=st.floats(1.0, 5_000.0),
    steps=st.lists(
        st.tuples(st.sampled_from(["wake", "unavailable", "refused", "late"]), st.floats(0.0, 0.3)),
        max_size=30,
    ),
    tokens=st.integers(2, 20),
    hedges=st.integers(0, 3),
)
def test_every_course_ends_in_time_and_keeps_to_its_attempts(
    count: int, budget_ms: float, steps: list[tuple[str, float]], tokens: int, hedges: int
) -> None:
    read, _ = begin(count, budget_ms=budget_ms, retry_tokens=tokens, hedge_burst=hedges)
    now, attempts = 10.0, [read.begin(10.0)]
    for step, passed_s in [*steps, *[("unavailable", 0.05), ("wake", 0.05)] * 200]:
        if read.over:
            break
        assert read.pending or read.wait_until_s() <= read.deadline_s, "something is always waited for"
        now += passed_s
        again = None
        if step == "wake" or not read.pending:
            again = read.wake(now)
        else:
            attempt = read.pending[0]
            if step == "late":
                now = max(now, attempt.ends_s)
            error = {"unavailable": UNAVAILABLE, "refused": REFUSED, "late": TOO_LATE}[step]
            again = read.failed(attempt, now, error)
        if again is not None:
            attempts.append(again)
            assert now < read.deadline_s, "nothing is sent after the deadline"
    assert read.over
    assert len(attempts) == read.sent <= max(4, count)
    assert all(attempt.began_s <= attempt.ends_s <= read.deadline_s for attempt in attempts)
    assert isinstance(read.error(), MusterError)


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


def test_an_answer_is_slow_beside_the_faster_ones_alone() -> None:
    delay = HedgeDelay(20.0)
    assert not delay.slow("search", 200.0, 150.0), "nothing is known yet"
    for number in range(40):
        delay.answered("search", 200.0, 10.0 if number % 2 else 60.0)
    assert delay.slow("search", 200.0, 60.0), "though half of all answers take as long"
    assert not delay.slow("search", 200.0, 29.0)
    assert not delay.slow("get", 200.0, 60.0)
    for _ in range(40):
        delay.answered("get", 200.0, 0.5)
    assert not delay.slow("get", 200.0, 9.0), "a few milliseconds are no matter"


def test_the_hedge_delay_leaves_the_second_replica_time() -> None:
    delay = HedgeDelay(20.0)
    for _ in range(100):
        delay.answered("search", 50.0, 49.0)
        delay.answered("search", 10.0, 9.0)
    assert delay.delay_ms("search", 50.0) == 30.0
    assert delay.delay_ms("search", 10.0) == 5.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"deadline_ms": 0},
        {"reserve_share": 0.6},
        {"attempts_max": 6},
        {"hedge_share": 1.5},
        {"retry_backoff_max_ms": 1.0},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ClientSettings(**wrong)  # type: ignore[arg-type]


def test_the_sendings_of_all_reads_are_counted() -> None:
    reads = Reads(["a:1", "b:1", "c:1"], ClientSettings())
    quick, retried = (reads.read("search", Deadline.after(1_000.0)) for _ in range(2))
    quick.answered(quick.begin(10.0), 10.001)
    first = retried.begin(11.0)
    second = retried.failed(first, 11.001, UNAVAILABLE)
    assert second is not None
    assert reads.sendings.counts() == (2, 3)


def test_a_replica_is_mistrusted_from_its_failure_to_its_next_answer() -> None:
    replicas = Replicas(["a:1", "b:1"])
    assert replicas.mistrusted() == []
    [failed] = [one for one in replicas.order(10.0) if one.endpoint == "b:1"]
    replicas.failed(failed, 10.0)
    assert replicas.mistrusted() == ["b:1"]
    replicas.answered(failed, 11.0)
    assert replicas.mistrusted() == []


def test_a_read_that_must_see_a_sequence_begins_with_a_replica_that_has_it() -> None:
    reads = Reads(["a:1", "b:1", "c:1"], ClientSettings())
    for endpoint, applied in (("a:1", 240), ("b:1", 241), ("c:1", 240)):
        read = reads.read("search", Deadline.after(1_000.0))
        attempt = read.begin(10.0)
        while attempt.replica.endpoint != endpoint:
            read = reads.read("search", Deadline.after(1_000.0))
            attempt = read.begin(10.0)
        read.answered(attempt, 10.001, applied)

    def first(wanted: int) -> set[str]:
        return {
            reads.read("search", Deadline.after(1_000.0), wanted).begin(10.1).replica.endpoint
            for _ in range(6)
        }

    assert first(241) == {"b:1"}
    assert first(240) == first(0) == first(242) == {"a:1", "b:1", "c:1"}
    # One that is left aside comes last all the same.
    [fresh] = [one for one in reads.replicas.order(10.2) if one.endpoint == "b:1"]
    reads.replicas.failed(fresh, 10.2)
    assert "b:1" not in first(241)
