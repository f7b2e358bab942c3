"""`python -m drills.tune`."""

from __future__ import annotations

import sys

from drills.tune.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
