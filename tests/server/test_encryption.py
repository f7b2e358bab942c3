"""Whole replicas on an encrypted catalogue: their files tell nothing, their takeovers and builds go on."""

from __future__ import annotations

from pathlib import Path

from muster.v1 import catalogue_pb2, ranking_pb2
from server.catalogue.sqlite import contains
from server.config import load
from server.generation.build import BuildJob, build
from server.privacy.envelope import new_key
from tests.server.replica import Replica, command, run_refused, upsert, wait_until

CANARY = "canarytitle"


def search(replica: Replica) -> list[str]:
    answer = replica.ranking.Search(ranking_pb2.SearchRequest(query=CANARY, page_size=5), timeout=10)
    return sorted(found.title for found in answer.results)


def test_the_log_of_replicas_with_keys_tells_nothing_and_is_taken_over_and_built_from(
    bundle: Path, tmp_path: Path
) -> None:
    keys, data = tmp_path / "store.keys", tmp_path / "data"
    new_key(keys)
    settings = {"catalogue.encryption_keys": str(keys), "generation.rebuild": "false"}
    with (
        Replica(bundle, data, "a", settings).wait_primary() as first,
        Replica(bundle, data, "b", settings).wait_serving() as second,
    ):
        first.apply(upsert("p1", f"{CANARY} one"))
        wait_until(lambda: search(second) == [f"{CANARY} one"], "the standby follows")
        first.process.kill()
        second.wait_primary().apply(upsert("p2", f"{CANARY} two"))
        wait_until(lambda: search(second) == [f"{CANARY} one", f"{CANARY} two"], "the next primary writes")
        event = next(iter(second.catalogue.Watch(catalogue_pb2.WatchRequest(from_sequence=1), timeout=10)))
        assert event.event.event.upsert.title == f"{CANARY} one"
        for name in ("catalogue.sqlite3", "catalogue.sqlite3-wal"):
            assert not contains(data / name, [CANARY.encode()]), name
        for log in (first.log(), second.log()):
            assert keys.read_text().split()[1] not in log
    line = [*command(bundle, data), "--listen", "127.0.0.1:0"]
    code, told = run_refused(line)
    assert code == 2
    assert "name its keys in catalogue.encryption_keys" in told
    job = BuildJob.of(load(None, {"bundle": bundle, "data_dir": data, **settings}))
    assert build(job) is not None
