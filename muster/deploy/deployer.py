"""Drives one deploy: look, decide, act, write each phase into the log; until it is done or rolled back."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from muster.client import MusterError
from muster.deploy.judge import Judgement, Limits, Role, Verdict, judge
from muster.deploy.replicas import Replicas
from muster.deploy.steps import (
    ENDED,
    TRIALS,
    Advance,
    Leave,
    Load,
    Options,
    PhaseNumber,
    Promote,
    Share,
    Step,
    Target,
    View,
    Wait,
    next_step,
    trial_replica,
)
from muster.deploy.windows import Window, window_of
from muster.v1.deploy_pb2 import Deploy
from muster.v1.deploy_pb2 import DeployPhase as Phase

logger = logging.getLogger(__name__)

_LOOK_S = 0.25
_HEARTBEAT_S = 1.0


class DeployImpossible(Exception):
    """The deploy cannot begin or go on; the text says why and what to do. Nothing was changed by it."""


def phase_name(phase: PhaseNumber) -> str:
    """The phase in one lower-case word or two."""
    return Phase.Name(phase).removeprefix("DEPLOY_PHASE_").lower()


@dataclass(frozen=True)
class Passed:
    """One phase as it was seen. after_s: seconds since the deployer began."""

    phase: str
    after_s: float
    reason: str = ""


@dataclass
class Outcome:
    """How a deploy ended. windows: what was measured in each trial, by phase."""

    deploy_id: str
    bundle_id: str
    previous_bundle_id: str
    phases: list[Passed] = field(default_factory=list)
    windows: dict[str, Window] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether every replica serves the bundle."""
        return bool(self.phases) and self.phases[-1].phase == phase_name(Phase.DEPLOY_PHASE_DONE)

    @property
    def reason(self) -> str:
        """Why it was rolled back; empty: it was not."""
        left = {phase_name(Phase.DEPLOY_PHASE_ROLLING_BACK), phase_name(Phase.DEPLOY_PHASE_ROLLED_BACK)}
        told = [passed.reason for passed in self.phases if passed.phase in left and passed.reason]
        return told[-1] if told else ""


@dataclass(frozen=True)
class Plan:
    """What to deploy. folder: where the bundle lies on the machines of the replicas; None: they hold it, or a
    deploy under way is only to be ended. patience_s: longest wait in one phase; then it is rolled back. note:
    written into the log with the beginning.
    """

    bundle_id: str
    folder: str | None
    options: Options
    limits: Limits
    patience_s: float = 600.0
    note: str = ""


class Deployer:
    """One run. tell: given a sentence for each thing that happens."""

    def __init__(
        self,
        replicas: Replicas,
        plan: Plan,
        *,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._replicas = replicas
        self._plan = plan
        self._tell = tell
        self._clock = clock
        self._sleep = sleep
        self._deployer = f"deployer-{secrets.token_hex(6)}"
        self._began_s = clock()
        self._heartbeat_s = -_HEARTBEAT_S
        self._phase_began_s = clock()
        self._baseline: tuple[PhaseNumber, Window] | None = None
        self._memory_bytes: dict[str, int] = {}
        self._waiting = ""

    def run(self) -> Outcome:
        """Begin, or go on with the deploy of this bundle that the log holds, to its end.

        Raises: DeployImpossible; MusterError where no replica can be reached for too long.
        """
        views = self._all_there()
        step = self._take_up(views)
        outcome = Outcome(step.deploy_id, step.bundle_id, step.previous_bundle_id)
        self._passed(outcome, step.phase, step.detail)
        while step.phase not in ENDED:
            step = self._go_on(step, outcome)
        return outcome

    def abort(self) -> Outcome:
        """Roll back the deploy that is under way. Raises: as ``run``."""
        live = live_deploy(self._all_there())
        if live is None:
            raise DeployImpossible("no deploy is under way, so there is nothing to abort")
        step = self._record(live, live.phase)
        outcome = Outcome(step.deploy_id, step.bundle_id, step.previous_bundle_id)
        if step.phase != Phase.DEPLOY_PHASE_ROLLING_BACK:
            step = self._record(step, Phase.DEPLOY_PHASE_ROLLING_BACK, "aborted by the operator")
        self._passed(outcome, step.phase, step.detail)
        while step.phase not in ENDED:
            step = self._go_on(step, outcome)
        return outcome

    def _all_there(self) -> list[View]:
        views = self._replicas.look()
        silent = [view.endpoint for view in views if view.bundles is None]
        if silent:
            raise DeployImpossible(
                f"{', '.join(silent)} cannot be reached or is still starting; every replica must answer"
                " before a deploy begins or goes on (`muster status` shows them)"
            )
        return views

    def _take_up(self, views: Sequence[View]) -> Deploy:
        """The step to go on from: of the deploy under way, or the first of a new one."""
        plan = self._plan
        live = live_deploy(views)
        if live is not None:
            if live.bundle_id != plan.bundle_id:
                raise DeployImpossible(
                    f"deploy {live.deploy_id} of bundle {live.bundle_id} is under way"
                    f" ({phase_name(live.phase)}): go on with that bundle, or end it with --abort"
                )
            self._tell(f"going on with deploy {live.deploy_id}, {phase_name(live.phase)}")
            return self._record(live, live.phase)
        serving = served(views)
        if serving == plan.bundle_id:
            raise DeployImpossible(f"every replica serves bundle {plan.bundle_id} already")
        step = Deploy(
            deploy_id=f"deploy-{secrets.token_hex(6)}",
            bundle_id=plan.bundle_id,
            previous_bundle_id=serving,
        )
        return self._record(step, Phase.DEPLOY_PHASE_STARTED, plan.note)

    def _go_on(self, step: Deploy, outcome: Outcome) -> Deploy:
        """One look and what follows from it; the step that the log holds afterwards."""
        self._beat(step)
        views = self._replicas.look()
        judgement = self._judge(step, views, outcome)
        target = Target(step.bundle_id, step.previous_bundle_id)
        decided = next_step(step.phase, target, views, self._plan.options, judgement)
        if isinstance(decided, Wait):
            decided = self._patience(step, decided) or decided
        if isinstance(decided, Advance):
            if step.phase in TRIALS and judgement is not None and judgement.verdict is Verdict.GO:
                self._tell(f"{phase_name(step.phase)}: {describe(outcome.windows[phase_name(step.phase)])}")
            step = self._record(step, decided.phase, decided.reason)
            self._passed(outcome, step.phase, step.detail)
        elif isinstance(decided, Wait):
            if decided.what != self._waiting:
                self._waiting = decided.what
                self._tell(f"{phase_name(step.phase)}: waiting for {decided.what}")
            self._sleep(_LOOK_S)
        else:
            self._act(decided, step)
        return step

    def _act(self, decided: Step, step: Deploy) -> None:
        replicas, bundle_id = self._replicas, step.bundle_id
        try:
            if isinstance(decided, Load):
                if self._plan.folder is None:
                    raise DeployImpossible(
                        f"{decided.endpoint} does not hold bundle {bundle_id} any more; name its folder"
                    )
                self._tell(f"{decided.endpoint}: loading")
                replicas.load(decided.endpoint, self._plan.folder, bundle_id)
            elif isinstance(decided, Share):
                self._tell(
                    f"{decided.endpoint}: comparing {decided.shadow:.0%}, serving {decided.canary:.0%} of its"
                    " requests with the bundle"
                )
                replicas.share(decided.endpoint, bundle_id, shadow=decided.shadow, canary=decided.canary)
            elif isinstance(decided, Promote):
                self._tell(f"{decided.endpoint}: serving the bundle")
                replicas.promote(decided.endpoint, bundle_id)
            elif isinstance(decided, Leave):
                self._tell(f"{decided.endpoint}: leaving bundle {decided.bundle_id}")
                replicas.roll_back(decided.endpoint, decided.bundle_id)
        except MusterError as error:
            # The next look shows what the replica does now; what it refuses for good, patience ends.
            self._tell(f"{error} (said {error.endpoint})")
            logger.warning("%s: %s", decided, error)
            self._sleep(_LOOK_S)
            self._out_of_patience(step)

    def _patience(self, step: Deploy, waiting: Wait) -> Step | None:
        if self._clock() - self._phase_began_s <= self._plan.patience_s:
            return None
        if step.phase == Phase.DEPLOY_PHASE_ROLLING_BACK:
            self._out_of_patience(step)
        return Advance(
            Phase.DEPLOY_PHASE_ROLLING_BACK,
            f"waited {self._plan.patience_s:.0f} s for {waiting.what} in vain",
        )

    def _out_of_patience(self, step: Deploy) -> None:
        if (
            step.phase == Phase.DEPLOY_PHASE_ROLLING_BACK
            and self._clock() - self._phase_began_s > self._plan.patience_s
        ):
            raise DeployImpossible(
                "the roll-back does not come to an end; `muster status` shows the replicas. Once they answer,"
                " run `muster deploy --abort` again"
            )

    def _judge(self, step: Deploy, views: Sequence[View], outcome: Outcome) -> Judgement | None:
        """What follows from the trial so far; None outside of trials."""
        for view in views:
            if view.bundles is not None:
                self._memory_bytes.setdefault(view.endpoint, view.bundles.memory_bytes)
        if step.phase not in TRIALS:
            return None
        view = trial_replica(views, Target(step.bundle_id, step.previous_bundle_id))
        if view.bundles is None or not view.bundles.HasField("trial"):
            return None
        growth_bytes = view.bundles.memory_bytes - self._memory_bytes[view.endpoint]
        now = window_of(view.bundles.trial, growth_bytes)
        if self._baseline is None or self._baseline[0] != step.phase:
            # Another phase is judged by what is measured in it.
            self._baseline = (step.phase, now)
        window = now.since(self._baseline[1])
        outcome.windows[phase_name(step.phase)] = window
        role: Role = "shadow" if step.phase == Phase.DEPLOY_PHASE_SHADOWING else "canary"
        return judge(role, window, self._plan.limits)

    def _passed(self, outcome: Outcome, phase: PhaseNumber, reason: str) -> None:
        self._phase_began_s = self._clock()
        self._waiting = ""
        outcome.phases.append(Passed(phase_name(phase), round(self._clock() - self._began_s, 3), reason))
        self._tell(phase_name(phase).replace("_", " ") + (f": {reason}" if reason else ""))

    # --- the log -----------------------------------------------------------------------------------------

    def _beat(self, step: Deploy) -> None:
        """Say that this deployer lives."""
        if self._clock() - self._heartbeat_s >= _HEARTBEAT_S:
            self._record(step, Phase.DEPLOY_PHASE_UNSPECIFIED)
            self._heartbeat_s = self._clock()

    def _record(self, step: Deploy, phase: PhaseNumber, reason: str = "") -> Deploy:
        """Write a phase at whichever replica is the primary by now.

        A deployer that died is replaced once the primary has not heard of it for long enough; one that lives
        is left alone: DeployImpossible.
        """
        wanted = Deploy()
        wanted.CopyFrom(step)
        wanted.phase, wanted.deployer, wanted.detail = phase, self._deployer, reason[:1024]
        give_up_s = self._clock() + self._plan.patience_s
        heard_ms_ago = -1
        while True:
            primary = next((view for view in self._replicas.look() if view.primary), None)
            if primary is not None and primary.bundles is not None:
                try:
                    self._replicas.record(primary.endpoint, wanted)
                    self._heartbeat_s = self._clock()
                    return wanted
                except MusterError as error:
                    heard = primary.bundles.heard_ms_ago
                    ours = step.deploy_id == primary.bundles.deploy.deploy_id
                    if error.reason == "DEPLOY_BUSY" and (heard < heard_ms_ago or not ours):
                        raise DeployImpossible(f"{error}; only one deploy runs at a time") from error
                    if error.reason in ("DEPLOY_REFUSED", "INVALID_FIELDS") or self._clock() > give_up_s:
                        raise DeployImpossible(str(error)) from error
                    heard_ms_ago = heard
            elif self._clock() > give_up_s:
                raise DeployImpossible("no replica is the primary, so no step can be written into the log")
            self._sleep(_LOOK_S)


def live_deploy(views: Sequence[View]) -> Deploy | None:
    """The newest deploy that has not ended, by the primary's word, else by anybody's."""
    ordered = sorted(views, key=lambda view: not view.primary)
    for view in ordered:
        if view.bundles is not None and view.bundles.HasField("deploy"):
            return None if view.bundles.deploy.phase in ENDED else view.bundles.deploy
    return None


def served(views: Sequence[View]) -> str:
    """The one bundle that all replicas serve. Raises: DeployImpossible where they differ."""
    found = {view.endpoint: view.bundles.serving.bundle_id for view in views if view.bundles is not None}
    if len(set(found.values())) != 1:
        told = ", ".join(f"{endpoint} {bundle_id}" for endpoint, bundle_id in found.items())
        raise DeployImpossible(f"the replicas serve different bundles ({told}); restart those that differ")
    return next(iter(found.values()))


def describe(window: Window) -> str:
    """The window in one sentence."""
    arm = window.canary if window.canary.ended else window.shadow
    parts = [f"{arm.answered} answered", f"{arm.failed + arm.refused} not", f"{arm.given_up} given up"]
    parts.append(f"{window.compared} compared")
    if window.agreement is not None and window.overlap is not None:
        parts.append(f"agreement {window.agreement:.2f}, overlap {window.overlap:.2f}")
    return ", ".join(parts)
