"""The judge of a slow network. It reads the recorded history and nothing else.

Beside the kinds that every judge reads: `unhurried`, what a query gives when there is time (query,
product_ids); a `read` has its query and product_ids too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drills.experiment import Judgement, Verdict, quantile
from drills.journal import History, Record
from drills.judges.checks import STALL_MS, generator_stall_ms
from drills.judges.history import OK
from drills.judges.network import Findings

BEST = "best"


@dataclass(frozen=True)
class LatencyLimits:
    """What the judge accepts.

    deadline_ms: of every search. in_time_share: of those sent while the network was slow. knows_share: of the
    latency on the way there, how much less time the replicas must see.
    """

    deadline_ms: float = 50.0
    in_time_share: float = 0.99
    knows_share: float = 0.5


def judge_latency(history: History, limits: LatencyLimits) -> Judgement:
    """Judges one slow spell.

    in_time_share: of the searches sent during it, answered within the deadline. budget_lost_ms: how much less
    time the replicas saw than before it, of the median search. best_share: of the answers, those by the best
    plan. untruthful: answers that call themselves the best plan's and are not what it gives.
    """
    fault, end = history.first("fault"), history.first("rollback")
    reads = history.of("read")
    figures: dict[str, Any] = {
        "in_time_share": None,
        "read_p99_ms": None,
        "base_read_p99_ms": None,
        "budget_lost_ms": None,
        "best_share": None,
        "untruthful": 0,
        "reads": len(reads),
        "read_errors": sum(read["status"] != OK for read in reads),
    }
    if fault is None or end is None:
        return Judgement(Verdict.INCONCLUSIVE, figures, ("nothing was slowed",))
    before = [read for read in reads if read["done_s"] < fault["at_s"]]
    during = [read for read in reads if fault["at_s"] <= read["sent_s"] and read["done_s"] <= end["at_s"]]
    answered = [read for read in during if read["status"] == OK]
    figures["read_p99_ms"], figures["base_read_p99_ms"] = _p99_ms(during), _p99_ms(before)
    found = Findings([], [])
    if not during or not before:
        found.doubts.append("no search was sent, before the network was slow or while it was")
        return found.judgement(figures)
    in_time = [read for read in answered if _took_ms(read) <= limits.deadline_ms]
    figures["in_time_share"] = round(len(in_time) / len(during), 4)
    _judge_share(found, history, before, during, figures["in_time_share"], limits)
    if not answered:
        return found.judgement(figures)
    figures["best_share"] = round(sum(read["reason"] == BEST for read in answered) / len(answered), 4)
    _judge_budgets(found, figures, before, answered, fault, limits)
    untruthful = _untruthful(history, answered)
    figures["untruthful"] = len(untruthful)
    found.deviations.extend(untruthful[:3])
    if not history.of("unhurried"):
        found.doubts.append("no query was answered unhurried, so nothing is known of the answers' truth")
    return found.judgement(figures)


def _judge_share(
    found: Findings,
    history: History,
    before: Sequence[Record],
    during: Sequence[Record],
    share: float,
    limits: LatencyLimits,
) -> None:
    if share >= limits.in_time_share:
        return
    sentence = f"{share:.1%} of {len(during)} searches were answered in time, fewer than "
    sentence += f"{limits.in_time_share:.0%}"
    base = sum(r["status"] == OK and _took_ms(r) <= limits.deadline_ms for r in before) / len(before)
    stall_ms = generator_stall_ms(history)
    if base < limits.in_time_share:
        found.doubts.append(f"{sentence}, but only {base:.1%} were before the network was slow")
    elif stall_ms > STALL_MS:
        found.doubts.append(
            f"{sentence}, but this machine kept the load generator itself waiting for up to {stall_ms:.0f} ms"
        )
    else:
        found.deviations.append(sentence)


def _judge_budgets(
    found: Findings,
    figures: dict[str, Any],
    before: Sequence[Record],
    answered: Sequence[Record],
    fault: Record,
    limits: LatencyLimits,
) -> None:
    """Whether the replicas that were slowed know how much less time is left."""
    slowed = frozenset(fault["slowed"])
    usual = [read["budget_ms"] for read in before if read["status"] == OK and read["replica"] in slowed]
    left = [read["budget_ms"] for read in answered if read["replica"] in slowed]
    if usual and not left and any(read["replica"] not in slowed for read in before):
        return  # callers went to replicas that were not slowed
    if not usual or not left:
        found.doubts.append("no replica that was slowed answered, so nothing is known of what it knew")
        return
    lost_ms = round(quantile(usual, 0.5) - quantile(left, 0.5), 1)
    figures["budget_lost_ms"] = lost_ms
    # Half of the latency is on the way there; what is on the way back no replica can see.
    expected_ms = limits.knows_share * fault["latency_ms"] / 2
    if lost_ms < expected_ms:
        found.deviations.append(
            f"the replicas saw {lost_ms:g} ms less than before, though the way there took "
            f"{fault['latency_ms'] / 2:g} ms more"
        )


def _untruthful(history: History, answered: Sequence[Record]) -> list[str]:
    unhurried = {record["query"]: record["product_ids"] for record in history.of("unhurried")}
    return [
        f"an answer by {read['replica']} at {read['sent_s']:.3f} s called itself the best plan's, which "
        f"gives {unhurried[read['query']][:3]} for its query, not {read['product_ids'][:3]}"
        for read in answered
        if read["reason"] == BEST
        and read["query"] in unhurried
        and read["product_ids"] != unhurried[read["query"]]
    ]


def _took_ms(read: Record) -> float:
    return float(read["done_s"] - read["sent_s"]) * 1000.0


def _p99_ms(reads: Sequence[Record]) -> float | None:
    took = [_took_ms(read) for read in reads if read["status"] == OK]
    return round(quantile(took, 0.99), 1) if took else None
