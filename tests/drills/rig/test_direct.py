from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from drills.rig.cluster import Cluster, ClusterPlan
from drills.rig.direct import SILENT, UNREACHED, DirectReads, _outcome
from drills.rig.load import OK, UNSENT
from drills.rig.wire import Answer

Scripted = Callable[..., ClusterPlan]


def test_one_replica_is_asked_alone_and_found_again(scripted: Scripted, tmp_path: Path) -> None:
    with Cluster(scripted(1), tmp_path / "cluster") as cluster:
        cluster.start()
        [replica] = cluster.replicas
        reads = DirectReads(replica.name, replica.address, ["a query"], deadline_ms=5000.0)

        async def ask() -> tuple[str, dict[str, object]]:
            return await reads.call(0, time.monotonic())

        async def drive() -> None:
            await reads.open()
            status, told = await ask()
            assert (status, told["asked"], told["replica"]) == (OK, replica.name, replica.name)
            assert (await reads.call(1, time.monotonic() - 6.0))[0] == UNSENT
            await asyncio.to_thread(cluster.kill, replica)
            while (await ask())[0] != UNREACHED:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(cluster.restart, replica)
            assert (await ask())[0] == OK
            await reads.close()

        asyncio.run(drive())


def test_silence_and_refusal_are_told_apart() -> None:
    over = Answer("DEADLINE_EXCEEDED", message="no answer within the deadline")
    assert _outcome(over, {"asked": "a"}, late=True)[0] == SILENT
    refused = Answer("DEADLINE_EXCEEDED", message="the budget is too small for any plan")
    status, told = _outcome(refused, {"asked": "a"}, late=False)
    assert (status, told["detail"]) == ("DEADLINE_EXCEEDED", "the budget is too small for any plan")
