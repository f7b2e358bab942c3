"""Certificates with seconds to live take the place of good ones, then a file that is none, then good ones
again, while everybody calls."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from drills.failover import Rehearsal
from drills.faults.process import sole_primary
from drills.journal import Journal
from drills.rig.certificates import Authority
from drills.rig.drift import scraped
from drills.rig.issuer import replace_file

DAY_S = 86_400.0
LONG_S = 30 * DAY_S
SHORT, BROKEN, LONG = "short", "broken", "long"
_LOOK_S = 0.25


@dataclass
class Expiry:
    """The fault. For one run. short_s: seconds that the short-lived ones have. broken_after_s,
    exchanged_after_s: from the fault on. exchange: whether good ones come at all."""

    authority: Authority
    short_s: float
    broken_after_s: float
    exchanged_after_s: float
    exchange: bool = True
    name: str = "expiry"
    _steps: list[dict[str, Any]] = field(default_factory=list)
    _metrics: list[dict[str, Any]] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def inject(self, rehearsal: Rehearsal) -> dict[str, Any]:
        """Puts the short-lived ones in place; what follows comes by itself. Raises: Inconclusive where there
        is no single primary."""
        sole_primary(rehearsal.cluster)
        names = [replica.name for replica in rehearsal.cluster.replicas]
        instant_s = time.monotonic()
        ends = self._sign(names, SHORT, self.short_s)
        for target in (self._go_on, self._look):
            thread = threading.Thread(target=target, args=(rehearsal, names, instant_s), daemon=True)
            thread.start()
            self._threads.append(thread)
        return {"instant_s": instant_s, "ends_unix_s": ends, "exchange": self.exchange}

    def rollback(self, rehearsal: Rehearsal) -> None:
        """Nothing more is changed, and every replica has a good file."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        if not self.exchange:
            for replica in rehearsal.cluster.replicas:
                self.authority.sign(replica.name, LONG_S)

    def record(self, journal: Journal) -> None:
        """Writes the steps, and what the replicas published of their certificates, into the history."""
        for one in (*self._steps, *self._metrics):
            at_s = journal.elapsed_s(one["instant_s"])
            journal.extend([{**{k: v for k, v in one.items() if k != "instant_s"}, "at_s": at_s}])

    def _sign(self, names: list[str], step: str, life_s: float) -> int:
        ends = 0
        for name in names:
            ends = self.authority.sign(name, life_s)
            self._step(name, step, ends)
        return ends

    def _step(self, name: str, step: str, ends_unix_s: int) -> None:
        self._steps.append(
            {
                "kind": "exchange",
                "instant_s": time.monotonic(),
                "replica": name,
                "step": step,
                "ends_unix_s": ends_unix_s,
            }
        )

    def _go_on(self, rehearsal: Rehearsal, names: list[str], instant_s: float) -> None:
        if self._ended.wait(instant_s + self.broken_after_s - time.monotonic()):
            return
        for name in names:
            replace_file(self.authority.paths(name)[0], b"-----BEGIN CERTIFICATE-----\nnothing\n")
            self._step(name, BROKEN, 0)
        if self.exchange and not self._ended.wait(instant_s + self.exchanged_after_s - time.monotonic()):
            self._sign(names, LONG, LONG_S)

    def _look(self, rehearsal: Rehearsal, names: list[str], instant_s: float) -> None:
        while not self._ended.wait(_LOOK_S):
            for replica in rehearsal.cluster.replicas:
                try:
                    [page] = scraped([replica.metrics_address()])
                except OSError:
                    # What a busy replica does not tell now it tells a moment later.
                    continue
                failures = page.get("muster_reload_failures_total", {})
                self._metrics.append(
                    {
                        "kind": "published",
                        "instant_s": time.monotonic(),
                        "replica": replica.name,
                        "ends_unix_s": max(
                            page.get("muster_certificate_not_after_seconds", {}).values(), default=0.0
                        ),
                        "failures": sum(failures.values()),
                    }
                )
