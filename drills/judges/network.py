"""The judges of the network and of the store. They read the recorded history and nothing else.

Beside the kinds that every judge reads (`drills.journal`):

    trust         a client spares `replica` its reads (`trusted` false), or not any more
    connection    a client's connection to `replica` stands (`ready`) or not, as gRPC itself knows
    replica_read  a search past the client at one replica (`asked`): status, applied_sequence, staleness_ms
    replica       what one replica said of itself at the end: replica, role, serving, applied_sequence,
    head_sequence; `detail` where it did not answer
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from drills.experiment import Judgement, Verdict, quantile
from drills.journal import History, Record
from drills.judges.checks import (
    STALL_MS,
    TIMED_OUT,
    generator_stall_ms,
    read_errors,
    recovery_ms,
    steady_reads,
)
from drills.judges.history import OK, check_epochs, check_sessions, check_writes

STALENESS_SLACK_MS = 400.0
"""What a told staleness may lack: a replica looks at a server's log ten times a second, and a look that was
under way may have been answered just before."""

_STARVED = frozenset({TIMED_OUT, "DEADLINE_EXCEEDED"})


@dataclass(frozen=True)
class Findings:
    """What a judge found, by how it counts."""

    deviations: list[str]
    doubts: list[str]

    def add(self, others: Findings) -> None:
        """Takes those of another look at the same history."""
        self.deviations.extend(others.deviations)
        self.doubts.extend(others.doubts)

    def judgement(self, figures: dict[str, Any]) -> Judgement:
        """One deviation decides, then one doubt."""
        if self.deviations:
            return Judgement(Verdict.DEVIATED, figures, tuple(self.deviations))
        if self.doubts:
            return Judgement(Verdict.INCONCLUSIVE, figures, tuple(self.doubts))
        return Judgement(Verdict.HELD, figures)


def phase_s(history: History, name: str) -> float | None:
    """When a phase began, seconds since the run did; None: it never did."""
    return next((r["at_s"] for r in history.of("phase") if r["phase"] == name), None)


def replica_reads(history: History) -> list[Record]:
    """The searches at single replicas since the steady state was reached."""
    steady = history.first("steady")
    since_s = 0.0 if steady is None else steady["at_s"]
    return [read for read in history.of("replica_read") if read["done_s"] >= since_s]


def failed_calls(history: History, failed: Sequence[Record]) -> Findings:
    """What failed calls mean: a deviation, or a doubt where all of them only came too late on a machine that
    kept the generator waiting as well."""
    found = Findings([], [])
    stall_ms = generator_stall_ms(history)
    if failed and stall_ms > STALL_MS and all(call["status"] in _STARVED for call in failed):
        found.doubts.append(
            f"{len(failed)} calls were not answered in time, but this machine kept the load generator itself "
            f"waiting for up to {stall_ms:.0f} ms: too busy to judge"
        )
        return found
    for call in failed[:3]:
        where = f" at replica {call['asked']}" if "asked" in call else ""
        what = "write" if call["kind"] == "write" else "read"
        found.deviations.append(
            f"a {what}{where} at {call['intended_s']:.3f} s ended with {call['status']}: {call.get('detail')}"
        )
    return found


def detection_ms(history: History) -> float | None:
    """From the fault to the moment at which a client began to spare the replica at fault its reads; None: it
    never did while the fault lasted."""
    return _known_ms(history, "trust", "trusted")


def connection_lost_ms(history: History) -> float | None:
    """From the fault to the moment at which gRPC gave up the connection to the replica at fault, or the
    replica left health; None: neither while the fault lasted."""
    return _known_ms(history, "connection", "ready")


def _known_ms(history: History, kind: str, good: str) -> float | None:
    fault, end = history.first("fault"), history.first("rollback")
    if fault is None or end is None:
        return None
    known = [
        record["at_s"]
        for record in history.of(kind)
        if record["replica"] == fault["replica"]
        and not record[good]
        and fault["at_s"] <= record["at_s"] <= end["at_s"]
    ]
    return round((known[0] - fault["at_s"]) * 1000.0, 1) if known else None


def check_staleness(history: History, *, slack_ms: float = STALENESS_SLACK_MS) -> list[str]:
    """Sentences for answers that lack an acknowledged write and do not own up to it.

    An answer's staleness is the time since its replica last knew that it had everything. A write that was
    acknowledged before that moment, and is not in the answer, proves it wrong.
    """
    acknowledged = sorted(
        ((write["done_s"], write["sequence"]) for write in history.of("write") if write["status"] == OK),
    )
    problems: list[str] = []
    answers = [
        read
        for read in (*history.of("read"), *history.of("replica_read"))
        if read["status"] == OK and "staleness_ms" in read
    ]
    for answer in answers:
        missed_s = next((at for at, sequence in acknowledged if sequence > answer["applied_sequence"]), None)
        if missed_s is None or answer["sent_s"] <= missed_s:
            continue
        behind_ms = (answer["sent_s"] - missed_s) * 1000.0
        if answer["staleness_ms"] + slack_ms < behind_ms:
            problems.append(
                f"replica {answer['replica']} answered at {answer['sent_s']:.3f} s without what had been "
                f"acknowledged {behind_ms:.0f} ms before, and called itself {answer['staleness_ms']} ms stale"
            )
    return problems


def check_marks(
    history: History, replicas: Iterable[str], since_s: float, until_s: float
) -> tuple[int, list[str]]:
    """Of the replicas that could not see the log between two moments: how many of their answers said so, and
    sentences for those that did not.

    Counted are those sent a second or more after the first moment.
    """
    marked, problems = 0, []
    asked = frozenset(replicas)
    for read in replica_reads(history):
        if read["status"] != OK or read["asked"] not in asked:
            continue
        if not since_s + 1.0 <= read["sent_s"] <= until_s:
            continue
        blind_ms = (read["sent_s"] - since_s) * 1000.0
        if read["staleness_ms"] + STALENESS_SLACK_MS < blind_ms:
            problems.append(
                f"replica {read['asked']} had not seen the log for {blind_ms:.0f} ms at {read['sent_s']:.3f} "
                f"s, and called its answer {read['staleness_ms']} ms stale"
            )
        else:
            marked += 1
    return marked, problems


def check_rejoined(history: History) -> list[str]:
    """Sentences for replicas that did not end serving, and at the end of the log."""
    problems: list[str] = []
    told = history.of("replica")
    head = max((one.get("applied_sequence", 0) for one in told), default=0)
    for one in told:
        if "detail" in one:
            problems.append(f"replica {one['replica']} did not tell its state at the end: {one['detail']}")
        elif not one["serving"]:
            problems.append(f"replica {one['replica']} does not serve reads at the end")
        elif one["applied_sequence"] < head:
            problems.append(
                f"replica {one['replica']} has applied {one['applied_sequence']} of {head} events at the end"
            )
    return problems


def overdue_writes(history: History, deadline_ms: float, *, grace_ms: float = 250.0) -> list[Record]:
    """The writes that ended, either way, later than their deadline and the grace."""
    allowed_s = (deadline_ms + grace_ms) / 1000.0
    return [write for write in history.of("write") if write["done_s"] - write["sent_s"] > allowed_s]


def back_ms(history: History) -> float | None:
    """From the end of the fault to the first acknowledged write that ended after it; None: there was none."""
    end = history.first("rollback")
    if end is None:
        return None
    after = [w["done_s"] for w in history.of("write") if w["status"] == OK and w["done_s"] >= end["at_s"]]
    return round((min(after) - end["at_s"]) * 1000.0, 1) if after else None


def base_figures(history: History) -> dict[str, Any]:
    """What the judges of this module all tell."""
    writes = check_writes(history)
    asked = replica_reads(history)
    return {
        "reads": len(steady_reads(history)),
        "read_errors": len(read_errors(history)),
        "replica_reads": len(asked),
        "replica_read_errors": sum(read["status"] != OK for read in asked),
        "writes_acknowledged": 0 if writes is None else writes.acknowledged,
        "write_errors": sum(write["status"] != OK for write in history.of("write")),
        "writes_lost": 0 if writes is None else len(writes.lost),
        "writes_doubled": 0 if writes is None else len(writes.doubled),
        "epochs_monotone": not check_epochs(history),
    }


def judge_common(history: History, *, written: bool = True) -> Findings:
    """What must hold in every drill of the network and of the store: no read fails; nothing acknowledged is
    lost, doubled or moved; one writer at a time; answers are as stale as they say; in the end every replica
    is back. written: whether callers write."""
    found = failed_calls(history, read_errors(history))
    writes = check_writes(history)
    found.deviations.extend(check_epochs(history))
    found.deviations.extend(check_sessions(history))
    found.deviations.extend(check_staleness(history)[:3])
    found.deviations.extend(check_rejoined(history))
    if writes is None:
        found.doubts.append("the log could not be read to its end, so nothing is known of lost writes")
    else:
        found.deviations.extend(writes.problems())
        if written and not writes.acknowledged:
            found.doubts.append("no write was acknowledged")
    if not history.of("read"):
        found.doubts.append("no read was sent")
    return found


@dataclass(frozen=True)
class PartitionLimits:
    """What the judge of a partition accepts, milliseconds.

    detected_ms: until a client knows. writes_back_ms: from the cut to the first write that another replica
    acknowledges; None: clients cannot reach the primary, which reigns on, so that none is expected before the
    healing. healed_ms: from the healing to the first acknowledged write.
    """

    detected_ms: float = 600.0
    writes_back_ms: float | None = None
    healed_ms: float = 2000.0


CLIENTS = "clients"
STORE = "store"


def judge_partition(history: History, limits: PartitionLimits, between: str) -> Judgement:
    """Judges one cut. between: what the primary was cut off from, CLIENTS or STORE."""
    fault, end = history.first("fault"), history.first("rollback")
    figures: dict[str, Any] = {
        "detection_ms": detection_ms(history) if between == CLIENTS else None,
        "connection_lost_ms": connection_lost_ms(history) if between == CLIENTS else None,
        "rto_ms": recovery_ms(history) if between == STORE else None,
        "back_after_healing_ms": back_ms(history),
        "late_acknowledgements": 0,
        "marked_stale": 0,
        **base_figures(history),
    }
    if fault is None or end is None:
        return Judgement(Verdict.INCONCLUSIVE, figures, ("nothing was cut",))
    found = judge_common(history)
    found.add(failed_calls(history, [read for read in replica_reads(history) if read["status"] != OK]))
    if between == CLIENTS:
        _in_time(found, "clients knew of the cut", figures["detection_ms"], limits.detected_ms)
    else:
        late = _late_acknowledgements(history)
        figures["late_acknowledgements"] = len(late)
        found.deviations.extend(
            f"write {write['event_id']}, sent {write['sent_s'] - fault['at_s']:.3f} s after the cut, was "
            f"acknowledged in epoch {write['epoch']} of the primary that was cut off"
            for write in late[:3]
        )
        marked, unmarked = check_marks(history, [fault["replica"]], fault["at_s"], end["at_s"])
        figures["marked_stale"] = marked
        found.deviations.extend(unmarked[:3])
        if not marked and not unmarked:
            found.doubts.append("the cut-off replica was not asked, so nothing is known of its staleness")
        if limits.writes_back_ms is not None:
            _in_time(found, "writes were back", figures["rto_ms"], limits.writes_back_ms)
    _in_time(found, "writes were back after the healing", figures["back_after_healing_ms"], limits.healed_ms)
    return found.judgement(figures)


@dataclass(frozen=True)
class StoreLimits:
    """What the judge of a store that goes away accepts, milliseconds.

    write_ms: deadline of a write, within which it must end. back_ms: from the end of the outage to the first
    acknowledged write.
    """

    write_ms: float = 1000.0
    back_ms: float = 5000.0


def judge_store_down(history: History, limits: StoreLimits) -> Judgement:
    """Judges one outage. The fault's record tells with `store_readable` whether the log could still be
    read."""
    fault, end = history.first("fault"), history.first("rollback")
    writes = history.of("write")
    overdue = overdue_writes(history, limits.write_ms)
    figures: dict[str, Any] = {
        "back_ms": back_ms(history),
        "slowest_write_ms": round(
            max((write["done_s"] - write["sent_s"] for write in writes), default=0.0) * 1000.0, 1
        ),
        "overdue_writes": len(overdue),
        "marked_stale": 0,
        **base_figures(history),
    }
    if fault is None or end is None:
        return Judgement(Verdict.INCONCLUSIVE, figures, ("the store was never away",))
    found = judge_common(history)
    found.add(failed_calls(history, [read for read in replica_reads(history) if read["status"] != OK]))
    stall_ms = generator_stall_ms(history)
    # A machine that stands still for a moment makes writes late by that moment, and no more.
    beyond = overdue_writes(history, limits.write_ms + stall_ms)
    if overdue and not beyond and stall_ms > STALL_MS:
        found.doubts.append(
            f"{len(overdue)} writes ended late, but this machine kept the load generator itself waiting for "
            f"up to {stall_ms:.0f} ms: too busy to judge"
        )
    elif overdue:
        slowest_ms = figures["slowest_write_ms"]
        found.deviations.append(
            f"{len(overdue)} writes ended after their deadline of {limits.write_ms:g} ms, the slowest after "
            f"{slowest_ms:.0f} ms"
        )
    sent = [write for write in writes if fault["at_s"] + 1.0 <= write["sent_s"] <= end["at_s"] - 1.0]
    if not any(write["status"] != OK for write in sent) and not beyond:
        found.doubts.append("no write failed or waited during the outage, so there was none")
    if not fault["store_readable"]:
        asked = {read["asked"] for read in replica_reads(history)}
        marked, unmarked = check_marks(history, asked, fault["at_s"], end["at_s"])
        figures["marked_stale"] = marked
        found.deviations.extend(unmarked[:3])
        if not marked and not unmarked:
            found.doubts.append("no replica was asked, so nothing is known of its staleness")
    _in_time(found, "writes were back after the outage", figures["back_ms"], limits.back_ms)
    return found.judgement(figures)


@dataclass(frozen=True)
class LagLimits:
    """What the judge of a lagging standby accepts, milliseconds.

    bound_ms: on staleness. left_ms: how much later it may leave health. back_ms: from following again to
    being back.
    """

    bound_ms: float = 2000.0
    left_ms: float = 500.0
    back_ms: float = 2000.0


def judge_standby_lag(history: History, limits: LagLimits) -> Judgement:
    """Judges one freeze of a standby's tailer."""
    fault, end = history.first("fault"), history.first("rollback")
    bound = history.of("session_read")
    stale = [
        read for read in bound if read["status"] == OK and read["applied_sequence"] < read["min_sequence"]
    ]
    figures: dict[str, Any] = {
        "left_health_ms": connection_lost_ms(history),
        "back_ms": None,
        "session_reads": len(bound),
        "stale_session_reads": len(stale),
        **base_figures(history),
    }
    if fault is None or end is None:
        return Judgement(Verdict.INCONCLUSIVE, figures, ("no tailer was frozen",))
    found = judge_common(history)
    found.add(failed_calls(history, [read for read in replica_reads(history) if read["status"] != OK]))
    found.deviations.extend(
        f"replica {read['asked']} was asked for sequence {read['min_sequence']} or later at "
        f"{read['sent_s']:.3f} s, and answered at {read['applied_sequence']}"
        for read in stale[:3]
    )
    left_ms = figures["left_health_ms"]
    _in_time(found, "the standby left health", left_ms, limits.bound_ms + limits.left_ms)
    if left_ms is not None and left_ms < limits.bound_ms / 2:
        found.deviations.append(f"the standby left health after {left_ms:.0f} ms already")
    if left_ms is not None:
        again = [
            record["at_s"]
            for record in history.of("connection")
            if record["replica"] == fault["replica"] and record["ready"] and record["at_s"] >= end["at_s"]
        ]
        figures["back_ms"] = round((again[0] - end["at_s"]) * 1000.0, 1) if again else None
        _in_time(found, "the standby was back in health", figures["back_ms"], limits.back_ms)
    asked_it = [
        r for r in bound if r["asked"] == fault["replica"] and fault["at_s"] < r["sent_s"] < end["at_s"]
    ]
    if not asked_it:
        found.doubts.append("the frozen standby was not asked to be up to date")
    return found.judgement(figures)


@dataclass(frozen=True)
class LossLimits:
    """What the judge of lost packets accepts, milliseconds.

    detected_ms: until a client knows of a replica that nothing comes from; None: something still does.
    healed_ms: from the end of it to the first acknowledged write.
    """

    detected_ms: float | None = None
    healed_ms: float = 2000.0


def judge_loss(history: History, limits: LossLimits) -> Judgement:
    """Judges one spell of lost packets."""
    fault, end = history.first("fault"), history.first("rollback")
    during = (
        [read for read in steady_reads(history) if fault["at_s"] <= read["sent_s"] <= end["at_s"]]
        if fault and end
        else []
    )
    took = [(read["done_s"] - read["sent_s"]) * 1000.0 for read in during if read["status"] == OK]
    figures: dict[str, Any] = {
        "detection_ms": detection_ms(history) if limits.detected_ms is not None else None,
        "connection_lost_ms": connection_lost_ms(history) if limits.detected_ms is not None else None,
        "back_after_healing_ms": back_ms(history),
        "dropped": 0 if end is None else end.get("dropped", 0),
        "read_p99_ms": round(quantile(took, 0.99), 1) if took else None,
        **base_figures(history),
    }
    if fault is None or end is None:
        return Judgement(Verdict.INCONCLUSIVE, figures, ("nothing was lost",))
    found = judge_common(history)
    if not figures["dropped"]:
        found.doubts.append("not one packet was dropped")
    if limits.detected_ms is not None:
        _in_time(found, "clients knew of it", figures["detection_ms"], limits.detected_ms)
    _in_time(found, "writes were back after it", figures["back_after_healing_ms"], limits.healed_ms)
    return found.judgement(figures)


def _late_acknowledgements(history: History) -> list[Record]:
    """The writes sent after the cut that were acknowledged in the reign that it ended."""
    fault = history.first("fault")
    assert fault is not None
    acknowledged = [write for write in history.of("write") if write["status"] == OK]
    reign = max((write["epoch"] for write in acknowledged if write["done_s"] <= fault["at_s"]), default=0)
    return [write for write in acknowledged if write["sent_s"] > fault["at_s"] and write["epoch"] <= reign]


def _in_time(found: Findings, what: str, took_ms: float | None, limit_ms: float) -> None:
    if took_ms is None:
        found.deviations.append(f"it never came to this: {what}")
    elif took_ms > limit_ms:
        found.deviations.append(f"{what} after {took_ms:.0f} ms, allowed are {limit_ms:g}")
