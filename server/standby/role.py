"""The role of this replica, kept by a lease and told to the rest of the server.

    keeper = keep_role(store, replica="a", on_primary=..., on_standby=...)
    writer = LogWriter(store, keeper, on_commit=tailer.wake)
    keeper.start(); writer.start()
    ...
    writer.close(); keeper.stop()

The callbacks run one after the other in a thread of their own, so they may wait (a new primary first catches
up with the log) without holding up a renewal. They only announce: whether this replica may write at a given
moment is what `LeaseKeeper.writing_epoch` says. Where `on_primary` fails, this
replica gives the lease to another.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from server.catalogue.log import end_process
from server.catalogue.store import Store
from server.standby.lease import LeaseConfig, LeaseKeeper

logger = logging.getLogger(__name__)


class RoleAnnouncer:
    """Passes changes of role on, in order, in its own thread. Starts by itself; ends with the process."""

    def __init__(
        self,
        on_primary: Callable[[int], None],
        on_standby: Callable[[], None],
        give_up: Callable[[], object],
    ) -> None:
        """on_primary: given the epoch. on_standby: this replica stopped being the primary.

        give_up: called when on_primary failed, so that no primary reigns without serving.
        """
        self._give_up = give_up
        self._on_primary = on_primary
        self._on_standby = on_standby
        self._changes: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="role-announcer", daemon=True).start()

    def primary(self, epoch: int) -> None:
        """Queue the news that this replica is the primary of `epoch`."""
        self._changes.put(epoch)

    def standby(self, reason: str) -> None:
        """Queue the news that this replica is not the primary any more."""
        self._changes.put(None)

    def _run(self) -> None:
        while True:
            epoch = self._changes.get()
            try:
                if epoch is None:
                    self._on_standby()
                else:
                    self._on_primary(epoch)
            except Exception:
                if epoch is None:
                    logger.exception("becoming a standby failed")
                else:
                    logger.exception("becoming the primary of epoch %d failed, so it steps down", epoch)
                    self._give_up()


def keep_role(
    store: Store,
    *,
    replica: str,
    on_primary: Callable[[int], None],
    on_standby: Callable[[], None],
    config: LeaseConfig | None = None,
    eligible: Callable[[], bool] = lambda: True,
) -> LeaseKeeper:
    """Wire a `LeaseKeeper` to the store, its way of taking over, and the callbacks; `start` it when ready to
    serve.

    replica: its name, for people. eligible: this replica has caught up and could serve as primary; asked,
    from the keeper's thread, before each attempt. Raises: StoreUnavailable if the primary's lock cannot be
    used.
    """
    config = config or LeaseConfig()
    takeover = store.takeover(replica, ttl_ns=config.ttl_ns)
    announcer = RoleAnnouncer(on_primary, on_standby, lambda: keeper.step_down())
    keeper = LeaseKeeper(
        store,
        takeover.lock,
        takeover.executioner,
        takeover.me,
        announcer,
        config=config,
        eligible=eligible,
        end_process=end_process,
    )
    return keeper
