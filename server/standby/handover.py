"""Giving the lease away on purpose, so that nobody notices: tell, finish, step down, see who took it.

Writers are told through health first, and what is still sent here meanwhile is written. Then new writes are
refused (nothing is written of them, and a client sends them to the next primary), those under way are
finished, and the lease is given back, which a standby finds at its next look at the lock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from server.catalogue.errors import StoreError
from server.standby.lease import LeaseRow

logger = logging.getLogger(__name__)

_NOTICE_S = 0.02
_FINISH_S = 1.0
_POLL_S = 0.002


@dataclass(frozen=True)
class Handover:
    """The steps, as the replica carries them out.

    tell: health says that writes go elsewhere. refuse: from here on no write is let in. under_way: writes let
    in before that have not ended. step_down: gives the lease back; False: not yet. lease: as
    everybody sees it; may raise StoreError. notice_s: between telling and refusing.
    """

    tell: Callable[[], None]
    refuse: Callable[[], None]
    under_way: Callable[[], int]
    step_down: Callable[[], bool]
    lease: Callable[[], LeaseRow | None]
    notice_s: float = _NOTICE_S
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def give_away(self) -> None:
        """Do all of it; returns once this replica is no primary, or will be none as soon as its store
        answers."""
        self.tell()
        self.sleep(self.notice_s)
        self.refuse()
        give_up_at = self.clock() + _FINISH_S
        while self.under_way() and self.clock() < give_up_at:
            self.sleep(_POLL_S)
        if not self.step_down():
            logger.warning("stepping down takes longer than expected; it goes on")

    def successor(self, after_epoch: int, wait_s: float) -> tuple[str, int]:
        """Name and epoch of the replica that took the lease after `after_epoch`; "" and 0: none in time."""
        give_up_at = self.clock() + wait_s
        while True:
            try:
                row = self.lease()
            except StoreError as error:
                logger.warning("who has the lease cannot be read: %s", error)
                row = None
            if row is not None and row.epoch > after_epoch:
                return row.holder.replica, row.epoch
            if self.clock() >= give_up_at:
                return "", 0
            self.sleep(_POLL_S)
