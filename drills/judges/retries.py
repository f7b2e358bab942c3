"""The judge of a storm of retries. It reads the recorded history and nothing else.

Beside the kinds that every judge reads: `sendings`, what one client of ours has counted (client, reads, sent)
and the budgets that it states; the rollback tells with `rude_sent` and `rude_answered` of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drills.experiment import Judgement, Verdict
from drills.journal import History, Record
from drills.judges.checks import STALL_MS, generator_stall_ms
from drills.judges.history import OK
from drills.judges.network import Findings, check_rejoined

_WINDOW_S = 1.0
_STEP_S = 0.1


@dataclass(frozen=True)
class RetryLimits:
    """What the judge accepts.

    recovered_ms: from the end of the storm to the first second in which enough reads were in time.
    in_time_share: how many are enough. deadline_ms: of a read.
    """

    recovered_ms: float = 5000.0
    in_time_share: float = 0.99
    deadline_ms: float = 250.0


def judge_retry_storm(history: History, limits: RetryLimits) -> Judgement:
    """Judges one storm. amplification: sendings of our clients for each of their reads."""
    fault, end = history.first("fault"), history.first("rollback")
    reads, counted = history.of("read"), history.of("sendings")
    begun, sent = sum(one["reads"] for one in counted), sum(one["sent"] for one in counted)
    figures: dict[str, Any] = {
        "recovered_ms": recovered_ms(history, limits),
        "rude_sent": 0 if end is None else end.get("rude_sent", 0),
        "rude_answered": 0 if end is None else end.get("rude_answered", 0),
        "reads": len(reads),
        "read_errors": sum(read["status"] != OK for read in reads),
        "sendings": sent,
        "allowed": sum(allowed(history, one) for one in counted),
        "amplification": round(sent / begun, 3) if begun else None,
    }
    if fault is None or end is None:
        return Judgement(Verdict.INCONCLUSIVE, figures, ("there was no outage",))
    found = Findings([], [])
    found.deviations.extend(check_rejoined(history))
    for one in counted:
        most = allowed(history, one)
        if one["sent"] > most:
            found.deviations.append(
                f"client {one['client']} sent {one['sent']} times for {one['reads']} reads; its budgets "
                f"allow {most}"
            )
    if not counted:
        found.doubts.append("our clients did not tell how often they sent")
    if not figures["rude_sent"]:
        found.doubts.append("there was no storm")
    took_ms = figures["recovered_ms"]
    if took_ms is None or took_ms > limits.recovered_ms:
        sentence = (
            "reads were never back in time after the storm"
            if took_ms is None
            else f"reads were back in time {took_ms:.0f} ms after the storm"
        )
        stall_ms = generator_stall_ms(after(history, end))
        if stall_ms > STALL_MS:
            found.doubts.append(
                f"{sentence}, but this machine kept the load generator itself waiting for up to "
                f"{stall_ms:.0f} ms"
            )
        else:
            found.deviations.append(f"{sentence}, allowed are {limits.recovered_ms:g} ms")
    return found.judgement(figures)


def allowed(history: History, one: Record) -> int:
    """How often a client may have sent: each read once, hedges by their share and burst, retries by the
    tokens there were and those that its answered reads brought."""
    answered = sum(r["status"] == OK for r in history.of("read") if r.get("client") == one["client"])
    hedges = one["hedge_share"] * one["reads"] + one["hedge_burst"]
    retries = one["retry_tokens"] + one["retry_token_ratio"] * answered
    return int(one["reads"] + hedges + retries)


def after(history: History, end: Record) -> History:
    """The history with only those reads that were intended after the storm."""
    return History(tuple(r for r in history.records if r["kind"] != "read" or r["intended_s"] >= end["at_s"]))


def recovered_ms(history: History, limits: RetryLimits) -> float | None:
    """From the end of the storm to the beginning of the first second in which enough of the reads were in
    time; None: there was none."""
    end = history.first("rollback")
    if end is None:
        return None
    later = [read for read in history.of("read") if read["intended_s"] >= end["at_s"]]
    last_s = max((read["intended_s"] for read in later), default=end["at_s"]) - _WINDOW_S
    start_s = float(end["at_s"])
    while start_s <= last_s:
        window = [r for r in later if start_s <= r["intended_s"] < start_s + _WINDOW_S]
        in_time = sum(
            r["status"] == OK and (r["done_s"] - r["intended_s"]) * 1000.0 <= limits.deadline_ms
            for r in window
        )
        if window and in_time >= limits.in_time_share * len(window):
            return round((start_s - float(end["at_s"])) * 1000.0, 1)
        start_s += _STEP_S
    return None
