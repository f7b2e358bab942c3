"""What the log says of deploys, and who may add to it.

The steps of a deploy are events of the log: durable, seen by every replica, and enough for another deployer
to go on where one ended. One deploy is under way at a time, driven by one deployer.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from muster.v1.catalogue_pb2 import Event, SequencedEvent
from muster.v1.deploy_pb2 import Deploy, DeployPhase
from server.catalogue.store import Appended
from server.errors import DeployBusy, DeployRefused, InvalidFields, NotThePrimary

PREFIX = "deploy:"
"""Of the ids of these events, by which they are found among the others."""

_MARK = PREFIX.encode()
_ENDED = (DeployPhase.DEPLOY_PHASE_DONE, DeployPhase.DEPLOY_PHASE_ROLLED_BACK)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_BUNDLE_ID_MAX = 128
_DETAIL_MAX = 1024
# For a step that is written anew: nobody waits for it.
_CARRY_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class DeployState:
    """The log's word. last: the newest step, None: there was no deploy. sequence: its place in the log.
    promoted: bundles that a deploy has put in service, the newest first, each once.
    """

    last: Deploy | None = None
    sequence: int = 0
    promoted: tuple[str, ...] = ()

    @property
    def live(self) -> bool:
        """Whether a deploy is under way."""
        return self.last is not None and self.last.phase not in _ENDED

    @property
    def named(self) -> tuple[str, ...]:
        """The bundles that replicas may need: those promoted, and those of a deploy under way."""
        if self.last is None or not self.live:
            return self.promoted
        return (*self.promoted, self.last.bundle_id, self.last.previous_bundle_id)

    def after(self, step: Deploy, sequence: int) -> DeployState:
        """The state once ``step`` is in the log."""
        promoted = self.promoted
        if step.promoted_bundle_ids:
            promoted = tuple(step.promoted_bundle_ids)
        elif step.phase == DeployPhase.DEPLOY_PHASE_DONE:
            others = (name for name in promoted if name != step.bundle_id)
            # What served before the first deploy was promoted by nobody, but there is a way back to it.
            promoted = tuple(dict.fromkeys((step.bundle_id, *others, step.previous_bundle_id)))
        return DeployState(step, sequence, promoted)


def read_state(events: Iterable[bytes], state: DeployState | None = None) -> DeployState:
    """The state after these serialised SequencedEvents, ascending; others than deploys are passed over."""
    state = state or DeployState()
    for payload in events:
        # Looking for the mark costs far less than parsing every product.
        if _MARK not in payload:
            continue
        sequenced = SequencedEvent.FromString(payload)
        if sequenced.event.WhichOneof("change") == "deploy" and sequenced.sequence > state.sequence:
            state = state.after(sequenced.event.deploy, sequenced.sequence)
    return state


def check_fields(step: Deploy) -> None:
    """Raises: InvalidFields."""
    violations = []
    for name in ("deploy_id", "deployer"):
        if not _NAME.fullmatch(getattr(step, name)):
            violations.append((f"deploy.{name}", "must be 1 to 64 letters, digits, '-', '_' or '.'"))
    for name in ("bundle_id", "previous_bundle_id"):
        if not 1 <= len(getattr(step, name)) <= _BUNDLE_ID_MAX:
            violations.append((f"deploy.{name}", f"must have 1 to {_BUNDLE_ID_MAX} characters"))
    if step.phase not in DeployPhase.values():
        violations.append(("deploy.phase", f"{step.phase} is not a phase"))
    if step.promoted_bundle_ids:
        violations.append(("deploy.promoted_bundle_ids", "is for the primary alone to fill in"))
    if len(step.detail) > _DETAIL_MAX:
        violations.append(("deploy.detail", f"must have at most {_DETAIL_MAX} characters"))
    if violations:
        raise InvalidFields(violations)


def check_step(state: DeployState, step: Deploy, *, silent: bool) -> None:
    """Whether the step may follow. silent: nothing was heard of the present deployer for too long.

    Raises: DeployBusy where another deploy or deployer is at work; DeployRefused where the step does not
    follow.
    """
    last = state.last
    if last is None or not state.live:
        if step.phase != DeployPhase.DEPLOY_PHASE_STARTED:
            raise DeployRefused(f"no deploy {step.deploy_id} is under way")
        return
    if step.deploy_id != last.deploy_id:
        raise DeployBusy(
            f"deploy {last.deploy_id} of bundle {last.bundle_id} is under way"
            f" ({DeployPhase.Name(last.phase).removeprefix('DEPLOY_PHASE_').lower()})"
        )
    if step.deployer != last.deployer and not silent:
        raise DeployBusy(f"deployer {last.deployer} is at work on deploy {last.deploy_id}")
    if (step.bundle_id, step.previous_bundle_id) != (last.bundle_id, last.previous_bundle_id):
        raise DeployRefused(f"deploy {last.deploy_id} is from {last.previous_bundle_id} to {last.bundle_id}")
    if step.phase == DeployPhase.DEPLOY_PHASE_UNSPECIFIED:
        if step.deployer != last.deployer:
            raise DeployRefused("a deployer takes a deploy over by writing its phase anew")
        return
    rolling_back = last.phase == DeployPhase.DEPLOY_PHASE_ROLLING_BACK
    backwards = step.phase < last.phase
    jump = step.phase == DeployPhase.DEPLOY_PHASE_ROLLED_BACK and not rolling_back
    undone = rolling_back and step.phase == DeployPhase.DEPLOY_PHASE_DONE
    if backwards or jump or undone:
        raise DeployRefused(f"{DeployPhase.Name(step.phase)} does not follow {DeployPhase.Name(last.phase)}")


class Writer(Protocol):
    """The part of the log that appends."""

    def append(self, events: Sequence[Event | bytes], timeout_s: float) -> Appended:
        """Make the events durable, all or none."""


class Deploys:
    """The deploys of this catalogue as one replica knows them. Thread-safe.

    writable: whether this replica is the primary and has applied the whole log. primary: its name, if known.
    silent_s: a deployer that was not heard of for so long may be replaced.
    """

    def __init__(
        self,
        state: DeployState,
        *,
        writer: Writer,
        writable: Callable[[], bool],
        primary: Callable[[], str],
        silent_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._writer = writer
        self._writable = writable
        self._primary = primary
        self._silent_s = silent_s
        self._clock = clock
        self._heard_at_s = clock()
        self._recording = threading.Lock()
        self._changing = threading.Lock()

    @property
    def state(self) -> DeployState:
        """What the log says, as far as it is applied here."""
        return self._state

    def follow(self, events: Sequence[bytes]) -> None:
        """Take in committed events, ascending, from one thread."""
        if any(_MARK in payload for payload in events):
            with self._changing:
                self._state = read_state(events, self._state)

    def reign(self) -> None:
        """This replica has become the primary: the deployer has to be heard of here from now on."""
        self._heard_at_s = self._clock()

    def heard_ms_ago(self) -> int | None:
        """Milliseconds since the deployer was heard of; None where none is expected here."""
        if not (self._state.live and self._writable()):
            return None
        return int(1000 * (self._clock() - self._heard_at_s))

    def record(self, step: Deploy, timeout_s: float) -> int:
        """Write a step; its sequence, or 0 where the deployer only said that it lives. The same step again is
        not written again.

        Raises: NotThePrimary; InvalidFields; DeployBusy; DeployRefused; StoreError.
        """
        if not self._writable():
            raise NotThePrimary(self._primary())
        check_fields(step)
        # One after the other: each is checked against the log with all those before it.
        with self._recording:
            state = self._state
            silent = self._clock() - self._heard_at_s > self._silent_s
            if state.last is not None and (step.deploy_id, step.deployer, step.phase) == (
                state.last.deploy_id,
                state.last.deployer,
                state.last.phase,
            ):
                self._heard_at_s = self._clock()
                return state.sequence
            check_step(state, step, silent=silent)
            self._heard_at_s = self._clock()
            if step.phase == DeployPhase.DEPLOY_PHASE_UNSPECIFIED:
                return 0
            return self._append(step, timeout_s)

    def may_fold(self, sequence: int) -> bool:
        """Asked by the primary of an event that is about to leave the log: the newest step is written anew
        first, with all that the steps before it came to. Raises: StoreError; it then stays.
        """
        with self._recording:
            state = self._state
            if state.last is None or sequence != state.sequence:
                return True
            step = Deploy()
            step.CopyFrom(state.last)
            step.promoted_bundle_ids[:] = state.promoted
            self._append(step, _CARRY_TIMEOUT_S)
            return True

    def _append(self, step: Deploy, timeout_s: float) -> int:
        event_id = f"{PREFIX}{step.deploy_id}:{step.phase}:{secrets.token_hex(8)}"
        appended = self._writer.append([Event(event_id=event_id, deploy=step)], timeout_s)
        # The next step is checked against this one, also if it comes before the tailer does.
        with self._changing:
            if appended.sequence > self._state.sequence:
                self._state = self._state.after(step, appended.sequence)
        return appended.sequence
