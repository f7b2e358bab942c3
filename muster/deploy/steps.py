"""Which step of a deploy comes next: a pure function of the log's phase and of what the replicas hold.

Whoever drives a deploy asks this again and again, so a deployer that ended half-way is followed by another
one that needs to know nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from muster.deploy.judge import Judgement, Verdict
from muster.v1 import admin_pb2 as pb
from muster.v1.deploy_pb2 import DeployPhase as Phase

PhaseNumber: TypeAlias = "Phase.ValueType"

ENDED = (Phase.DEPLOY_PHASE_DONE, Phase.DEPLOY_PHASE_ROLLED_BACK)
TRIALS = (Phase.DEPLOY_PHASE_SHADOWING, Phase.DEPLOY_PHASE_CANARY)


@dataclass(frozen=True)
class Target:
    """From which bundle to which."""

    bundle_id: str
    previous_bundle_id: str


@dataclass(frozen=True)
class Options:
    """shadow_share, canary_share: of the requests of one replica, 0 to 1; 0: without that phase."""

    shadow_share: float = 0.2
    canary_share: float = 0.1


@dataclass(frozen=True)
class View:
    """One replica. bundles: None where it does not answer."""

    endpoint: str
    bundles: pb.ReplicaBundles | None

    @property
    def primary(self) -> bool:
        """Whether it says it is the primary."""
        return self.bundles is not None and self.bundles.role == pb.ROLE_PRIMARY


@dataclass(frozen=True)
class Load:
    """Have the replica load the bundle."""

    endpoint: str


@dataclass(frozen=True)
class Share:
    """Have the replica compare, and its candidate answer, these shares."""

    endpoint: str
    shadow: float
    canary: float


@dataclass(frozen=True)
class Promote:
    """Have the replica serve the bundle."""

    endpoint: str


@dataclass(frozen=True)
class Leave:
    """Have the replica leave a bundle for the one before."""

    endpoint: str
    bundle_id: str


@dataclass(frozen=True)
class Advance:
    """Write the next phase into the log. reason: why, for people."""

    phase: PhaseNumber
    reason: str = ""


@dataclass(frozen=True)
class Wait:
    """Nothing to do now. what: is awaited."""

    what: str


Step: TypeAlias = Load | Share | Promote | Leave | Advance | Wait


def order(views: Sequence[View]) -> list[View]:
    """The replicas in the order in which they change over: standbys as given, the primary last."""
    return sorted(views, key=lambda view: view.primary)


def trial_replica(views: Sequence[View], target: Target) -> View:
    """The replica that tries the candidate out: the one that has begun to, else the first in order."""
    begun = [
        view
        for view in views
        if view.bundles is not None and (view.bundles.shadow_share > 0 or view.bundles.canary_share > 0)
    ]
    return begun[0] if begun else order(views)[0]


def next_step(
    phase: PhaseNumber,
    target: Target,
    views: Sequence[View],
    options: Options,
    judgement: Judgement | None,
) -> Step:
    """The next step in a phase that has not ended. judgement: of the candidate in this phase, where there is
    one.
    """
    if phase == Phase.DEPLOY_PHASE_ROLLING_BACK:
        return _roll_back(target, views)
    refused = [_refusal(view, target) for view in views]
    if reasons := [text for text in refused if text]:
        return Advance(Phase.DEPLOY_PHASE_ROLLING_BACK, "; ".join(reasons))
    if missing := _load(target, views):
        return missing
    if phase == Phase.DEPLOY_PHASE_STARTED:
        return Advance(Phase.DEPLOY_PHASE_LOADED)
    if phase == Phase.DEPLOY_PHASE_LOADED:
        return Advance(_first_trial(target, views, options))
    if phase in TRIALS:
        return _try_out(phase, target, views, options, judgement)
    return _promote(target, views)


def _refusal(view: View, target: Target) -> str:
    bundles = view.bundles
    if bundles is None or bundles.candidate.bundle_id != target.bundle_id:
        return ""
    if bundles.candidate.state == pb.BUNDLE_STATE_REFUSED:
        return f"{view.endpoint} refuses the bundle: {bundles.candidate.detail}"
    return ""


def _load(target: Target, views: Sequence[View]) -> Step | None:
    """What is to be done until every replica holds the bundle; None: nothing.

    One replica of a machine at a time: loading runs every plan over and over, and replicas that all did so at
    once would leave no core of the machine to requests. Machines are told apart by the host of the endpoint.
    """
    lacking = [view for view in order(views) if not _holds(view, target)]
    loading = [view for view in lacking if _loads(view, target)]
    busy = {_host(view) for view in loading}
    for view in lacking:
        if _host(view) not in busy:
            return Load(view.endpoint)
    if not loading:
        return None
    what = "to answer" if loading[0].bundles is None else "to load the bundle"
    return Wait(f"{loading[0].endpoint} {what}")


def _holds(view: View, target: Target) -> bool:
    bundles = view.bundles
    if bundles is None:
        return False
    if bundles.candidate.bundle_id == target.bundle_id:
        return bundles.candidate.state == pb.BUNDLE_STATE_READY
    return target.bundle_id in (bundles.serving.bundle_id, bundles.previous.bundle_id)


def _loads(view: View, target: Target) -> bool:
    """Whether it loads the bundle, or does not say what it does."""
    return view.bundles is None or view.bundles.candidate.bundle_id == target.bundle_id


def _host(view: View) -> str:
    return view.endpoint.rpartition(":")[0]


def _first_trial(target: Target, views: Sequence[View], options: Options) -> PhaseNumber:
    bundles = trial_replica(views, target).bundles
    # What served before a deploy has been tried out by all callers: a way back needs no trial.
    if bundles is None or bundles.candidate.bundle_id != target.bundle_id:
        return Phase.DEPLOY_PHASE_PROMOTING
    if options.shadow_share > 0:
        return Phase.DEPLOY_PHASE_SHADOWING
    return Phase.DEPLOY_PHASE_CANARY if options.canary_share > 0 else Phase.DEPLOY_PHASE_PROMOTING


def _try_out(
    phase: PhaseNumber,
    target: Target,
    views: Sequence[View],
    options: Options,
    judgement: Judgement | None,
) -> Step:
    shadowing = phase == Phase.DEPLOY_PHASE_SHADOWING
    replica = trial_replica(views, target)
    bundles = replica.bundles
    assert bundles is not None
    wanted = (options.shadow_share, 0.0 if shadowing else options.canary_share)
    if (bundles.shadow_share, bundles.canary_share) != wanted:
        return Share(replica.endpoint, *wanted)
    if judgement is None or judgement.verdict is Verdict.WAIT:
        return Wait("requests to judge the bundle by")
    if judgement.verdict is Verdict.ROLL_BACK:
        return Advance(Phase.DEPLOY_PHASE_ROLLING_BACK, "; ".join(judgement.reasons))
    if shadowing and options.canary_share > 0:
        return Advance(Phase.DEPLOY_PHASE_CANARY)
    return Advance(Phase.DEPLOY_PHASE_PROMOTING)


def _promote(target: Target, views: Sequence[View]) -> Step:
    for view in order(views):
        bundles = view.bundles
        if bundles is None:
            return Wait(f"{view.endpoint} to answer")
        if bundles.serving.bundle_id == target.bundle_id:
            continue
        if bundles.previous.bundle_id == target.bundle_id:
            return Leave(view.endpoint, bundles.serving.bundle_id)
        return Promote(view.endpoint)
    return Advance(Phase.DEPLOY_PHASE_DONE)


def _roll_back(target: Target, views: Sequence[View]) -> Step:
    # The primary first: it was the last to change over.
    for view in reversed(order(views)):
        bundles = view.bundles
        if bundles is None:
            # It starts with the bundle that the log names, which is the one before.
            continue
        if target.bundle_id in (bundles.candidate.bundle_id, bundles.serving.bundle_id):
            return Leave(view.endpoint, target.bundle_id)
    return Advance(Phase.DEPLOY_PHASE_ROLLED_BACK)
