"""Ranking workers that come and go by price, within one replica.

The decision is that of `muster autoscale` (`muster.autoscale.decision`), on the same signal: one more once
the price has stood above its limit, one less once it has stood below. A worker that rests is called back at
once, so both happen sooner than with replicas.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import rankcore
from muster.autoscale.decision import ScalePolicy, ScaleState, decide
from muster.autoscale.prices import price_units
from muster.v1 import admin_pb2

logger = logging.getLogger(__name__)

LOOK_S = 0.1
_STOP_S = 5.0


def worker_policy(least: int, most: int) -> ScalePolicy:
    """When to change the number of workers, which stays within `least` and `most`."""
    return ScalePolicy(
        replicas_min=least,
        replicas_max=most,
        out_above=0.1,
        in_below=0.02,
        out_after_s=LOOK_S,
        in_after_s=10.0,
        cooldown_s=LOOK_S,
    )


class WorkerScaling:
    """A thread that looks at the price and resizes the core's pool.

    units: the price in units of the bundle's plans; None: it decides nothing. resize: lets so many workers
    take work, and returns how many do.
    """

    def __init__(
        self,
        policy: ScalePolicy,
        units: Callable[[], float | None],
        resize: Callable[[int], int],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._units = units
        self._resize = resize
        self._clock = clock
        self._state = ScaleState()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rank-scaling", daemon=True)
        self.workers = policy.replicas_max

    def start(self) -> None:
        """Start the thread, with the least of workers."""
        self.workers = self._resize(self._policy.replicas_min)
        self._thread.start()

    def stop(self) -> None:
        """End it, and let all workers work: what is under way is to end soon."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)
        self.workers = self._resize(self._policy.replicas_max)

    def look(self) -> None:
        """One look, and at most one change."""
        decision = decide(
            self._policy,
            self._state,
            now_s=self._clock(),
            replicas=self.workers,
            units=self._units(),
        )
        self._state = decision.state
        if decision.wanted != self.workers:
            self.workers = self._resize(decision.wanted)
            logger.debug("%d ranking workers: %s", self.workers, decision.reason)

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            try:
                self.look()
            except Exception:
                # All workers are what a replica without scaling has.
                logger.exception("ranking workers are no longer scaled")
                self.workers = self._resize(self._policy.replicas_max)
                return


def scale_workers(
    least: int, engine: Callable[[], rankcore.Engine], status: Callable[[], admin_pb2.StatusResponse]
) -> WorkerScaling | None:
    """Begins to scale the workers of the serving engine, all of which it has now; None where `least` is 0, or
    they are no more than that."""
    most = int(engine().status()["workers"])
    if not 0 < least < most:
        return None
    scaling = WorkerScaling(
        worker_policy(least, most), lambda: price_units(status()), lambda workers: engine().resize(workers)
    )
    scaling.start()
    logger.info("ranking workers: %d to %d, by price", least, most)
    return scaling
