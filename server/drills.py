"""What drills may do to this replica while it serves, and the one that is under way.

A drill asks before it begins and again every second. Nobody can keep a stranger from sending floods; this
keeps drills to what the operator allows, to one at a time, and lets another operator end one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from server.errors import DrillBusy, DrillRefused

logger = logging.getLogger(__name__)

SILENT_S = 5.0
"""A drill that was not heard of for so long counts as ended."""

_ABORTED_MAX = 64


@dataclass(frozen=True)
class Asked:
    """What a drill is about to do. replicas: that it harms. rate_per_s: requests that it adds, over all."""

    drill_id: str
    drill: str
    fault: str
    replicas: int
    rate_per_s: float


@dataclass
class UnderWay:
    """A drill. began_s, heard_s: on the clock."""

    asked: Asked
    began_s: float
    heard_s: float


class Drills:
    """Safe to use from several threads.

    allowed: faults. replicas_max: that one drill may harm. rate_max_per_s: requests that one may add. clock:
    seconds, monotonic.
    """

    def __init__(
        self,
        allowed: Collection[str],
        replicas_max: int,
        rate_max_per_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.allowed = tuple(allowed)
        self.replicas_max = replicas_max
        self.rate_max_per_s = rate_max_per_s
        self._clock = clock
        self._lock = threading.Lock()
        self._under_way: UnderWay | None = None
        self._aborted: dict[str, None] = {}

    def begin(self, asked: Asked) -> bool:
        """Begins a drill, or hears that it is still there; returns whether it was aborted.

        Raises: DrillRefused for what is not allowed, DrillBusy while another one is under way.
        """
        with self._lock:
            if asked.drill_id in self._aborted:
                return True
            self._check(asked)
            now_s, under_way = self._clock(), self._heard()
            if under_way is None:
                logger.warning("drill %s begins: %s, id %s", asked.drill, asked.fault, asked.drill_id)
                self._under_way = UnderWay(asked, now_s, now_s)
            elif under_way.asked != asked:
                raise DrillBusy(
                    f"drill {under_way.asked.drill} ({under_way.asked.drill_id}) is under way against this"
                    " replica"
                )
            else:
                under_way.heard_s = now_s
            return False

    def end(self, drill_id: str) -> None:
        """Hears that a drill is undone; of one that is not under way nothing comes."""
        with self._lock:
            if self._under_way is not None and self._under_way.asked.drill_id == drill_id:
                logger.warning("drill %s ended, id %s", self._under_way.asked.drill, drill_id)
                self._under_way = None
            self._aborted.pop(drill_id, None)

    def abort(self) -> str:
        """Has the drill under way end; returns its id, "" where there is none."""
        with self._lock:
            under_way = self._heard()
            if under_way is None:
                return ""
            drill_id = under_way.asked.drill_id
            logger.warning("drill %s is aborted, id %s", under_way.asked.drill, drill_id)
            self._aborted[drill_id] = None
            while len(self._aborted) > _ABORTED_MAX:
                del self._aborted[next(iter(self._aborted))]
            self._under_way = None
            return drill_id

    def under_way(self) -> tuple[Asked, float] | None:
        """The drill and the seconds since it began; None: there is none."""
        with self._lock:
            found = self._heard()
            return None if found is None else (found.asked, self._clock() - found.began_s)

    def _heard(self) -> UnderWay | None:
        under_way = self._under_way
        if under_way is not None and self._clock() - under_way.heard_s > SILENT_S:
            logger.warning("drill %s was not heard of any more", under_way.asked.drill)
            self._under_way = under_way = None
        return under_way

    def _check(self, asked: Asked) -> None:
        if asked.fault not in self.allowed:
            allowed = ", ".join(self.allowed) or "nothing"
            raise DrillRefused(
                f"{asked.fault!r} is not among the faults that drills may cause here (drills.allowed:"
                f" {allowed})"
            )
        if asked.replicas > self.replicas_max:
            raise DrillRefused(
                f"{asked.replicas} replicas would be harmed, and drills.blast_radius_replicas is"
                f" {self.replicas_max}"
            )
        if asked.rate_per_s > self.rate_max_per_s:
            raise DrillRefused(
                f"{asked.rate_per_s:g} requests a second would be added, and drills.rate_max_per_s is"
                f" {self.rate_max_per_s:g}"
            )
