"""When to add or take away replicas: a pure function of what was seen so far.

The signal is the price of a core's time, counted in units of the bundle's own plans
(`muster.autoscale.prices`): 0 where nothing waits, 1 where the best plan is worth no more than the cheapest.
It is dear to be without replicas and cheap to have some to spare, so adding is quick and taking away is slow:

- a replica is added once the price has stood above `out_above` for `out_after_s` without a break;
- one is taken away once it has stood below `in_below` for `in_after_s` without a break;
- between the two limits nothing happens, and after a change nothing happens for `cooldown_s`, because a new
  replica must be seen to work before the next one is judged;
- one at a time, and always within `replicas_min` and `replicas_max`.

Whatever the signal does, there are at most T / cooldown_s + 1 changes in T seconds, and a replica that was
added stays for at least `in_after_s`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ScalePolicy:
    """replicas_min, replicas_max: of those that are scaled. out_above, in_below: price, in units. Times in
    seconds."""

    replicas_min: int = 0
    replicas_max: int = 3
    out_above: float = 0.3
    in_below: float = 0.05
    out_after_s: float = 1.0
    in_after_s: float = 30.0
    cooldown_s: float = 5.0

    def problems(self) -> Iterator[str]:
        """What is wrong with it, in sentences; nothing where it can be used."""
        if not 0 <= self.replicas_min <= self.replicas_max:
            yield f"the least of replicas, {self.replicas_min}, must be 0 to the most, {self.replicas_max}"
        if not 0 <= self.in_below < self.out_above:
            yield (
                f"the price below which a replica goes, {self.in_below:g}, must be at least 0 and less than "
                f"that above which one comes, {self.out_above:g}, or they would come and go"
            )
        if min(self.out_after_s, self.in_after_s, self.cooldown_s) < 0:
            yield "times must be 0 s or more"
        if self.in_after_s < self.out_after_s:
            yield "a replica must not go sooner than one comes"


@dataclass(frozen=True)
class ScaleState:
    """What is remembered from one look to the next, seconds on one clock. above_since_s, below_since_s: since
    when the price has stood above or below its limit; None: it does not. changed_at_s: of the last change."""

    above_since_s: float | None = None
    below_since_s: float | None = None
    changed_at_s: float | None = None


@dataclass(frozen=True)
class Decision:
    """wanted: replicas to have from now on; at most one more or less than there are, but where there are more
    or fewer than allowed. reason: in words."""

    wanted: int
    reason: str
    state: ScaleState


def decide(
    policy: ScalePolicy, state: ScaleState, *, now_s: float, replicas: int, units: float | None
) -> Decision:
    """What to have now.

    replicas: that are scaled and not on their way out. units: the price; None: nobody told, which is taken
    for no sign of either. now_s must not fall from one call to the next.
    """
    above, below = state.above_since_s, state.below_since_s
    if units is None:
        above = below = None
    else:
        above = (now_s if above is None else above) if units > policy.out_above else None
        below = (now_s if below is None else below) if units < policy.in_below else None
    seen = ScaleState(above, below, state.changed_at_s)
    if replicas < policy.replicas_min:
        return _changed(policy.replicas_min, f"at least {policy.replicas_min} are wanted", now_s)
    if replicas > policy.replicas_max:
        return _changed(replicas - 1, f"at most {policy.replicas_max} are wanted", now_s)
    if seen.changed_at_s is not None and now_s - seen.changed_at_s < policy.cooldown_s:
        return Decision(replicas, "cooling down after a change", seen)
    if above is not None and now_s - above >= policy.out_after_s:
        if replicas == policy.replicas_max:
            return Decision(replicas, f"price {units:.2f}, but no more than {replicas} are allowed", seen)
        return _changed(
            replicas + 1, f"price {units:.2f} above {policy.out_above:g} for {now_s - above:.1f} s", now_s
        )
    if below is not None and now_s - below >= policy.in_after_s and replicas > policy.replicas_min:
        return _changed(
            replicas - 1, f"price {units:.2f} below {policy.in_below:g} for {now_s - below:.1f} s", now_s
        )
    return Decision(replicas, "within the limits" if units is not None else "nobody told the price", seen)


def _changed(wanted: int, reason: str, now_s: float) -> Decision:
    # What was seen before the change says nothing of what comes after it.
    return Decision(wanted, reason, ScaleState(changed_at_s=now_s))
