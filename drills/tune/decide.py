"""Whether a challenger is worth changing anything for: group by group, and as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from drills.tune.intervals import Difference, paired
from drills.tune.outcome import Outcome, broken, cost, parts
from drills.tune.profile import Profile
from drills.tune.space import GROUPS, REPLICAS, Point, changed, group_of


@dataclass(frozen=True)
class Sides:
    """One figure of both sides: means over the pairs, and the difference of the second less the first."""

    before: float
    after: float
    difference: Difference

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Decision:
    """point: what is recommended; the starting point where nothing is. groups: points by group. total: in
    all. kept: the groups that are recommended. why: a sentence for what was decided. invalid: what the
    challenger broke.
    """

    point: dict[str, float]
    groups: dict[str, Sides]
    total: Sides
    kept: tuple[str, ...]
    why: str
    invalid: tuple[str, ...] = ()

    def changes(self, start: Point) -> list[str]:
        """Names of the settings that are to be changed."""
        return changed(start, self.point)


def sides(before: Sequence[float], after: Sequence[float], *, confidence: float, seed: int = 1) -> Sides:
    """Means and the difference."""
    return Sides(fmean(before), fmean(after), paired(before, after, confidence=confidence, seed=seed))


def decide(
    start: Point,
    challenger: Point,
    before: Sequence[Outcome],
    after: Sequence[Outcome],
    profile: Profile,
    *,
    seed: int = 1,
) -> Decision:
    """Judges pairs of runs with the same seeds.

    A group of settings is recommended where its own points are surely fewer; the whole, where its total is
    too. All intervals of a decision together have the profile's confidence (Bonferroni). A challenger that
    broke something is never recommended; a starting point that broke something while the challenger did not
    is left for it as a whole. Raises: ValueError where the pairs are none.
    """
    weights, limits = profile.weights, profile.limits
    moved = [g for g in GROUPS if group_of(start, g) != group_of(challenger, g)]
    confidence = 1.0 - (1.0 - limits.confidence) / (len(moved) + 1)

    def told(figure: Any) -> Sides:
        return sides(
            [figure(one) for one in before], [figure(one) for one in after], confidence=confidence, seed=seed
        )

    groups = {g: told(lambda one, g=g: parts(one, weights)[g]) for g in GROUPS}
    total = told(lambda one: cost(one, weights))
    invalid = tuple(broken(after, limits))
    if invalid:
        return Decision(dict(start), groups, total, (), f"the challenger broke: {invalid[0]}", invalid)
    if wrong := broken(before, limits):
        why = f"the starting configuration broke: {wrong[0]}"
        return Decision(dict(challenger), groups, total, tuple(moved), why)
    if not moved:
        return Decision(dict(start), groups, total, (), "no other point was better in the search")
    better = tuple(g for g in moved if groups[g].difference.less)
    if REPLICAS in moved and groups[REPLICAS].difference.mean > 0:
        # More replicas were needed to survive the drills, whatever they cost.
        better = tuple(dict.fromkeys((*better, REPLICAS)))
    point = dict(start)
    for group in better:
        point.update(group_of(challenger, group))
    if not better:
        return Decision(dict(start), groups, total, (), "no difference is more than chance")
    if set(better) == set(moved) and not total.difference.less and REPLICAS not in better:
        return Decision(dict(start), groups, total, (), "in all, no difference is more than chance")
    return Decision(point, groups, total, better, "fewer points, more than chance")


def confirmed(decision: Decision, start: Point, again: Decision) -> Decision:
    """What is left of a decision for some groups after the recommended point itself was run beside the
    starting one: it, or nothing."""
    if again.invalid or not (again.total.difference.less or "broke" in again.why):
        reason = (
            again.why if again.invalid else "run again beside the start, no difference is more than chance"
        )
        return Decision(dict(start), again.groups, again.total, (), reason, again.invalid)
    return Decision(decision.point, again.groups, again.total, decision.kept, decision.why)
