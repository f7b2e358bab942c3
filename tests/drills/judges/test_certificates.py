"""The judge of certificates that are exchanged, on histories that are made up."""

from __future__ import annotations

from typing import Any

import pytest

from drills.experiment import Verdict
from drills.journal import History, Record
from drills.judges.certificates import EXPIRY_FIGURES, ExpiryLimits, judge_expiry
from tests.drills.judges.records import ENDED, acknowledged, call, fault, log, read, rollback

BEGAN_S = 1_000_000.0
SHORT_ENDS, LONG_ENDS = 1_000_028, 3_592_028


def made(moment_s: float, ends: int, status: str = "OK", **more: Any) -> Record:
    return call("connection_made", moment_s, status, took_s=0.02, asked="a", ends_unix_s=ends, **more)


def step(at_s: float, name: str, ends: int) -> Record:
    return {"kind": "exchange", "at_s": at_s, "replica": "a", "step": name, "ends_unix_s": ends}


def published(at_s: float, ends: float, failures: float) -> Record:
    return {"kind": "published", "at_s": at_s, "replica": "a", "ends_unix_s": ends, "failures": failures}


def told(status: str, after_s: float, alert: str = "MusterCertificateExpires") -> Record:
    return {"kind": "told", "at_s": 33.0, "alert": alert, "status": status, "at_unix_s": BEGAN_S + after_s}


WHOLE: dict[str, Record] = {
    "run": {"kind": "run", "at_s": 0.0, "settings": {}, "started_unix_s": BEGAN_S},
    "fault": fault(10.0, "expiry", ends_unix_s=SHORT_ENDS, exchange=True),
    "short": step(10.0, "short", SHORT_ENDS),
    "broken": step(13.0, "broken", 0),
    "long": step(22.0, "long", LONG_ENDS),
    "shown short": made(11.0, SHORT_ENDS),
    "shown long": made(23.0, LONG_ENDS),
    "after the end": made(30.0, LONG_ENDS),
    "told of short": published(11.5, SHORT_ENDS, 1.0),
    "told of broken": published(14.5, SHORT_ENDS, 2.0),
    "told of long": published(23.5, LONG_ENDS, 2.0),
    "watched": {"kind": "watched", "at_s": 33.0},
    "fired": told("firing", 17.0),
    "resolved": told("resolved", 24.0),
    "rollback": rollback(32.0),
}


def history(*more: Record, without: tuple[str, ...] = (), **instead: Record) -> History:
    kept = [one for name, one in {**WHOLE, **instead}.items() if name not in without]
    return History((*kept, read(20.0), acknowledged(1, 5.0), *log(1), ENDED, *more))


@pytest.mark.parametrize(
    ("given", "verdict", "words"),
    [
        (history(), Verdict.HELD, ""),
        (history(without=("watched", "fired", "resolved")), Verdict.HELD, ""),
        (history(made(30.0, 0, "CERTIFICATE", detail="it has expired")), Verdict.DEVIATED, "it has expired"),
        (history(made(20.0, SHORT_ENDS, "UNREACHED")), Verdict.DEVIATED, "ended with UNREACHED"),
        (history(without=("shown short",)), Verdict.DEVIATED, "never showed the short-lived certificate"),
        (history(without=("shown long", "after the end", "long")), Verdict.DEVIATED, "no certificate came"),
        (history(without=("shown long",)), Verdict.DEVIATED, "in use after 8020 ms"),
        (history(without=("told of long",)), Verdict.DEVIATED, "never told of the long-lived certificate"),
        (history(without=("told of broken",)), Verdict.DEVIATED, "did not count the file"),
        (history(without=("fired", "resolved")), Verdict.DEVIATED, "did not fire"),
        (
            history(told("firing", 15.0, "MusterReplicaDown"), without=("fired", "resolved")),
            Verdict.INCONCLUSIVE,
            "did not get at the metrics",
        ),
        (history(fired=told("firing", 29.0)), Verdict.DEVIATED, "fired after the certificates had ended"),
        (history(without=("resolved",)), Verdict.DEVIATED, "did not end with the exchange"),
        (history(read(25.0, "Unavailable", detail="x")), Verdict.DEVIATED, "ended with Unavailable"),
    ],
)
def test_the_verdict_follows_from_what_connections_were_shown(
    given: History, verdict: Verdict, words: str
) -> None:
    judgement = judge_expiry(given, ExpiryLimits())
    assert words in "; ".join(judgement.reasons)
    assert judgement.verdict is verdict, judgement.reasons
    assert set(judgement.figures) == set(EXPIRY_FIGURES)


def test_where_nobody_connects_after_the_end_nothing_is_known_of_it() -> None:
    judgement = judge_expiry(history(without=("after the end",)), ExpiryLimits())
    assert judgement.verdict is Verdict.INCONCLUSIVE


def test_where_nobody_connects_at_all_nothing_is_known() -> None:
    without = ("shown short", "shown long", "after the end")
    assert judge_expiry(history(without=without), ExpiryLimits()).verdict is Verdict.INCONCLUSIVE
