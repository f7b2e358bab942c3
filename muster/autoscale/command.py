"""`muster autoscale`: looks at the price, decides, and lets local replicas come and go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from muster.autoscale.decision import ScalePolicy, ScaleState, decide


class Scaled(Protocol):
    """What is scaled: `LocalReplicas`."""

    problems: int

    @property
    def count(self) -> int: ...
    @property
    def moving(self) -> bool: ...
    @property
    def serving(self) -> list[str]: ...
    def add(self) -> None: ...
    def remove(self) -> bool: ...
    def look(self) -> None: ...
    def drain_all(self) -> None: ...


@dataclass(frozen=True)
class Account:
    """What came of it. most: replicas that served at once. problems: replicas that did not start or end as
    they should."""

    added: int
    removed: int
    most: int
    problems: int

    def describe(self) -> dict[str, Any]:
        """As an object."""
        return {
            "added": self.added,
            "removed": self.removed,
            "most": self.most,
            "problems": self.problems,
        }


def autoscale(
    replicas: Scaled,
    units: Callable[[Sequence[str]], float | None],
    policy: ScalePolicy,
    tell: Callable[[str], None],
    stop: threading.Event,
    *,
    look_s: float = 0.25,
    clock: Callable[[], float] = time.monotonic,
) -> Account:
    """Scales until `stop` is set, then drains what it has started.

    units: the price of the standing replicas and of those given, in units; None: nobody told. While a replica
    is on its way in or out no other is moved.
    """
    state, added, removed, most = ScaleState(), 0, 0, 0
    try:
        while not stop.is_set():
            replicas.look()
            most = max(most, len(replicas.serving))
            decision = decide(
                policy, state, now_s=clock(), replicas=replicas.count, units=units(replicas.serving)
            )
            if replicas.moving or decision.wanted == replicas.count:
                # A change that is put off is decided anew once nothing moves.
                state = decision.state if decision.wanted == replicas.count else state
            elif decision.wanted > replicas.count:
                tell(f"one more: {decision.reason}")
                replicas.add()
                state, added = decision.state, added + 1
            else:
                tell(f"one less: {decision.reason}")
                removed += replicas.remove()
                state = decision.state
            stop.wait(look_s)
    finally:
        replicas.drain_all()
    return Account(added, removed, most, replicas.problems)
