"""The judge of attackers with bad tokens, on histories that are made up."""

from __future__ import annotations

from typing import Any

import pytest

from drills.experiment import Verdict
from drills.journal import History, Record
from drills.judges.strangers import STRANGER_FIGURES, StrangerLimits, judge_strangers
from tests.drills.judges.records import ENDED, acknowledged, call, fault, header, log, read

LIMITS = StrangerLimits(burst=20, per_s=0.5)
BEFORE = {"a": {"refused": {"expired": 0}, "verified": 3}}


def attack(moment_s: float, status: str = "UNAUTHENTICATED", **more: Any) -> Record:
    told = {
        "asked": "a",
        "source": "127.0.0.66",
        "forged": "an expired token",
        "expected": "UNAUTHENTICATED",
        "operator": True,
        **more,
    }
    return call("attack", moment_s, status, took_s=0.01, **told)


def history(
    *more: Record,
    counted: int = 2,
    reasons: dict[str, int] | None = None,
    verified: int = 7,
    audited: int = 3,
    findings: tuple[str, ...] = (),
    fresh: str = "OK",
) -> History:
    """Two refused calls of operators, one newcomer."""
    refused = {"expired": counted} if reasons is None else reasons
    began = fault(10.0, "strangers", replicas=1, sources=1, reasons=["expired"], counted=BEFORE)
    ended: Record = {
        "kind": "rollback",
        "at_s": 12.0,
        "counted": {"a": {"refused": refused, "verified": verified}},
    }
    new = call("fresh", 11.0, fresh, took_s=0.01, asked="a", source="127.0.0.9")
    audit: Record = {
        "kind": "audited",
        "at_s": 13.0,
        "replica": "a",
        "refused": audited,
        "findings": list(findings),
    }
    attacks = [attack(10.5), attack(11.0, "RESOURCE_EXHAUSTED")]
    kept = [read(11.0), acknowledged(1, 5.0), *log(1), ENDED]
    return History((header(), began, *kept, *attacks, *more, new, ended, audit))


@pytest.mark.parametrize(
    ("given", "verdict", "words"),
    [
        (history(), Verdict.HELD, ""),
        (history(attack(11.5, "OK"), counted=3), Verdict.DEVIATED, "an expired token was not refused"),
        # Past the question who calls: what it says then makes no difference.
        (history(attack(11.5, "INVALID_ARGUMENT")), Verdict.DEVIATED, "an expired token was not refused"),
        (history(attack(11.5, "PERMISSION_DENIED")), Verdict.DEVIATED, "an expired token was not refused"),
        (history(verified=200), Verdict.DEVIATED, "attackers were not limited"),
        (history(counted=1), Verdict.DEVIATED, "2 calls were refused, and the metrics count 1"),
        (history(reasons={"guarded": 2}), Verdict.DEVIATED, "the metrics count none as expired"),
        (history(audited=1), Verdict.DEVIATED, "tells of 1 refused calls of operators, 1 too few"),
        (history(findings=("record 4 was changed",)), Verdict.DEVIATED, "record 4 was changed"),
        (history(fresh="RESOURCE_EXHAUSTED"), Verdict.DEVIATED, "a new and good token from 127.0.0.9"),
        (history(read(11.2, "NotAllowed", detail="no")), Verdict.DEVIATED, "NotAllowed"),
        (
            history(*(attack(11.0 + n / 100, "UNREACHED") for n in range(5))),
            Verdict.INCONCLUSIVE,
            "most attackers were not answered",
        ),
    ],
)
def test_the_verdict_follows_from_what_attackers_got(given: History, verdict: Verdict, words: str) -> None:
    judgement = judge_strangers(given, LIMITS)
    assert judgement.verdict is verdict, judgement.reasons
    assert words in "; ".join(judgement.reasons)
    assert set(judgement.figures) == set(STRANGER_FIGURES)


@pytest.mark.parametrize("missing", ["attack", "fault", "rollback", "audited", "fresh"])
def test_without_a_part_of_the_history_nothing_is_known(missing: str) -> None:
    records = [record for record in history().records if record["kind"] != missing]
    assert judge_strangers(History(tuple(records)), LIMITS).verdict is Verdict.INCONCLUSIVE
