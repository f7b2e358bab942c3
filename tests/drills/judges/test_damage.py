from __future__ import annotations

from typing import Any

import pytest

from drills.experiment import Verdict
from drills.journal import History, Record
from drills.judges.damage import DAMAGE_FIGURES, DamageLimits, judge_corrupt_bundle
from tests.drills.judges.records import ENDED, acknowledged, fault, header, log, read


def step(name: str, **fields: Any) -> Record:
    told = {"file": "encoder/model.onnx", "damage": "flipped", "unlike_declared": "model.onnx"}
    told |= {"replica": "b", "refused": True, "kept": True}
    return {"step": name, **told, "code": 2, "said": "model.onnx: its content was changed", **fields}


GOOD = [step("candidate"), step("generation"), step("start"), step("start_generation")]


def history(*steps: Record, more: tuple[Record, ...] = ()) -> History:
    records = (read(11.0), acknowledged(1, 5.0), *log(1), ENDED, *more)
    return History((header(), fault(10.0, "damage", steps=[*GOOD, *steps]), *records))


def test_damages_that_are_all_refused_hold() -> None:
    judgement = judge_corrupt_bundle(history(), DamageLimits())
    assert judgement.verdict is Verdict.HELD, judgement.reasons
    assert set(judgement.figures) == set(DAMAGE_FIGURES)
    counted = [
        judgement.figures[name] for name in ("candidates_refused", "generations_refused", "starts_refused")
    ]
    assert counted == [1, 2, 1]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        # The control without checksums.
        (
            step("generation", refused=False, said=""),
            "generation: encoder/model.onnx flipped: replica b took it",
        ),
        (step("candidate", kept=False), "what served before did not serve on"),
        (step("start", code=1), "the replica ended with code 1"),
        (step("candidate", said="it is bad"), "the refusal does not name the file: it is bad"),
        ({"step": "failed", "problem": "ClusterError: no"}, "ClusterError: no"),
    ],
)
def test_a_damage_that_is_not_refused_well_deviates(wrong: Record, sentence: str) -> None:
    judgement = judge_corrupt_bundle(history(wrong), DamageLimits())
    assert judgement.verdict is Verdict.DEVIATED
    assert sentence in " ".join(judgement.reasons)


def test_a_failed_read_deviates() -> None:
    failed = history(more=(read(12.0, "ServiceFailed"),))
    assert judge_corrupt_bundle(failed, DamageLimits()).verdict is Verdict.DEVIATED


def test_a_kind_that_was_not_tried_is_a_doubt() -> None:
    records = (read(11.0), acknowledged(1, 5.0), *log(1), ENDED)
    partly = History((header(), fault(10.0, "damage", steps=GOOD[:2]), *records))
    assert judge_corrupt_bundle(partly, DamageLimits()).verdict is Verdict.INCONCLUSIVE
