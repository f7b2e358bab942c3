"""The judge of certificates that are exchanged. It reads the recorded history and nothing else.

Beside the kinds that every judge reads:

    fault            ends_unix_s of the short-lived certificates
    exchange         replica, step (short, broken, long), ends_unix_s
    connection_made  a search over a new connection: asked, status, ends_unix_s of the certificate shown
    published        replica, ends_unix_s, failures: what its metrics said at the moment
    told             alert, status (firing, resolved), at_unix_s; only where alerts were watched
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drills.experiment import Judgement
from drills.journal import History, Record
from drills.judges.history import OK
from drills.judges.promises import FIGURES, Findings, check_promises, unless_stalled

EXPIRY_FIGURES: dict[str, Any] = {
    **FIGURES,
    "connections": 0,
    "connection_errors": 0,
    "connections_after_end": 0,
    "exchanges": 0,
    "exchanged_ms": None,
    "broken_noticed": 0,
    "alert_before_end_s": None,
}
ALERT = "MusterCertificateExpires"
SHORT, BROKEN, LONG = "short", "broken", "long"
_BLIND = frozenset({"MusterReplicaDown", "MusterNoReplica"})
"""Alerts of an evaluator that cannot look; a condition that must last then begins anew."""

_LATE = frozenset({"UNREACHED", "DEADLINE_EXCEEDED", "UNAVAILABLE", "CANCELLED"})


@dataclass(frozen=True)
class ExpiryLimits:
    """exchanged_ms: within which new connections are shown a new certificate, by replicas that look every
    second."""

    exchanged_ms: float = 5_000.0


def judge_expiry(history: History, limits: ExpiryLimits) -> Judgement:
    """Judges one exchange."""
    found = check_promises(history)
    figures = found.figures = {**EXPIRY_FIGURES, **found.figures}
    fault, made = history.first("fault"), history.of("connection_made")
    if fault is None or not made:
        found.doubts.append("no certificate was exchanged, or nobody looked")
        return found.judgement()
    figures["connections"] = len(made)
    _connections(found, history, fault, made)
    _exchanges(found, history, made, limits)
    _published(found, history)
    _alert(found, history, fault)
    return found.judgement()


def _connections(found: Findings, history: History, fault: Record, made: list[Record]) -> None:
    errors = [one for one in made if one["status"] != OK]
    found.figures["connection_errors"] = len(errors)
    for one in errors[:3]:
        sentence = f"a new connection to replica {one['asked']} at {one['intended_s']:.3f} s ended with "
        sentence += f"{one['status']}: {one.get('detail', '')}"
        if one["status"] in _LATE:
            unless_stalled(found, history, sentence)
        else:
            found.deviations.append(sentence)
    over_s = _at_s(history, fault["ends_unix_s"])
    after = [one for one in made if one["sent_s"] > over_s]
    found.figures["connections_after_end"] = len(after)
    if not after:
        found.doubts.append("nobody connected after the end of the short-lived certificates")


def _exchanges(found: Findings, history: History, made: list[Record], limits: ExpiryLimits) -> None:
    """How long after each new file was there the first connection was shown it."""
    took: list[float] = []
    for step in history.of("exchange"):
        if step["step"] == BROKEN:
            continue
        shown = next(
            (
                one["done_s"]
                for one in made
                if one["asked"] == step["replica"]
                and one["sent_s"] >= step["at_s"]
                and one.get("ends_unix_s") == step["ends_unix_s"]
            ),
            None,
        )
        if shown is None:
            found.deviations.append(
                f"replica {step['replica']} never showed the {step['step']}-lived certificate that was there "
                f"from {step['at_s']:.1f} s on"
            )
        else:
            took.append(1000.0 * (shown - step["at_s"]))
    steps = {step["step"] for step in history.of("exchange")}
    if LONG not in steps:
        found.deviations.append("no certificate came in place of those that were about to end")
    found.figures["exchanges"] = len(took)
    found.figures["exchanged_ms"] = round(max(took), 1) if took else None
    if took and max(took) > limits.exchanged_ms:
        sentence = f"a new certificate was in use after {max(took):.0f} ms, allowed are "
        unless_stalled(found, history, f"{sentence}{limits.exchanged_ms:.0f}")


def _published(found: Findings, history: History) -> None:
    """The metrics must tell of each certificate, and of the file that was none."""
    for name in sorted({step["replica"] for step in history.of("exchange")}):
        told = [one for one in history.of("published") if one["replica"] == name]
        steps = {step["step"]: step for step in history.of("exchange") if step["replica"] == name}
        seen = {int(one["ends_unix_s"]) for one in told}
        for step in steps.values():
            if step["step"] != BROKEN and step["ends_unix_s"] not in seen:
                found.deviations.append(
                    f"the metrics of replica {name} never told of the {step['step']}-lived certificate"
                )
        if BROKEN not in steps:
            continue
        # A look between a new key and its certificate counts as well, so only what came in between tells.
        since_s, until_s = steps[BROKEN]["at_s"], steps.get(LONG, {}).get("at_s", float("inf"))
        before = max((one["failures"] for one in told if one["at_s"] < since_s), default=0.0)
        if any(one["failures"] > before for one in told if since_s <= one["at_s"] < until_s):
            found.figures["broken_noticed"] += 1
        else:
            found.deviations.append(f"replica {name} did not count the file that is no certificate")


def _alert(found: Findings, history: History, fault: Record) -> None:
    told = [one for one in history.of("told") if one["alert"] == ALERT]
    if history.first("watched") is None:
        return
    fired = min((one["at_unix_s"] for one in told if one["status"] == "firing"), default=None)
    if fired is None:
        blind = any(one["alert"] in _BLIND and one["status"] == "firing" for one in history.of("told"))
        if blind:
            found.doubts.append(
                f"the alert {ALERT} did not fire, but whoever watches did not get at the metrics either"
            )
        else:
            found.deviations.append(f"the alert {ALERT} did not fire")
        return
    found.figures["alert_before_end_s"] = round(fault["ends_unix_s"] - fired, 1)
    if fired >= fault["ends_unix_s"]:
        unless_stalled(found, history, f"the alert {ALERT} fired after the certificates had ended")
    if not any(one["status"] == "resolved" and one["at_unix_s"] > fired for one in told):
        unless_stalled(found, history, f"the alert {ALERT} did not end with the exchange")


def _at_s(history: History, unix_s: float) -> float:
    """A moment of the wall clock as seconds since the run began."""
    header = history.first("run") or {}
    return float(unix_s - header.get("started_unix_s", 0.0))
