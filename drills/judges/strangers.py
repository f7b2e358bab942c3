"""The judge of attackers with bad tokens. It reads the recorded history and nothing else.

Beside the kinds that every judge reads:

    attack    one call with a bad token: asked, source, forged (its kind), expected (status), operator, status
    fresh     one search with a good token that no replica had seen: asked, source, status
    fault     replicas, sources, reasons (that must be counted), counted (by replica: refused by reason,
              verified)
    rollback  counted, after the attack
    audited   replica, refused (calls of operators, listed or counted), findings
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from drills.experiment import Judgement, quantile
from drills.journal import History, Record
from drills.judges.history import OK
from drills.judges.promises import FIGURES, Findings, check_promises, unless_stalled

LIMITED = "RESOURCE_EXHAUSTED"
_UNANSWERED = frozenset({"UNREACHED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNSENT", "CANCELLED"})
STRANGER_FIGURES: dict[str, Any] = {
    **FIGURES,
    "attacks": 0,
    "accepted": 0,
    "limited": 0,
    "unanswered": 0,
    "verified": 0,
    "fresh": 0,
    "fresh_errors": 0,
    "read_p99_ms": None,
    "reasons": 0,
    "uncounted": 0,
    "unaudited": 0,
}


@dataclass(frozen=True)
class StrangerLimits:
    """What the settings of the replicas promise.

    burst, per_s: bad tokens of one address that a replica looks at, at once and a second. slack: more than
    that for calls that came in at once.
    """

    burst: int
    per_s: float
    slack: int = 5


def judge_strangers(history: History, limits: StrangerLimits) -> Judgement:
    """Judges one attack."""
    found = check_promises(history)
    figures = found.figures = {**STRANGER_FIGURES, **found.figures}
    fault, end = history.first("fault"), history.first("rollback")
    attacks, fresh = history.of("attack"), history.of("fresh")
    if fault is None or end is None or not attacks or "counted" not in end:
        found.doubts.append("no attack was made")
        return found.judgement()
    figures["attacks"] = len(attacks)
    _refusals(found, attacks)
    _newcomers(found, history, fresh)
    took = [
        1000.0 * (one["done_s"] - one["intended_s"])
        for one in history.of("read")
        if fault["at_s"] <= one["intended_s"] < end["at_s"]
    ]
    figures["read_p99_ms"] = round(quantile(took, 0.99), 1) if took else None
    _looks(found, fault, end, fresh, limits)
    _counts(found, fault, end, attacks)
    _audits(found, history, attacks)
    return found.judgement()


def _refusals(found: Findings, attacks: list[Record]) -> None:
    statuses = Counter(one["status"] for one in attacks)
    allowed = _UNANSWERED | {LIMITED}
    accepted = [one for one in attacks if one["status"] not in allowed | {one["expected"]}]
    found.figures["accepted"] = len(accepted)
    found.figures["limited"] = statuses[LIMITED]
    found.figures["unanswered"] = sum(statuses[status] for status in _UNANSWERED)
    found.deviations += [
        f"{one['forged']} was not refused at replica {one['asked']}: {one['status']} {one.get('detail', '')}"
        for one in accepted[:5]
    ]
    if found.figures["unanswered"] > len(attacks) / 2:
        found.doubts.append("most attackers were not answered at all, so little is known of what they get")


def _newcomers(found: Findings, history: History, fresh: list[Record]) -> None:
    errors = [one for one in fresh if one["status"] != OK]
    found.figures["fresh"], found.figures["fresh_errors"] = len(fresh), len(errors)
    if not fresh:
        found.doubts.append("nobody came with a new token")
    for one in errors[:3]:
        sentence = f"a new and good token from {one['source']} was answered {one['status']} at replica "
        sentence += f"{one['asked']}: {one.get('detail', '')}"
        if one["status"] in _UNANSWERED:
            unless_stalled(found, history, sentence)
        else:
            found.deviations.append(sentence)


def _looks(found: Findings, fault: Record, end: Record, fresh: list[Record], limits: StrangerLimits) -> None:
    """Signatures that replicas looked at, against what their settings allow for so many addresses."""
    allowed_each = limits.burst + limits.per_s * (end["at_s"] - fault["at_s"] + 1.0) + limits.slack
    for name, before in fault["counted"].items():
        looked = int(end["counted"][name]["verified"] - before["verified"])
        found.figures["verified"] += looked
        # Good tokens cost one look each; the last refused call of an operator brings one more.
        good = sum(one["asked"] == name for one in fresh) + 1
        allowed = fault["sources"] * allowed_each + good
        if looked > allowed:
            found.deviations.append(
                f"replica {name} looked at {looked} tokens, where {allowed:.0f} are allowed: attackers were"
                " not limited"
            )


def _counts(found: Findings, fault: Record, end: Record, attacks: list[Record]) -> None:
    seen: Counter[str] = Counter()
    for name, before in fault["counted"].items():
        for reason, count in end["counted"][name]["refused"].items():
            seen[reason] += int(count - before["refused"].get(reason, 0))
    refused = sum(one["status"] in (LIMITED, one["expected"]) for one in attacks)
    missing = [reason for reason in fault["reasons"] if not seen[reason]]
    found.figures["reasons"] = len(fault["reasons"]) - len(missing)
    found.figures["uncounted"] = max(0, refused - seen.total())
    if found.figures["uncounted"]:
        found.deviations.append(f"{refused} calls were refused, and the metrics count {seen.total()}")
    if missing:
        found.deviations.append(f"the metrics count none as {', '.join(missing)}")


def _audits(found: Findings, history: History, attacks: list[Record]) -> None:
    audits = history.of("audited")
    refused = [one for one in attacks if one["operator"] and one["status"] in (LIMITED, one["expected"])]
    by_replica = Counter(one["asked"] for one in refused)
    for one in audits:
        missing = max(0, by_replica.pop(one["replica"], 0) - one["refused"])
        found.figures["unaudited"] += missing
        if missing:
            found.deviations.append(
                f"the audit of replica {one['replica']} tells of {one['refused']} refused calls of operators,"
                f" {missing} too few"
            )
        found.deviations += [f"audit of replica {one['replica']}: {text}" for text in one["findings"][:3]]
    if by_replica:
        found.doubts.append(f"the audits of {', '.join(sorted(by_replica))} were not looked at")
