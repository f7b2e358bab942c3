"""The judge of deploys. It reads the recorded history and nothing else, as those of `checks` do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drills.experiment import Judgement, Verdict, quantile, worst
from drills.journal import History
from drills.judges.checks import read_errors, steady_reads

ROLLED_BACK_EXIT = 10
"""What `muster deploy` ends with where it went back."""


@dataclass(frozen=True)
class DeployLimits:
    """rolled_back_s: from the start of the canary to the end of the roll-back."""

    rolled_back_s: float = 10.0


def judge_deploy(history: History, limits: DeployLimits) -> Judgement:
    """Judges the deploy of one bad bundle."""
    fault = history.first("fault")
    figures: dict[str, Any] = {
        "canary_to_rolled_back_s": None,
        "reason": fault["reason"] if fault else "",
        "reads": len(steady_reads(history)),
        "read_errors": len(read_errors(history)),
        "reads_by_bad_bundle": 0,
    }
    if fault is None:
        return Judgement(Verdict.INCONCLUSIVE, figures, ("no bundle was deployed",))
    after_s = {passed["phase"]: passed["after_s"] for passed in fault["phases"]}
    canary = fault["windows"].get("canary", {}).get("canary", {})
    figures["reads_by_bad_bundle"] = canary.get("answered", 0)
    if "canary" not in after_s:
        why = f"the deploy never came to its canary: {fault['reason'] or fault['complaint']}"
        return Judgement(Verdict.INCONCLUSIVE, figures, (why,))
    deviations = []
    if fault["exit_code"] != ROLLED_BACK_EXIT or "rolled_back" not in after_s:
        deviations.append(
            f"the deploy ended with code {fault['exit_code']} in {fault['phases'][-1]['phase']}"
        )
    else:
        took_s = after_s["rolled_back"] - after_s["canary"]
        figures["canary_to_rolled_back_s"] = round(took_s, 2)
        if took_s > limits.rolled_back_s:
            deviations.append(f"rolled back after {took_s:.1f} s, allowed are {limits.rolled_back_s:g} s")
    if figures["read_errors"]:
        deviations.append(f"{figures['read_errors']} of {figures['reads']} reads failed")
    unknown = [record["replica"] for record in history.of("bundles_failed")]
    for record in history.of("bundles"):
        if record["serving"] != fault["previous_bundle"] or record["candidate"]:
            deviations.append(
                f"replica {record['replica']} serves {record['serving']}"
                + (f" and holds {record['candidate']}" if record["candidate"] else "")
            )
    if deviations:
        return Judgement(Verdict.DEVIATED, figures, tuple(deviations))
    if unknown or not history.of("bundles"):
        why = f"replicas did not tell their bundles: {', '.join(unknown) or 'all'}"
        return Judgement(Verdict.INCONCLUSIVE, figures, (why,))
    return Judgement(Verdict.HELD, figures)


def judge_deploy_runs(judgements: Sequence[Judgement]) -> Judgement:
    """The verdict over all deploys."""
    figures = [judgement.figures for judgement in judgements]
    took_s = [
        one["canary_to_rolled_back_s"] for one in figures if one.get("canary_to_rolled_back_s") is not None
    ]
    spread: dict[str, float | None] = {"min": None, "p50": None, "max": None}
    if took_s:
        spread = {"min": min(took_s), "p50": quantile(took_s, 0.5), "max": max(took_s)}
    summed = ("reads", "read_errors", "reads_by_bad_bundle")
    return Judgement(
        worst([judgement.verdict for judgement in judgements]),
        {
            "runs": len(judgements),
            "canary_to_rolled_back_s": spread,
            "rolled_back": len(took_s),
            **{name: sum(one.get(name, 0) for one in figures) for name in summed},
        },
        tuple(reason for judgement in judgements for reason in judgement.reasons),
    )
