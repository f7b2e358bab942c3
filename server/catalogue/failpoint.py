"""A place inside an append at which a drill can freeze this process, with the locks of the append held.

It is armed by the environment alone, never by a setting, a flag or a call: a process that was started without
the variable has no such place. With it, nothing happens until somebody makes the file that it names; the
append that comes upon the file takes it away and stops the process by SIGSTOP, between its INSERT and its
COMMIT.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

ENVIRONMENT = "MUSTER_DRILL_STOP_IN_APPEND"


def stop_in_append() -> Callable[[], None] | None:
    """What an append calls before it commits; None unless the environment names a file."""
    named = os.environ.get(ENVIRONMENT)
    if not named:
        return None
    path = Path(named)
    logger.warning("a drill may stop this process inside an append: %s is %s", ENVIRONMENT, path)

    def reached() -> None:
        try:
            path.unlink()
        except OSError:
            return
        logger.warning("stopping inside an append, as %s asks", path)
        os.kill(os.getpid(), signal.SIGSTOP)

    return reached
