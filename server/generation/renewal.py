"""Keeps the served generation fresh: swaps to a newer one, and has one built when too much is newer than
it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import server
from server import affinity
from server.generation.build import (
    EXIT_BUILT,
    EXIT_BUSY,
    BuildJob,
    building,
    job_arguments,
    step_back,
)
from server.generation.open import GenerationRefused, OpenDense, Opener, current_name, open_one
from server.generation.swap import Served

logger = logging.getLogger(__name__)

# After a failed build the next one waits, twice as long each time, so that a full disk is not kept busy.
_RETRY_S_MIN = 5.0
_RETRY_S_MAX = 300.0
# A standby waits this many times as long for quiet, so that normally the primary alone starts builds.
_STANDBY_PATIENCE = 3.0


@dataclass(frozen=True)
class RenewalPolicy:
    """When a build starts by itself; see the section `generation` of the settings."""

    rebuild: bool
    delta_products_min: int
    delta_share_min: float
    delta_products_max: int
    quiet_s: float
    poll_s: float

    def wants_build(self, *, products: int, delta_products: int, quiet_s: float, primary: bool) -> bool:
        """Whether enough is newer than the generation, and the changes have paused (or are too many to
        wait).
        """
        if not self.rebuild:
            return False
        built = max(0, products - delta_products)
        if delta_products <= max(self.delta_products_min, self.delta_share_min * built):
            return False
        patience = 1.0 if primary else _STANDBY_PATIENCE
        return quiet_s >= self.quiet_s * patience or (primary and delta_products > self.delta_products_max)


class Renewal:
    """A thread that looks for a newer generation and decides when to build one. Ends with ``stop``."""

    def __init__(
        self,
        engine: Opener,
        served: Served,
        job: BuildJob,
        policy: RenewalPolicy,
        *,
        primary: Callable[[], bool],
        on_swap: Callable[[], None],
        open_dense: OpenDense | None = None,
    ) -> None:
        """primary: whether this replica is. on_swap: called once a newer generation is served. open_dense: as
        for ``open_newest``.
        """
        self._engine = engine
        self._served = served
        self._job = job
        self._policy = policy
        self._primary = primary
        self._on_swap = on_swap
        self._open_dense = open_dense
        self._generations = Path(job.generations)
        self._refused: set[str] = set()
        self._build: subprocess.Popen[bytes] | None = None
        self._build_lock = threading.Lock()
        self._failures = 0
        self._retry_s = _RETRY_S_MIN
        self._not_before = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="renewal", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread, and the build this replica has started."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        with self._build_lock:
            if self._build is not None and self._build.poll() is None:
                self._build.terminate()
                try:
                    self._build.wait(timeout_s)
                except subprocess.TimeoutExpired:
                    self._build.kill()
                    self._build.wait()

    @property
    def failures(self) -> int:
        """Builds of this replica that have failed since the last one that did not."""
        return self._failures

    def building(self) -> bool:
        """Whether a generation is being built on this machine."""
        return building(self._generations)

    def start_build(self) -> bool:
        """Start a build in a process of its own. False: one is running on this machine already."""
        with self._build_lock:
            if self._stopping.is_set() or (self._build is not None and self._build.poll() is None):
                return False
            if self.building():
                return False
            root = str(Path(server.__file__).parent.parent)
            paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
            self._build = subprocess.Popen(
                job_arguments(self._job),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": paths},
                start_new_session=True,
            )
            logger.info("building a generation, process %d", self._build.pid)
            return True

    def look(self) -> None:
        """One round: reap the build, swap to a newer generation, start a build if one is due."""
        self._reap()
        name = current_name(self._generations, self._engine.bundle_id)
        if name and name != self._served.generation.generation_id and name not in self._refused:
            self._swap_to(name)
        generation = self._served.generation
        if time.monotonic() >= self._not_before and self._policy.wants_build(
            products=generation.products(),
            delta_products=generation.delta_products(),
            quiet_s=self._served.quiet_s(),
            primary=self._primary(),
        ):
            self.start_build()

    def _swap_to(self, name: str) -> None:
        started = time.monotonic()
        try:
            generation = open_one(self._engine, self._generations / name, self._open_dense)
        except GenerationRefused as refused:
            self._refused.add(name)
            logger.error(
                "%s; generation %s stays", refused, self._served.generation.generation_id or "(empty)"
            )
            return
        if generation.sequence < self._served.generation.sequence:
            self._refused.add(name)
            return
        self._served.replace(generation)
        logger.info(
            "serving generation %s (sequence %d) after %.0f ms",
            name,
            generation.sequence,
            (time.monotonic() - started) * 1000,
        )
        # The planner's prices were measured on the generation before; a much larger one costs more.
        self._on_swap()

    def _reap(self) -> None:
        with self._build_lock:
            if self._build is None:
                return
            code = self._build.poll()
            if code is None:
                return
            self._build = None
        if code == EXIT_BUILT:
            self._failures = 0
            self._retry_s = _RETRY_S_MIN
        elif code != EXIT_BUSY:
            self._failures += 1
            logger.error("the build ended with code %d; the next one waits %.0f s", code, self._retry_s)
            self._not_before = time.monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, _RETRY_S_MAX)

    def _run(self) -> None:
        # Opening and warming up a generation takes a core for a while, beside requests with deadlines.
        step_back(self._job.niceness)
        affinity.roam()
        while not self._stopping.wait(self._policy.poll_s):
            try:
                self.look()
            except Exception:
                logger.exception("a look for a newer generation failed; the present one stays")
