"""Starts a command that the kernel kills when the drill dies: `python tether.py DRILL_PID COMMAND...`.

Becomes the command by exec, so the pid stays. A separate program rather than code between fork and exec: the
drill has gRPC's threads running when it brings a replica back, and forking Python code under them can hang.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    """Ties this process to its parent, then becomes the command."""
    parent, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            # The drill died before the line above took effect.
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
