"""The judge of hostile requests. It reads the recorded history and nothing else.

Beside the kinds that every judge reads:

    hostile   one hostile request: asked, request, accepted (the statuses that it may end with), status
    memory    replica, pid, rss_bytes; without rss_bytes the process had ended
    process   replica, pid, as the replica itself told
    mutated   sent, lost (connections), statuses, unexpected (those that tell of a fault), by count
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drills.experiment import Judgement, Verdict, quantile
from drills.journal import History, Record
from drills.judges.checks import STALL_MS, generator_stall_ms
from drills.judges.network import base_figures, failed_calls, judge_common

MIB = 1024.0 * 1024.0


@dataclass(frozen=True)
class HostileLimits:
    """What the judge accepts.

    growth_mib: how much more memory a replica may take towards the end of the attack than after its first
    third; the first is what its buffers need once; None: it is not known. refused_ms: 99 of 100 requests are
    answered within. written: whether decent callers write.
    """

    growth_mib: float | None = 48.0
    refused_ms: float = 1000.0
    written: bool = True


def judge_hostile(history: History, limits: HostileLimits) -> Judgement:
    """Judges one attack."""
    fault, end = history.first("fault"), history.first("rollback")
    sent = history.of("hostile")
    took = [(one["done_s"] - one["sent_s"]) * 1000.0 for one in sent if not _waits(one)]
    figures: dict[str, Any] = {
        "hostile": len(sent),
        "kinds": len({one["request"] for one in sent}),
        "refused": sum(one["status"] != "OK" for one in sent),
        "unexpected": sum(one["status"] not in one["accepted"] for one in sent),
        "refused_p99_ms": round(quantile(took, 0.99), 1) if took else None,
        "growth_mib": None,
        "crashed": 0,
        **base_figures(history),
    }
    if fault is None or end is None or not sent:
        return Judgement(Verdict.INCONCLUSIVE, figures, ("no hostile request was sent",))
    found = judge_common(history, written=limits.written)
    found.add(failed_calls(history, [w for w in history.of("write") if w["status"] != "OK"]))
    wrong: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for one in sent:
        if one["status"] not in one["accepted"]:
            wrong[one["request"], one["status"]].append(one)
    found.deviations.extend(
        f"{request!r} ended with {status} {len(ones)} times, at replica {ones[0]['asked']} first, not with "
        f"{' or '.join(ones[0]['accepted'])}: {ones[0].get('detail', '')[:120]}"
        for (request, status), ones in list(wrong.items())[:5]
    )
    memory = history.of("memory")
    crashed = list(dict.fromkeys([*crashes(memory), *replaced(history.of("process"))]))
    figures["crashed"] = len(crashed)
    found.deviations.extend(f"replica {name} ended during the attack" for name in crashed)
    growth = growth_mib(memory, fault["at_s"], end["at_s"])
    if limits.growth_mib is None:
        pass
    elif growth is None:
        found.doubts.append("nothing is known of the replicas' memory")
    else:
        figures["growth_mib"] = growth
        if growth > limits.growth_mib:
            found.deviations.append(
                f"a replica took {growth:.0f} MiB more at the end of the attack than early in it, allowed "
                f"are {limits.growth_mib:g}"
            )
    p99_ms = figures["refused_p99_ms"]
    if p99_ms is not None and p99_ms > limits.refused_ms:
        sentence = f"1 of 100 hostile requests took more than {p99_ms:.0f} ms, allowed are "
        sentence += f"{limits.refused_ms:g}"
        busy = generator_stall_ms(history) > STALL_MS
        (found.doubts if busy else found.deviations).append(sentence)
    return found.judgement(figures)


def judge_mutated(history: History, attack: Judgement, messages: int) -> Judgement:
    """The judgement of an attack, and of so many mutated messages beside it."""
    told = history.first("mutated")
    sent = 0 if told is None else told["sent"]
    wrong = {} if told is None else dict(told["unexpected"])
    if told is not None and told["lost"]:
        wrong["connections lost"] = told["lost"]
    figures = {**attack.figures, "mutated": sent, "mutated_unexpected": sum(wrong.values())}
    if wrong:
        listed = ", ".join(f"{count} {name}" for name, count in sorted(wrong.items()))
        reasons = (*attack.reasons, f"of {sent} mutated messages: {listed}")
        return Judgement(Verdict.DEVIATED, figures, reasons)
    if sent < messages and attack.verdict is Verdict.HELD:
        reason = f"{sent} of {messages} mutated messages were sent"
        return Judgement(Verdict.INCONCLUSIVE, figures, (*attack.reasons, reason))
    return Judgement(attack.verdict, figures, attack.reasons)


def _waits(one: Record) -> bool:
    """Whether the request asks for what never comes, so that its end is its deadline."""
    return "DEADLINE_EXCEEDED" in one["accepted"]


def crashes(memory: Sequence[Record]) -> list[str]:
    """The replicas whose process ended, or is not the one that it was."""
    pids: dict[str, Counter[int]] = defaultdict(Counter)
    ended: dict[str, None] = {}
    for record in memory:
        pids[record["replica"]][record["pid"]] += 1
        if "rss_bytes" not in record or len(pids[record["replica"]]) > 1:
            ended[record["replica"]] = None
    return list(ended)


def replaced(told: Sequence[Record]) -> list[str]:
    """The replicas that named another process than before."""
    pids: dict[str, set[int]] = defaultdict(set)
    for record in told:
        pids[record["replica"]].add(record["pid"])
    return [name for name, seen in pids.items() if len(seen) > 1]


def growth_mib(memory: Sequence[Record], since_s: float, until_s: float) -> float | None:
    """Of the replica that grew most between two moments: the median of the last third of the time less that
    of the second, MiB; None: too few looks."""
    third_s = (until_s - since_s) / 3
    grown: list[float] = []
    for name in {record["replica"] for record in memory}:
        taken = [
            (record["at_s"], record["rss_bytes"] / MIB)
            for record in memory
            if record["replica"] == name and "rss_bytes" in record
        ]
        early = [rss for at_s, rss in taken if since_s + third_s <= at_s < since_s + 2 * third_s]
        late = [rss for at_s, rss in taken if since_s + 2 * third_s <= at_s <= until_s]
        if early and late:
            grown.append(quantile(late, 0.5) - quantile(early, 0.5))
    return round(max(grown), 1) if grown else None
