"""Takes memory until it is told to stop, or killed: `python ballast.py MEBIBYTES`.

Begins once a line has come on standard input, so that it can be put where the memory is to be taken.
"""

from __future__ import annotations

import sys
import time

_MIB = 1 << 20


def main(arguments: list[str]) -> None:
    """Takes at most so many MiB, each byte of them touched."""
    taken: list[bytearray] = []
    sys.stdin.readline()
    for _ in range(int(arguments[0])):
        taken.append(bytearray(b"\1") * _MIB)
    time.sleep(3600)


if __name__ == "__main__":
    main(sys.argv[1:])
