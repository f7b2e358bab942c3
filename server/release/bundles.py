"""The bundles of one replica: which one serves, which is being tried out, which one there is a way back to.

    load -> VERIFYING -> BUILDING -> READY -- promote --> serving, the one before stays ready
                 \\______________\\-> REFUSED               |
                                       roll back  <--------+

Every bundle that is ready follows the log, so changing over loses neither freshness nor a request: requests
that run finish on the engine they began with, new ones go to the other, and both engines share the workers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import rankcore
from muster.bundle import BundleError, check_gate, read_gate
from muster.v1 import admin_pb2 as pb
from server import affinity
from server.config import Settings
from server.errors import DeployRefused
from server.generation.build import step_back
from server.generation.open import open_newest
from server.generation.swap import LogReader
from server.release.held import BundleRefused, Held, hold, open_models, verified_bundle
from server.release.shelf import Shelf

logger = logging.getLogger(__name__)

# A generation that fails to build so many times in a row will not get better by itself.
_BUILD_FAILURES_MAX = 3
_LOOK_S = 0.1
# Copies of bundles kept beyond those that are held or named by the log.
_SPARE_COPIES = 2


class FrontDesk(Protocol):
    """The part of ``rankcore.Front`` that decides which bundle answers."""

    def serve(self, engine: rankcore.Engine) -> None:
        """New requests go to this engine."""

    def try_out(self, candidate: rankcore.Engine | None) -> None:
        """Begin a trial of a candidate, or end the one under way."""

    def share(self, shadow: float, canary: float) -> bool:
        """Compare, and have the candidate answer, these shares."""

    def measured(self) -> dict[str, Any] | None:
        """What the trial has measured."""


@dataclass
class Candidate:
    """A bundle on its way. held: set once it is ready."""

    bundle_id: str
    state: pb.BundleState.ValueType = pb.BUNDLE_STATE_VERIFYING
    detail: str = ""
    held: Held | None = None
    left: threading.Event = field(default_factory=threading.Event)


class _Left(Exception):
    """The candidate was let go while it was loaded."""


class Bundles:
    """Thread-safe. One change at a time.

    serving: the first bundle. replica: name, for receipts. keep: bundles whose copies must stay, because the
    log names them.
    """

    def __init__(
        self,
        settings: Settings,
        serving: Held,
        front: FrontDesk,
        log: LogReader,
        *,
        replica: str,
        primary: Callable[[], bool],
        keep: Callable[[], Collection[str]],
        gated: Callable[[Mapping[str, Any]], None] = lambda told: None,
    ) -> None:
        self._settings = settings
        self._front = front
        self._log = log
        self._replica = replica
        self._primary = primary
        self._keep = keep
        self._gated = gated
        self._shelf = Shelf(settings.bundles_dir)
        self._serving = serving
        self._previous: Held | None = None
        self._candidate: Candidate | None = None
        self._shares = (0.0, 0.0)
        # Held while events are applied, so that bundles change places between two deliveries.
        self._applying = threading.Lock()
        self._changing = threading.RLock()
        self._loading: threading.Thread | None = None
        self._closed = False

    # --- what serves -------------------------------------------------------------------------------------

    @property
    def serving(self) -> Held:
        """The bundle that answers."""
        return self._serving

    def start(self) -> None:
        """Serve the first bundle."""
        self._serving.served.start()
        self._front.serve(self._serving.engine)

    def apply(self, events: Sequence[bytes]) -> int:
        """Apply committed events to every bundle that is ready; the sequence applied by the serving one."""
        return self._follow(lambda held: held.served.apply(events))

    def reload(self) -> int:
        """Bring every bundle that is ready to the snapshot of the log; the sequence applied by the serving
        one."""
        return self._follow(lambda held: held.reload())

    def _follow(self, step: Callable[[Held], int]) -> int:
        with self._applying:
            sequence = step(self._serving)
            for held in self._followers():
                try:
                    step(held)
                except Exception as error:
                    logger.exception("bundle %s cannot follow the log and is let go", held.bundle_id)
                    self._drop(held, f"it cannot follow the log: {error}")
        return sequence

    def observe(self, epoch: int, head_sequence: int) -> None:
        """Tell every engine what the log looks like."""
        for held in (self._serving, *self._followers()):
            held.engine.observe(epoch, head_sequence)

    def lose_log(self) -> None:
        """Tell every engine that the log cannot be read, until it is observed again."""
        for held in (self._serving, *self._followers()):
            held.engine.lose_log()

    def _followers(self) -> list[Held]:
        candidate = self._candidate
        held = (self._previous, candidate.held if candidate is not None else None)
        return [one for one in held if one is not None]

    # --- changes -----------------------------------------------------------------------------------------

    def load(self, folder: Path, bundle_id: str) -> None:
        """Begin to load a bundle beside the serving one. Raises: DeployRefused."""
        with self._changing:
            if self._serving.bundle_id == bundle_id:
                return
            candidate = self._candidate
            if candidate is not None and candidate.state != pb.BUNDLE_STATE_REFUSED:
                if candidate.bundle_id == bundle_id:
                    return
                raise DeployRefused(
                    f"bundle {candidate.bundle_id} is held as a candidate; roll it back first"
                )
            if self._closed:
                raise DeployRefused("this replica is leaving")
            self._candidate = candidate = Candidate(bundle_id)
            self._loading = threading.Thread(
                target=self._load, args=(candidate, folder), name="load-bundle", daemon=True
            )
            self._loading.start()

    def share(self, bundle_id: str, *, shadow: float | None = None, canary: float | None = None) -> None:
        """Compare, or have the candidate answer, a share of the requests; None: as before.

        Raises: DeployRefused.
        """
        with self._changing:
            self._ready(bundle_id)
            shares = (
                self._shares[0] if shadow is None else shadow,
                self._shares[1] if canary is None else canary,
            )
            self._front.share(*shares)
            self._shares = shares

    def promote(self, bundle_id: str) -> None:
        """Serve the candidate; the one before stays ready. Raises: DeployRefused."""
        with self._changing:
            if self._serving.bundle_id == bundle_id:
                return
            held = self._ready(bundle_id)
            before = self._previous
            with self._applying:
                self._front.serve(held.engine)
                self._previous, self._serving, self._candidate = self._serving, held, None
            self._end_trial()
            logger.info("serving bundle %s, %s stays ready", bundle_id, self._previous.bundle_id)
            if before is not None:
                self._let_go(before)

    def roll_back(self, bundle_id: str) -> None:
        """Leave a bundle: as a candidate, or as the one promoted. Raises: DeployRefused."""
        with self._changing:
            candidate = self._candidate
            if candidate is not None and candidate.bundle_id == bundle_id:
                candidate.left.set()
                self._end_trial()
                with self._applying:
                    self._candidate = None
                if candidate.held is not None:
                    self._let_go(candidate.held)
                logger.info("candidate %s let go", bundle_id)
            if self._serving.bundle_id != bundle_id:
                return
            if self._previous is None:
                raise DeployRefused(
                    f"no bundle before {bundle_id} is held here any more; deploy the wanted one instead"
                )
            with self._applying:
                self._front.serve(self._previous.engine)
                left, self._serving, self._previous = self._serving, self._previous, None
            logger.info("serving bundle %s again, %s let go", self._serving.bundle_id, bundle_id)
            self._let_go(left)

    def unload(self) -> None:
        """Let go of the bundle before the last promotion."""
        with self._changing:
            with self._applying:
                before, self._previous = self._previous, None
            if before is not None:
                logger.info("bundle %s let go", before.bundle_id)
                self._let_go(before)

    def close(self) -> None:
        """Let go of everything."""
        with self._changing:
            self._closed = True
            self._front.try_out(None)
            if self._candidate is not None:
                self._candidate.left.set()
        if self._loading is not None:
            self._loading.join()
        for held in (*self._followers(), self._serving):
            held.close()

    def _ready(self, bundle_id: str) -> Held:
        candidate = self._candidate
        if candidate is None or candidate.bundle_id != bundle_id:
            raise DeployRefused(f"bundle {bundle_id} is not held as a candidate; load it first")
        if candidate.held is None:
            name = pb.BundleState.Name(candidate.state).removeprefix("BUNDLE_STATE_").lower()
            text = f"bundle {bundle_id} is {name}"
            raise DeployRefused(f"{text}: {candidate.detail}" if candidate.detail else text)
        return candidate.held

    def _end_trial(self) -> None:
        self._front.try_out(None)
        self._shares = (0.0, 0.0)

    def _drop(self, held: Held, why: str) -> None:
        """A bundle beside the serving one is of no use any more; called from the tailer's thread."""
        candidate = self._candidate
        if candidate is not None and candidate.held is held:
            self._end_trial()
            candidate.held, candidate.state, candidate.detail = None, pb.BUNDLE_STATE_REFUSED, why
        elif self._previous is held:
            self._previous = None
        self._let_go(held)

    def _let_go(self, held: Held) -> None:
        """Close without making the caller wait."""
        threading.Thread(target=self._close, args=(held,), name="let-go", daemon=True).start()

    def _close(self, held: Held) -> None:
        held.close()
        self._clear_shelf()

    def _clear_shelf(self) -> None:
        held = {one.bundle_id for one in (self._serving, *self._followers())}
        if self._candidate is not None:
            held.add(self._candidate.bundle_id)
        # Other replicas of the machine hold what the log names, as this one does or soon will.
        self._shelf.clear(held | set(self._keep()), spare=_SPARE_COPIES)

    # --- loading -----------------------------------------------------------------------------------------

    def _load(self, candidate: Candidate, folder: Path) -> None:
        # Beside requests with deadlines, as builds are.
        step_back(self._settings.generation.niceness)
        affinity.roam()
        started = time.monotonic()
        try:
            held = self._prepare(candidate, folder)
        except _Left:
            return
        except (BundleRefused, BundleError, rankcore.RankError, OSError) as error:
            logger.error("bundle %s: %s; %s serves on", candidate.bundle_id, error, self._serving.bundle_id)
            candidate.detail = str(error)
            candidate.state = pb.BUNDLE_STATE_REFUSED
        except Exception as error:
            logger.exception("bundle %s could not be loaded", candidate.bundle_id)
            candidate.detail = f"it could not be loaded: {error}"
            candidate.state = pb.BUNDLE_STATE_REFUSED
        else:
            logger.info("bundle %s is ready after %.1f s", held.bundle_id, time.monotonic() - started)

    def _prepare(self, candidate: Candidate, folder: Path) -> Held:
        try:
            self._pass_gate(candidate, folder)
            copy = self._shelf.put(folder, candidate.bundle_id)
            bundle = verified_bundle(copy, self._settings)
        except BundleError as error:
            raise BundleRefused([f"bundle {folder} refused: {error}"]) from error
        generations = self._settings.generations_dir
        models = open_models(self._settings, bundle, self._replica, beside=self._serving.engine)
        try:
            held = hold(
                self._settings,
                models,
                lambda engine, open_dense: open_newest(engine, generations, open_dense),
                self._log,
                primary=lambda: self._serving.engine is models.engine and self._primary(),
            )
        except BaseException:
            models.close()
            raise
        try:
            candidate.state = pb.BUNDLE_STATE_BUILDING
            self._await_generation(candidate, held)
            self._catch_up(candidate, held)
        except BaseException:
            held.close()
            raise
        return held

    def _pass_gate(self, candidate: Candidate, folder: Path) -> None:
        """Refuse a bundle that has not been through the drills that are asked for. Raises: BundleError."""
        release = self._settings.release
        if not release.gate:
            return
        # Of the folder that was named: the copy on the shelf may be older than the verdict.
        gate = read_gate(folder)
        told = {"bundle_id": candidate.bundle_id, "profile": release.gate}
        try:
            check_gate(gate, candidate.bundle_id, release.gate, release.trusted_keys)
        except BundleError as error:
            self._gated({**told, "verdict": "refused", "why": str(error)})
            raise
        override = gate.override if gate is not None else ""
        self._gated({**told, "verdict": "overridden" if override else "held", "why": override})
        if gate is not None and gate.override:
            logger.warning("bundle %s: its drills are overridden: %s", candidate.bundle_id, gate.override)

    def _await_generation(self, candidate: Candidate, held: Held) -> None:
        """Serve the newest generation of the bundle, built on this machine first where there is none.

        Replicas of a machine wait for the one that builds: its lock is the machine's.
        """
        empty = self._serving.served.generation.products() == 0
        if empty or held.served.generation.generation_id:
            held.served.start()
            return
        while True:
            if candidate.left.is_set():
                raise _Left
            held.renewal.look()
            if held.served.generation.generation_id:
                return
            if held.renewal.failures >= _BUILD_FAILURES_MAX:
                raise BundleRefused([f"no generation can be built for bundle {held.bundle_id}"])
            held.renewal.start_build()
            candidate.left.wait(_LOOK_S)

    def _catch_up(self, candidate: Candidate, held: Held) -> None:
        held.served.catch_up(self._serving.served.generation.applied_sequence())
        held.warm_up()
        held.renewal.start()
        with self._changing, self._applying:
            # What came in meanwhile; from here on the tailer brings it.
            held.served.catch_up(self._serving.served.generation.applied_sequence())
            if candidate.left.is_set():
                raise _Left
            self._front.try_out(held.engine)
            candidate.held = held
            candidate.state = pb.BUNDLE_STATE_READY

    # --- status ------------------------------------------------------------------------------------------

    def describe(self, bundles: pb.ReplicaBundles) -> None:
        """Fill in what is held and what was measured."""
        with self._changing:
            serving, previous, candidate = self._serving, self._previous, self._candidate
            bundles.shadow_share, bundles.canary_share = self._shares
            measured = self._front.measured()
        _describe_held(bundles.serving, serving)
        if previous is not None:
            _describe_held(bundles.previous, previous)
        if candidate is not None:
            if candidate.held is not None:
                _describe_held(bundles.candidate, candidate.held)
            bundles.candidate.bundle_id = candidate.bundle_id
            bundles.candidate.state = candidate.state
            bundles.candidate.detail = candidate.detail
        if measured is not None:
            _describe_trial(bundles.trial, measured)


def _describe_held(message: pb.HeldBundle, held: Held) -> None:
    generation = held.served.generation
    message.bundle_id = held.bundle_id
    message.state = pb.BUNDLE_STATE_READY
    message.generation_id = generation.generation_id
    message.applied_sequence = generation.applied_sequence()


def _describe_trial(trial: pb.Trial, measured: Mapping[str, Any]) -> None:
    for name in ("serving", "canary", "shadow"):
        arm, counts = getattr(trial, name), measured[name]
        arm.answered = counts["answered"]
        arm.failed = counts["failed"]
        arm.refused = counts["refused"]
        arm.given_up = counts["given_up"]
        arm.worth_total = counts["worth_total"]
        if name != "shadow":
            arm.latency_buckets.extend(counts["latency"])
        for tier, buckets in counts["work"].items():
            arm.tiers.add(tier=tier, buckets=buckets)
    for key in ("compared", "dropped", "agreement_total", "overlap_total"):
        setattr(trial, key, measured[key])
