"""A process that starts, says of itself what a replica says, and drains on SIGTERM. Its settings file holds
one word: "primary", "die" (at once), "never" (serves), or nothing.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from muster.v1 import admin_pb2
from tests.muster.scripted_replica import ScriptedReplica


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("--config", "--replica", "--listen"):
        parser.add_argument(name, required=True)
    given = parser.parse_args()
    how = Path(given.config).read_text(encoding="utf-8")
    if how == "die":
        return 3
    left = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: left.set())
    with ScriptedReplica(given.replica, {}, listen=given.listen) as replica:
        if how == "never":
            replica.serve(ranking=False, catalogue=False)
        if how == "primary":
            replica.role = admin_pb2.ROLE_PRIMARY
        left.wait()
        replica.serve(ranking=False, catalogue=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
