from __future__ import annotations

from drills.experiment import Judgement, Verdict
from drills.journal import History, Record
from drills.judges.promises import FIGURES, check_promises, fault_window, over_parts, over_runs
from tests.drills.judges.records import ENDED, acknowledged, fault, log, read, rollback


def history(*more: Record) -> History:
    return History((fault(1.0, "made up"), read(1.5), acknowledged(1, 1.5), *log(1), ENDED, *more))


def test_a_clean_history_keeps_every_promise() -> None:
    found = check_promises(history())
    assert (found.deviations, found.doubts) == ([], [])
    assert set(found.figures) == set(FIGURES)
    assert found.judgement().verdict is Verdict.HELD


def test_deviations_decide_before_doubts() -> None:
    found = check_promises(history(acknowledged(2, 2.0)))
    found.doubts.append("made up")
    assert found.judgement().verdict is Verdict.DEVIATED


def test_reads_that_need_not_all_be_answered_are_counted_only() -> None:
    late = read(1.6, "DeadlineExceeded")
    assert check_promises(history(late)).deviations
    found = check_promises(history(late), every_read=False)
    assert found.deviations == [] and found.figures["read_errors"] == 1


def test_starved_reads_are_a_doubt_where_the_generator_was_kept_waiting_too() -> None:
    unavailable = read(1.6, "Unavailable")
    assert check_promises(history(unavailable)).deviations
    stalled = check_promises(history(unavailable, read(1.7, late_s=0.2, took_s=0.3)))
    assert stalled.deviations == [] and "too busy to judge" in stalled.doubts[0]
    failed = check_promises(history(read(1.6, "ServiceFailed"), read(1.7, late_s=0.2, took_s=0.3)))
    assert failed.deviations


def test_what_is_missing_is_a_doubt() -> None:
    doubts = " ".join(check_promises(History(())).doubts)
    for sentence in ("no fault was injected", "no read was sent", "the log could not be read to its end"):
        assert sentence in doubts
    assert check_promises(History((*history().records[:2], ENDED))).doubts == ["no write was acknowledged"]


def test_the_window_of_a_fault_ends_with_its_rollback() -> None:
    assert fault_window(history(rollback(4.0))) == (1.0, 4.0)
    assert fault_window(history()) is None


def test_runs_are_summed_and_their_greatest_measures_told() -> None:
    empty = {"runs": 0, "lost": 0, "rto_ms": None, "epochs_monotone": True}
    runs = [
        Judgement(Verdict.HELD, {"lost": 0, "rto_ms": 10.0, "epochs_monotone": True}),
        Judgement(Verdict.DEVIATED, {"lost": 2, "rto_ms": None, "epochs_monotone": False}, ("lost two",)),
        Judgement(Verdict.INCONCLUSIVE, {}, ("saw nothing",)),
    ]
    both = over_runs(runs, empty)
    assert both.verdict is Verdict.DEVIATED
    assert both.figures == {"runs": 3, "lost": 2, "rto_ms": 10.0, "epochs_monotone": False}
    assert both.reasons == ("run 2: lost two", "run 3: saw nothing")


def test_of_shares_the_least_is_told_and_parts_are_joined() -> None:
    empty = {"runs": 0, "reads": 0, "in_time_share": None, "back_ms": None}
    first = over_runs([Judgement(Verdict.HELD, {"reads": 10, "in_time_share": 0.99, "back_ms": 3.5})], empty)
    second = over_runs([Judgement(Verdict.DEVIATED, {"reads": 5, "in_time_share": 0.5}, ("bad",))] * 2, empty)
    both = over_parts([first, second], empty)
    assert both.verdict is Verdict.DEVIATED
    assert both.figures == {"runs": 3, "reads": 20, "in_time_share": 0.5, "back_ms": 3.5}
    assert both.reasons == ("run 1: bad", "run 2: bad")
