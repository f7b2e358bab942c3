"""The judge of wall clocks that jump. It reads the recorded history and nothing else.

Beside the kinds that every judge reads: `skewed_read`, a search at one replica (`asked`) by a caller whose
wall clock is `skew_s` ahead; `call` counts those before it on its connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drills.experiment import Judgement, Verdict
from drills.journal import History
from drills.judges.checks import STALL_MS, generator_stall_ms
from drills.judges.history import OK
from drills.judges.network import base_figures, failed_calls, judge_common


@dataclass(frozen=True)
class ClockLimits:
    """What the judge accepts. deadline_ms: of the searches at single replicas. overrun_ms: how much later
    than that they may end."""

    deadline_ms: float = 250.0
    overrun_ms: float = 100.0


def judge_clock_jump(history: History, limits: ClockLimits) -> Judgement:
    """Judges one jump. overrun_ms: of the search that ended latest, how long after its deadline; below 0:
    before it. takeovers: changes of the epoch that callers saw."""
    fault = history.first("fault")
    steady = history.first("steady")
    since_s = 0.0 if steady is None else steady["at_s"]
    skewed = [read for read in history.of("skewed_read") if read["done_s"] >= since_s]
    failed = [read for read in skewed if read["status"] != OK]
    took = [(read["done_s"] - read["sent_s"]) * 1000.0 - limits.deadline_ms for read in skewed]
    epochs = {write["epoch"] for write in history.of("write") if write["status"] == OK}
    figures: dict[str, Any] = {
        "skewed_reads": len(skewed),
        "skewed_errors": len(failed),
        "overrun_ms": round(max(took), 1) if took else None,
        "takeovers": max(0, len(epochs) - 1),
        **base_figures(history),
    }
    if fault is None:
        return Judgement(Verdict.INCONCLUSIVE, figures, ("no clock jumped",))
    found = judge_common(history)
    found.add(failed_calls(history, [write for write in history.of("write") if write["status"] != OK]))
    found.add(failed_calls(history, failed))
    if len(epochs) > 1:
        found.deviations.append(f"the lease changed hands: epochs {sorted(epochs)}")
    if not skewed:
        found.doubts.append("nobody with a wrong clock asked")
    overrun_ms = figures["overrun_ms"]
    if overrun_ms is not None and overrun_ms > limits.overrun_ms:
        sentence = f"a search ended {overrun_ms:.0f} ms after its deadline"
        busy = generator_stall_ms(history) > STALL_MS
        (found.doubts if busy else found.deviations).append(sentence)
    return found.judgement(figures)
