"""What a run did to callers, told the same way for every drill: out of its history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drills.journal import History, Record, read_history
from drills.judges.checks import recovery_ms
from drills.judges.history import OK, check_writes


@dataclass(frozen=True)
class Summary:
    """None: not measured in this run.

    rto_ms: from the fault to the first write that another primary acknowledged. writes_lost: acknowledged
    ones that the log does not hold (RPO, in writes). in_time_share: of the reads, answered within their
    deadline, before the fault and from it on. quality_kept: mean expected nDCG of what was answered from the
    fault on, as a share of that before it. read_errors, write_errors: not answered.
    """

    rto_ms: float | None = None
    writes_lost: int | None = None
    in_time_share_before: float | None = None
    in_time_share: float | None = None
    quality_kept: float | None = None
    reads: int = 0
    read_errors: int = 0
    writes: int = 0
    write_errors: int = 0

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def summarise(history: History) -> Summary:
    """One run."""
    fault, steady = history.first("fault"), history.first("steady")
    deadline_ms = deadline_of(history)
    since_s = 0.0 if steady is None else steady["at_s"]
    reads = [read for read in history.of("read") if read["done_s"] >= since_s]
    writes = history.of("write")
    # Without a fault all of it is the run; of what came before one, also what came before the steady state.
    split_s = since_s if fault is None else fault["at_s"]
    earlier = [read for read in history.of("read") if read["done_s"] < split_s]
    later = [read for read in reads if read["done_s"] >= split_s]
    checked = check_writes(history)
    before, after = _quality(earlier), _quality(later)
    return Summary(
        rto_ms=recovery_ms(history) if writes else None,
        writes_lost=None if checked is None else len(checked.lost),
        in_time_share_before=_in_time(earlier, deadline_ms),
        in_time_share=_in_time(later, deadline_ms),
        quality_kept=None if not before or after is None else round(after / before, 4),
        reads=len(reads),
        read_errors=sum(read["status"] != OK for read in reads),
        writes=len(writes),
        write_errors=sum(write["status"] != OK for write in writes),
    )


def journals(folder: Path) -> list[Path]:
    """The histories of the single runs of a drill, in order."""
    return sorted(folder.glob("run-*.jsonl"))


def telling_history(folder: Path, each: Sequence[dict[str, Any]]) -> History | None:
    """The history of the run that says most: the first that did not hold, else the last; None where the
    folder holds none that can be read. each: the single runs, as the record has them.
    """
    found = journals(folder)
    if not found:
        return None
    verdicts = [one.get("verdict") for one in each]
    worst = next((number for number, verdict in enumerate(verdicts) if verdict not in (None, "held")), None)
    chosen = found[worst] if worst is not None and len(verdicts) == len(found) else found[-1]
    try:
        return read_history(chosen)
    except (OSError, ValueError):
        return None


def deadline_of(history: History) -> float | None:
    """What a read of the run had, milliseconds; None: it does not say."""
    settings = (history.first("run") or {}).get("settings", {})
    value = settings.get("read_deadline_ms", settings.get("deadline_ms"))
    return float(value) if isinstance(value, int | float) else None


def _in_time(reads: Sequence[Record], deadline_ms: float | None) -> float | None:
    if not reads:
        return None
    limit_s = float("inf") if deadline_ms is None else deadline_ms / 1000.0
    kept = sum(
        bool(read["status"] == OK and read["done_s"] - read["intended_s"] <= limit_s) for read in reads
    )
    return round(kept / len(reads), 4)


def _quality(reads: Sequence[Record]) -> float | None:
    worth = [
        float(read["expected_ndcg"]) for read in reads if read["status"] == OK and "expected_ndcg" in read
    ]
    return sum(worth) / len(worth) if worth else None
