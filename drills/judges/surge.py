"""The judge of a day's demand while replicas come and go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drills.experiment import Judgement
from drills.journal import History, Record
from drills.judges.history import OK
from drills.judges.promises import Findings, fault_window, sent_within, setting, unless_stalled

REFUSED = "Overloaded"
"""How the client says that a replica refused."""


@dataclass(frozen=True)
class SurgeLimits:
    """in_time_share: of the searches that were not refused. joined_s: from the moment from which the price
    stands above out_above units for three looks in a row, until the first replica joins."""

    in_time_share: float = 0.99
    joined_s: float = 20.0
    out_above: float = 0.3


SURGE_FIGURES: dict[str, Any] = {
    "searches": 0,
    "refused": 0,
    "in_time_share": None,
    "failed": 0,
    "quality": None,
    "quality_noon": None,
    "joined": 0,
    "left": 0,
    "joined_after_s": None,
    "problems": 0,
    "price_units_max": None,
}


def judge_surge(history: History, limits: SurgeLimits) -> Judgement:
    """Judges one day. `read`s were searches; `scaling` is what `muster autoscale` said, `price` what the
    standing replica's price was, in units, seconds since the fault."""
    found = Findings(dict(SURGE_FIGURES))
    window = fault_window(history)
    if window is None:
        found.doubts.append("the day did not begin or did not end")
        return found.judgement()
    deadline_s, day_s = setting(history, "deadline_ms") / 1000.0, setting(history, "day_s")
    reads = sent_within(history.of("read"), (window[0], window[1] - deadline_s))
    _searches(found, history, reads, deadline_s, limits)
    noon = (window[0] + 0.35 * day_s, window[0] + 0.65 * day_s)
    found.figures["quality_noon"] = _quality(sent_within(reads, noon))
    _scaling(found, history, limits)
    return found.judgement()


NEEDED_LOOKS, NEEDED_S = 3, 3.0
"""For how long the price must have stood above the limit before a replica is missed."""


def _quality(reads: Sequence[Record]) -> float | None:
    """Mean expected nDCG share of the answers."""
    worth = [read["expected_ndcg"] for read in reads if read["status"] == OK]
    return round(sum(worth) / len(worth), 4) if worth else None


def _searches(
    found: Findings, history: History, reads: Sequence[Record], deadline_s: float, limits: SurgeLimits
) -> None:
    figures = found.figures
    refused = [read for read in reads if read["status"] == REFUSED]
    answered = [read for read in reads if read["status"] == OK]
    in_time = [read for read in answered if read["done_s"] - read["intended_s"] <= deadline_s]
    # A deadline that passes is a late answer; anything else is a failure.
    failed = [read for read in reads if read["status"] not in (OK, REFUSED, "DeadlineExceeded")]
    figures.update(searches=len(reads), refused=len(refused), failed=len(failed), quality=_quality(reads))
    if failed:
        found.deviations.append(
            f"{len(failed)} searches failed while replicas came and went, the first with "
            f"{failed[0]['status']}: {failed[0].get('detail', '')}"
        )
    accepted = len(reads) - len(refused)
    if not accepted:
        found.doubts.append("no search was let in")
        return
    figures["in_time_share"] = share = round(len(in_time) / accepted, 4)
    if share < limits.in_time_share:
        unless_stalled(
            found,
            history,
            f"{len(in_time)} of {accepted} searches that were not refused were in time ({share:.1%}), fewer "
            f"than {limits.in_time_share:.0%}",
        )


def _scaling(found: Findings, history: History, limits: SurgeLimits) -> None:
    figures = found.figures
    said = history.of("scaling")
    joined = [one["since_s"] for one in said if ": joined" in one["said"]]
    left = [one for one in said if ": ended after" in one["said"]]
    problems = [one["said"] for one in said if one["said"].startswith("problem:")]
    figures.update(joined=len(joined), left=len(left), problems=len(problems))
    found.deviations += problems[:3]
    ended = history.of("rollback")[0].get("exit")
    if ended != 0:
        found.deviations.append(f"the scaling ended with {ended}")
    prices = [one for one in history.of("price") if one["units"] is not None]
    figures["price_units_max"] = round(max((one["units"] for one in prices), default=0.0), 3)
    needed = _needed_since_s(prices, limits.out_above)
    if needed is None:
        if not joined:
            found.doubts.append(
                f"time was never dear: the price reached {figures['price_units_max']} units, so nothing "
                "was to be scaled; ask for more with --peak"
            )
        return
    if not joined:
        found.deviations.append(
            f"the price stood above {limits.out_above:g} from {needed:.1f} s on, and no replica joined"
        )
        return
    figures["joined_after_s"] = after = round(max(0.0, joined[0] - needed), 2)
    if after > limits.joined_s:
        found.deviations.append(
            f"the first replica joined {after:.1f} s after it was needed, more than {limits.joined_s:g} s"
        )
    if len(left) < len(joined):
        found.deviations.append(f"{len(joined)} replicas joined and {len(left)} left without an error")


def _needed_since_s(prices: Sequence[Record], above: float) -> float | None:
    """When the price first stood above the limit for so many looks in a row and so long; None: never.

    One look in two sees what the scaling saw: a shorter stand may have had a dip between.
    """
    stand: list[float] = []
    for one in prices:
        stand = [*stand, float(one["since_s"])] if one["units"] > above else []
        if len(stand) >= NEEDED_LOOKS and stand[-1] - stand[0] >= NEEDED_S:
            return stand[0]
    return None
