"""Writers of a process take turns."""

from __future__ import annotations

import threading

import pytest

from server.catalogue.errors import StoreUnavailable
from server.catalogue.gate import WriteGate
from tests.server.replica import wait_until


def enter(gate: WriteGate, name: str, entered: list[str], *, urgent: bool = False) -> threading.Thread:
    def run() -> None:
        with gate.enter(urgent=urgent, timeout_s=60):
            entered.append(name)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_the_lease_goes_first_and_the_others_in_the_order_of_their_coming() -> None:
    gate, entered, threads = WriteGate(), [], []
    with gate.enter(urgent=False, timeout_s=1):
        for number, name in enumerate(["first", "second", "third"], start=1):
            threads.append(enter(gate, name, entered))
            wait_until(lambda number=number: len(gate._waiting) == number, "it waits")  # type: ignore[misc]
        threads.append(enter(gate, "lease", entered, urgent=True))
        wait_until(lambda: gate._urgent == 1, "the lease waits")
        assert entered == []
    for thread in threads:
        thread.join(60)
    assert entered == ["lease", "first", "second", "third"]


def test_one_that_waited_in_vain_leaves_its_place_to_the_next() -> None:
    gate, entered = WriteGate(), []
    with gate.enter(urgent=False, timeout_s=1):
        with pytest.raises(StoreUnavailable, match="has not finished in time"):
            gate.enter(urgent=False, timeout_s=0.01).__enter__()
        thread = enter(gate, "next", entered)
        wait_until(lambda: len(gate._waiting) == 1, "it waits")
    thread.join(60)
    assert entered == ["next"]
