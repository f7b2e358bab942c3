"""The lease given away on purpose, by real replicas under writes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from muster.client import Client, MusterError, patch
from muster.v1 import admin_pb2
from server.catalogue.failpoint import FREEZE_TAIL
from tests.server.replica import NOT_SERVING, Replica, shoes, wait_until

QUIET = {"generation.rebuild": "false"}


def written_through(endpoints: list[str], change: Callable[[], None]) -> tuple[list[int], list[str]]:
    """Writes one after the other while `change` happens; the epochs acknowledged, and what failed."""
    epochs: list[int] = []
    failures: list[str] = []
    done = threading.Event()

    def write() -> None:
        with Client(endpoints) as client:
            stock = 0
            while not done.is_set():
                stock += 1
                try:
                    epochs.append(client.apply(patch("red-1", stock=stock), deadline_ms=60_000).epoch)
                except MusterError as error:
                    failures.append(repr(error))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_until(lambda: len(epochs) > 5, "writes")
        before = epochs[-1]
        change()
        wait_until(lambda: epochs[-1] > before, "writes in the next epoch")
    finally:
        done.set()
        writer.join()
    return epochs, failures


def test_a_transfer_moves_the_writes_to_a_standby_and_back_without_a_failed_one(
    bundle: Path, tmp_path: Path
) -> None:
    with (
        Replica(bundle, tmp_path / "data", "a", QUIET) as first,
        Replica(bundle, tmp_path / "data", "b", QUIET) as second,
    ):
        pair = {"a": first.wait_serving(), "b": second.wait_serving()}
        wait_until(lambda: bool(first.status().primary), "a primary")
        began = pair[first.status().primary].wait_primary()
        began.apply(*shoes(3))
        endpoints = [first.address, second.address]
        names = [began.name]

        def transfer() -> None:
            with Client(endpoints) as operator:
                names.append(operator.transfer_lease(deadline_ms=30_000).primary)

        for _ in range(2):
            epochs, failures = written_through(endpoints, transfer)
            assert failures == []
            assert epochs == sorted(epochs)
        assert names[0] == names[2] != names[1]
        assert pair[names[1]].health("muster.v1.CatalogueService") == NOT_SERVING
        assert all(replica.process.poll() is None for replica in pair.values())


def test_a_drain_gives_the_lease_away_before_the_notice_is_over(bundle: Path, tmp_path: Path) -> None:
    slow = {**QUIET, "lifecycle.drain_notice_ms": 60_000}
    with Replica(bundle, tmp_path / "data", "a", slow) as first:
        first.wait_primary()
        first.apply(*shoes(3))
        with Replica(bundle, tmp_path / "data", "b", QUIET) as second:
            second.wait_serving()

            def drain() -> None:
                first.admin.Drain(admin_pb2.DrainRequest(), timeout=5)

            _, failures = written_through([first.address, second.address], drain)
            assert failures == []
            assert second.wait_primary().status().role == admin_pb2.ROLE_PRIMARY
            assert first.process.poll() is None, "it still answers reads"


def test_a_standby_has_no_lease_to_give(bundle: Path, tmp_path: Path) -> None:
    with Replica(bundle, tmp_path / "data", "a", {**QUIET, "lease.eligible": "false"}) as standby:
        standby.wait_serving()
        with pytest.raises(grpc.RpcError) as caught:
            standby.admin.TransferLease(admin_pb2.TransferLeaseRequest(), timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_lone_replica_takes_the_lease_back(bundle: Path, tmp_path: Path) -> None:
    settings = {**QUIET, "lease.ttl_ms": 3000}
    with Replica(bundle, tmp_path / "data", "a", settings) as replica:
        epoch = replica.wait_primary().status().epoch
        # It stands aside for two leases, six seconds: nobody has the lease when the call must end.
        answer = replica.admin.TransferLease(admin_pb2.TransferLeaseRequest(), timeout=3)
        assert (answer.primary, answer.epoch) == ("", 0)
        wait_until(lambda: replica.status().epoch > epoch, "the next reign")
        replica.wait_primary()
        assert replica.apply(*shoes(1)).epoch > epoch


@pytest.mark.parametrize("place", ["look", "deliver"])
def test_a_primary_that_no_longer_follows_the_log_gives_the_lease_away(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    settings = {**QUIET, "catalogue.staleness_max_ms": 500}
    frozen = tmp_path / "frozen"
    frozen.mkdir()
    monkeypatch.setenv(FREEZE_TAIL, str(frozen))
    with Replica(bundle, tmp_path / "data", "a", settings) as first:
        first.wait_primary()
        first.apply(*shoes(3))
        monkeypatch.delenv(FREEZE_TAIL)
        with Replica(bundle, tmp_path / "data", "b", settings) as second:
            second.wait_serving()

            def freeze() -> None:
                (frozen / place).touch()

            epochs, failures = written_through([first.address, second.address], freeze)
            assert failures == [] and epochs == sorted(epochs)
            assert second.wait_primary().status().role == admin_pb2.ROLE_PRIMARY
            assert "no longer follows the log, and gives the lease away" in first.log()
            (frozen / place).unlink()
            first.wait_serving()
            assert first.status().role == admin_pb2.ROLE_STANDBY
