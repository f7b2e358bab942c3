"""Whole replicas on a PostgreSQL server that comes and goes."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import grpc
import pytest

from drills.rig.postgres import ThrowawayPostgres
from muster.client import Client
from muster.client.errors import translate
from muster.v1 import catalogue_pb2, ranking_pb2
from tests.server.commit_cutter import CommitCutter, Moment
from tests.server.replica import SERVING, Replica, command, run_refused, shoes, upsert, wait_until

pytestmark = pytest.mark.postgresql

RANKING = "muster.v1.RankingService"


def search(replica: Replica) -> ranking_pb2.SearchResponse:
    return replica.ranking.Search(ranking_pb2.SearchRequest(query="shoe", page_size=20), timeout=10)


def refused(replica: Replica) -> grpc.StatusCode | None:
    """The status of a write, or None where it was acknowledged."""
    try:
        replica.apply(upsert("late", "a late shoe"))
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return None


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_reads_go_on_stale_and_writes_fail_until_the_server_is_back(
    bundle: Path, tmp_path: Path, own_server: ThrowawayPostgres, fault: str
) -> None:
    breaks, mends = {
        "killed": (own_server.kill, own_server.start),
        "frozen": (own_server.freeze, own_server.thaw),
    }[fault]
    settings = {
        "catalogue.store": own_server.create_database("muster"),
        "catalogue.busy_ms": 500,
        "generation.rebuild": "false",
    }
    with contextlib.ExitStack() as running:
        first = running.enter_context(Replica(bundle, tmp_path / "data-a", "a", settings)).wait_serving()
        # As on two machines: each has its own folder, and a copy of one file of secrets.
        (tmp_path / "data-b").mkdir()
        shutil.copy2(tmp_path / "data-a/privacy.secrets", tmp_path / "data-b")
        second = running.enter_context(Replica(bundle, tmp_path / "data-b", "b", settings)).wait_serving()
        pair = (first, second)
        primaries: list[Replica] = []

        def primary_found() -> bool:
            primaries[:] = [one for one in pair if one.health("muster.v1.CatalogueService") == SERVING]
            return len(primaries) == 1

        wait_until(primary_found, "one primary")
        sequence = primaries[0].apply(*shoes(20)).sequence
        for one in pair:
            wait_until(lambda one=one: one.status().applied_sequence >= sequence, "all shoes here")  # type: ignore[misc]
        fresh = [search(one) for one in pair]
        breaks()
        for one in pair:
            wait_until(lambda one=one: search(one).receipt.staleness_ms > 3000, "a stale answer")  # type: ignore[misc]
            assert one.health(RANKING) == SERVING
            assert refused(one) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            # A sequence that cannot come is not waited for, however long the caller would.
            ahead = ranking_pb2.SearchRequest(query="shoe", min_sequence=sequence + 1_000)
            with pytest.raises(grpc.RpcError) as caught:
                one.ranking.Search(ahead, timeout=600)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "the log cannot be read" in caught.value.details()
        stale = [search(one) for one in pair]
        for before, after in zip(fresh, stale, strict=True):
            # All twenty; their order may be another plan's.
            assert {r.product_id for r in before.results} == {r.product_id for r in after.results}
            assert len(after.results) == 20
        mends()
        wait_until(lambda: any(refused(one) is None for one in pair), "a write")
        for one in pair:
            wait_until(lambda one=one: search(one).receipt.staleness_ms < 3000, "a fresh answer")  # type: ignore[misc]
            wait_until(lambda one=one: one.status().applied_sequence > sequence, "the late shoe")  # type: ignore[misc]
            assert one.catalogue.Get(catalogue_pb2.GetRequest(product_id="late"), timeout=10).product.title


@pytest.mark.parametrize("moment", Moment)
def test_a_connection_cut_at_the_commit_is_told_as_unknown_and_settled_by_the_client(
    bundle: Path, tmp_path: Path, postgres: ThrowawayPostgres, moment: Moment
) -> None:
    name = f"muster_cut_{moment.name.lower()}"
    postgres.create_database(name)
    with CommitCutter(postgres) as cutter:
        settings = {
            "catalogue.store": cutter.url(name),
            "generation.rebuild": "false",
            "lease.ttl_ms": 5000,
        }
        with Replica(bundle, tmp_path / "data", "a", settings) as replica:
            replica.wait_primary()
            cutter.cut(b"cut-once", moment)
            event = upsert("cut-once", "a shoe")
            with pytest.raises(grpc.RpcError) as caught:
                replica.apply(event)
            told = translate(caught.value, writing=True)
            assert (told.reason, told.outcome) == ("OUTCOME_UNKNOWN", "unknown")
            wait_until(lambda: _duplicates(replica, event) is not None, "a write")
            cutter.cut(b"cut-again", moment)
            with Client(replica.address) as client:
                settled = client.apply(upsert("cut-again", "a shoe"), deadline_ms=60_000)
            assert cutter.cuts == 2
            assert settled.duplicates == (moment is Moment.AFTER)
            assert replica.status().head_sequence == 2


def _duplicates(replica: Replica, event: catalogue_pb2.Event) -> int | None:
    try:
        return replica.apply(event).duplicates
    except grpc.RpcError:
        return None


def test_a_generations_folder_of_another_catalogue_is_refused(
    bundle: Path, tmp_path: Path, postgres: ThrowawayPostgres
) -> None:
    quiet = {"generation.rebuild": "false"}
    addresses = [postgres.create_database(f"muster_{name}") for name in ("one", "two")]
    with Replica(bundle, tmp_path / "data", "a", {**quiet, "catalogue.store": addresses[0]}) as replica:
        replica.wait_primary()
    code, said = run_refused(command(bundle, tmp_path / "data", {**quiet, "catalogue.store": addresses[1]}))
    assert code == 2
    assert "were built from catalogue" in said
    assert "set another data_dir" in said


def test_a_store_that_is_not_there_refuses_the_start_with_its_address(bundle: Path, tmp_path: Path) -> None:
    address = "postgresql+psycopg://muster@127.0.0.1:1/muster"
    code, said = run_refused(command(bundle, tmp_path / "data", {"catalogue.store": address}))
    assert code == 2
    assert address in said
    assert "cannot be reached" in said
