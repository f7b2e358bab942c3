"""Whether a candidate may go on, from what was measured of it beside the serving bundle at the same time.

Everything is compared with the serving bundle on the same replica in the same window, so that a busy machine
or a strange hour counts for both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from muster.deploy.windows import Arm, Times, Window

Role = Literal["shadow", "canary"]

_DEVIATES = 2.576
"""Standard deviations on either side of a 99 % interval."""


class Verdict(StrEnum):
    """What follows from a window."""

    GO = "go"
    WAIT = "wait"
    ROLL_BACK = "roll_back"


@dataclass(frozen=True)
class Limits:
    """What a candidate must keep to.

    min_requests: that it must have answered, and been compared on, before it may go on.
    evidence_min: requests of either side below which no errors and no orders are held against it. A tier's
        work and requests given up are judged by 99 % intervals instead: what is far off shows in a dozen.
    error_share_max: by which its share of unanswered requests may exceed the serving bundle's.
    given_up_share_max: by which the share of requests that callers gave up may exceed the serving bundle's. A
        slow candidate is hardly seen in the latency of its answers where callers hedge: they have another one
        by then, and ask it less and less.
    latency_ratio_max, latency_slack_ms: the median work of a tier may be so many times the serving bundle's
        and so much more.
    tail_evidence_min, tail_slack_ms: the same for the 95th percentile of all canary answers, from so many
        requests on: a busy moment of the machine makes several slow ones in a row.
    worth_share_min: of the serving bundle's mean expected nDCG, each as a share of the bundle's best plan; a
        dear candidate falls back to cheaper plans before it gets slow.
    agreement_min: mean nDCG of its order by the serving order's gains. A good new model changes orders; a
        broken one shares next to nothing.
    memory_growth_mib_max: of the process since before the candidate was loaded.
    """

    min_requests: int = 200
    evidence_min: int = 30
    error_share_max: float = 0.02
    given_up_share_max: float = 0.05
    latency_ratio_max: float = 1.6
    latency_slack_ms: float = 2.0
    tail_evidence_min: int = 100
    tail_slack_ms: float = 10.0
    worth_share_min: float = 0.9
    agreement_min: float = 0.5
    memory_growth_mib_max: float = 1024.0


@dataclass(frozen=True)
class Judgement:
    """reasons: a sentence for each limit that was broken."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()


def judge(role: Role, window: Window, limits: Limits) -> Judgement:
    """Judge a candidate in its role."""
    reasons = tuple(_broken(role, window, limits))
    if reasons:
        return Judgement(Verdict.ROLL_BACK, reasons)
    arm = window.canary if role == "canary" else window.shadow
    if arm.answered < limits.min_requests or window.compared < min(limits.min_requests, limits.evidence_min):
        return Judgement(Verdict.WAIT)
    return Judgement(Verdict.GO)


def _broken(role: Role, window: Window, limits: Limits) -> Iterator[str]:
    arm, serving = (window.canary if role == "canary" else window.shadow), window.serving
    growth_mib = window.memory_growth_bytes / 2**20
    if growth_mib > limits.memory_growth_mib_max:
        yield f"memory: {growth_mib:.0f} MiB more, allowed are {limits.memory_growth_mib_max:.0f}"
    if arm.ended >= limits.evidence_min and arm.error_share > serving.error_share + limits.error_share_max:
        yield (
            f"errors: {arm.failed} failed and {arm.refused} refused of {arm.ended},"
            f" {serving.failed + serving.refused} of {serving.ended} on the serving bundle"
        )
    yield from _given_up(arm, serving, limits)
    yield from _slow(role, arm, serving, limits)
    if min(arm.answered, serving.answered) >= limits.evidence_min:
        worth, before = arm.worth_total / arm.answered, serving.worth_total / serving.answered
        if worth < limits.worth_share_min * before:
            yield f"quality: plans worth {worth:.2f} of the best one, {before:.2f} on the serving bundle"
    if (
        window.agreement is not None
        and window.compared >= limits.evidence_min
        and window.agreement < limits.agreement_min
    ):
        yield (
            f"agreement: {window.agreement:.2f} over {window.compared} requests, at least"
            f" {limits.agreement_min:.2f} is asked for"
        )


def _given_up(arm: Arm, serving: Arm, limits: Limits) -> Iterator[str]:
    asked, asked_before = arm.ended + arm.given_up, serving.ended + serving.given_up
    low, _ = share_between(arm.given_up, asked)
    _, high = share_between(serving.given_up, asked_before)
    if low > high + limits.given_up_share_max:
        yield (
            f"given up: {arm.given_up} of {asked} by their callers, {serving.given_up} of {asked_before} on"
            " the serving bundle"
        )


def share_between(some: int, of: int) -> tuple[float, float]:
    """The 99 % interval of a share (Wilson, JASA 22, 1927); 0 to 1 where nothing was counted."""
    if not of:
        return 0.0, 1.0
    share, square = some / of, _DEVIATES**2
    middle = share + square / (2 * of)
    half = _DEVIATES * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    return max(0.0, (middle - half) / (1 + square / of)), min(1.0, (middle + half) / (1 + square / of))


def _slow(role: Role, arm: Arm, serving: Arm, limits: Limits) -> Iterator[str]:
    middle, tail = (0.5, 1, limits.latency_slack_ms), (0.95, limits.tail_evidence_min, limits.tail_slack_ms)
    pairs = [
        (f"tier {tier}", middle, work, serving.work.get(tier, Times()))
        for tier, work in sorted(arm.work.items())
    ]
    if role == "canary":
        pairs.append(("all answers", tail, arm.latency, serving.latency))
    for what, (share, evidence_min, slack_ms), candidate, before in pairs:
        if min(candidate.count, before.count) < evidence_min:
            continue
        at_least_ms, _ = candidate.quantile_between_ms(share, _DEVIATES)
        _, usual_at_most_ms = before.quantile_between_ms(share, _DEVIATES)
        if at_least_ms > limits.latency_ratio_max * usual_at_most_ms + slack_ms:
            took_ms, usual_ms = candidate.quantile_ms(share), before.quantile_ms(share)
            yield (
                f"latency: {what}: {share:.0%} within {took_ms:.1f} ms, within {usual_ms:.1f} ms on the"
                " serving bundle"
            )
