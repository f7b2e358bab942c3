"""A replica without gRPC, for the tests: keeps the lease and, while it is primary, appends to the log.

    python -m tests.server.standby.replica_process FOLDER STORE NAME [--hang-in-transaction]

Each acknowledged append is a line `sequence epoch event_id` of FOLDER/NAME.acknowledged. With
--hang-in-transaction the process stops itself inside its fifth write transaction.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path

from muster.v1.catalogue_pb2 import Event, Product
from server.catalogue.errors import StoreError
from server.catalogue.log import LogWriter
from server.catalogue.opening import open_store
from server.catalogue.store import Store, StoreConfig
from server.standby.role import keep_role


def hang_in_transaction(store: Store) -> None:
    """Stop in the fifth transaction, with its locks held."""
    count = 0
    real = store._known_sequences

    def stop(transaction: object, event_ids: list[str]) -> dict[str, int]:
        nonlocal count
        count += 1
        if count == 5:
            os.kill(os.getpid(), signal.SIGSTOP)
        return real(transaction, event_ids)  # type: ignore[arg-type]

    store._known_sequences = stop  # type: ignore[method-assign]


def main(folder: Path, location: str, name: str, *options: str) -> None:
    logging.basicConfig(level="INFO", format=f"{name}: %(message)s")
    store = open_store(location, StoreConfig(client=name))
    if "--hang-in-transaction" in options:
        hang_in_transaction(store)
    stopping = threading.Event()
    keeper = keep_role(
        store,
        replica=name,
        on_primary=lambda epoch: print(f"primary {epoch}", flush=True),
        on_standby=lambda: print("standby", flush=True),
    )
    writer = LogWriter(store, keeper)
    # Not in the handler itself: the main thread may just hold the event's lock.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=stopping.set).start())
    signal.signal(signal.SIGUSR1, lambda *_: threading.Thread(target=keeper.step_down).start())
    writer.start()
    keeper.start()
    count = 0
    with (folder / f"{name}.acknowledged").open("a") as acknowledged:
        while not stopping.wait(0.002):
            count += 1
            event_id = f"{name}-{os.getpid()}-{count}"
            event = Event(event_id=event_id, upsert=Product(product_id="p", title="a product"))
            try:
                appended = writer.append([event], 1.0)
            except StoreError:
                continue
            acknowledged.write(f"{appended.sequence} {appended.epoch} {event_id}\n")
            acknowledged.flush()
    writer.close()
    keeper.stop()
    store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], *sys.argv[4:])
