"""Messages between places: they take time, overtake each other, get lost, and do not cross a partition."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.simulation.clock import MS, US, Action, Clock

STORE = "store"


class Network:
    """Places are names. lost, repeated, delayed: chances for each message."""

    def __init__(self, clock: Clock, draw: random.Random) -> None:
        self.clock = clock
        self.draw = draw
        self.lost = self.repeated = self.delayed = 0.0
        self._cut: dict[tuple[str, str], int] = {}

    def cut(self, one: str, other: str, for_ns: int) -> None:
        """No message passes between the two for so long."""
        until_ns = self.clock.now_ns + for_ns
        self._cut[one, other] = self._cut[other, one] = until_ns

    def heal(self) -> None:
        """End all partitions."""
        self._cut.clear()

    def connected(self, one: str, other: str) -> bool:
        """No partition lies between the two now."""
        return not self._cut or self._cut.get((one, other), 0) <= self.clock.now_ns

    def send(
        self, source: str, target: str, arrive: Action, lost: Action | None = None, *, twice: bool = False
    ) -> None:
        """Carry a message. lost: happens instead, at once, where it is lost. twice: it may be repeated."""
        chance = self.draw.random
        if not self.connected(source, target) or (self.lost and chance() < self.lost):
            if lost is not None:
                lost()
            return
        self.clock.after(self.delay_ns(), self._unless_cut(source, target, arrive, lost))
        if twice and self.repeated and chance() < self.repeated:
            self.clock.after(self.delay_ns(), self._unless_cut(source, target, arrive, None))

    def delay_ns(self) -> int:
        """How long one message takes."""
        chance = self.draw.random
        if self.delayed and chance() < self.delayed:
            return int(chance() * 400 * MS)
        return int((0.05 + chance() * 0.95) * MS) + 20 * US

    def _unless_cut(
        self, source: str, target: str, arrive: Action, lost: Action | None
    ) -> Callable[[], None]:
        def come() -> None:
            if self.connected(source, target):
                arrive()
            elif lost is not None:
                lost()

        return come
