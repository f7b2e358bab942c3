"""Places at which a drill can freeze this process: inside an append, with its locks held, or in the tailer.

They are armed by the environment alone, never by a setting, a flag or a call: a process that was started
without the variable has no such place. With it, nothing happens until somebody makes the file that it names.
The append that comes upon its file takes it away and stops the process by SIGSTOP, between its INSERT and its
COMMIT. The tailer that comes upon one of its files waits for as long as it is there; the rest of the process
goes on.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

ENVIRONMENT = "MUSTER_DRILL_STOP_IN_APPEND"
FREEZE_TAIL = "MUSTER_DRILL_FREEZE_TAIL"
"""Names a folder: the tailer waits while it holds a file `look`, before it looks at the log, or `deliver`,
before it applies what it has read."""

_FROZEN_STEP_S = 0.01


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


def freeze_tail() -> Callable[[str], None]:
    """What the tailer calls with the name of each of its places; does nothing unless the environment names a
    folder."""
    named = os.environ.get(FREEZE_TAIL)
    if not named:
        return lambda place: None
    folder = Path(named)
    logger.warning("a drill may freeze this replica's tailer: %s is %s", FREEZE_TAIL, folder)

    def reached(place: str) -> None:
        if (folder / place).exists():
            logger.warning("the tailer waits, as %s asks", folder / place)
            while (folder / place).exists():
                time.sleep(_FROZEN_STEP_S)
            logger.warning("the tailer goes on")

    return reached
