"""Real replicas of a catalogue whose oldest events are folded: new ones, frozen ones, watchers, late
retries.
"""

from __future__ import annotations

import signal
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from muster.v1 import catalogue_pb2 as pb
from server.catalogue.command_line import FILE_NAME
from server.catalogue.export import export_backup, restore_backup
from server.catalogue.verify import verify_store
from tests.server.catalogue.folded import FLIP, damage
from tests.server.replica import Replica, delete, patch, shoes, upsert, wait_until

SETTINGS = {"generation.rebuild": "false", "catalogue.retention_events_max": 20, "lease.ttl_ms": 2000}
STANDBY = {**SETTINGS, "lease.eligible": "false"}


def first_sequence(replica: Replica) -> int:
    """Where the log begins, as a watcher from the first event is told."""
    stream = replica.catalogue.Watch(pb.WatchRequest())
    try:
        sequence = int(next(stream).event.sequence)
        stream.cancel()
        return sequence
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.OUT_OF_RANGE
        status = rpc_status.from_call(error)
        assert status is not None
        info = error_details_pb2.ErrorInfo()
        status.details[0].Unpack(info)
        assert info.reason == "EVENTS_FOLDED"
        return int(info.metadata["first_sequence"])


def found(replica: Replica, sequence: int) -> dict[str, pb.Product]:
    """Products by name, those that are there."""
    products = {}
    for number in range(40):
        request = pb.GetRequest(product_id=f"red-{number}", min_sequence=sequence)
        try:
            products[request.product_id] = replica.catalogue.Get(request, timeout=10).product
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.NOT_FOUND
    return products


def change_much(primary: Replica) -> int:
    """Two hundred and more events of forty products; their last sequence."""
    primary.apply(*shoes(40))
    for stock in range(4):
        primary.apply(*(patch(f"red-{number}", stock=stock) for number in range(0, 40, 2)))
    primary.apply(*(delete(f"red-{number}") for number in range(5)))
    return int(primary.apply(*shoes(3), *(patch(f"red-{number}", price=7.0) for number in (0, 7))).sequence)


def test_new_and_frozen_replicas_load_the_snapshot_and_hold_what_the_primary_holds(
    bundle: Path, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    retried = upsert("red-39", "the very first")
    with (
        Replica(bundle, data_dir, "a", SETTINGS) as primary,
        Replica(bundle, data_dir, "frozen", STANDBY) as frozen,
    ):
        primary.wait_primary()
        written = primary.apply(retried)
        frozen.wait_serving()
        wait_until(lambda: frozen.status().applied_sequence == written.sequence, "the standby follows")
        frozen.process.send_signal(signal.SIGSTOP)
        last = change_much(primary)
        wait_until(lambda: first_sequence(primary) == last - 19, "all but twenty events are folded")
        frozen.process.send_signal(signal.SIGCONT)
        with Replica(bundle, data_dir, "new", STANDBY) as new:
            new.wait_serving()
            expected = found(primary, last)
            assert len(expected) == 38
            assert found(new, last) == expected
            wait_until(lambda: frozen.status().applied_sequence == last, "the frozen standby catches up")
            assert found(frozen, last) == expected
            assert "loading the snapshot" in frozen.log()
            again = primary.apply(retried)
            assert (again.sequence, again.duplicates) == (written.sequence, 1)
            assert found(primary, last)["red-39"].title != "the very first"
            stream = new.catalogue.Watch(pb.WatchRequest(from_sequence=last - 19))
            assert [next(stream).event.sequence for _ in range(20)] == list(range(last - 19, last + 1))
            stream.cancel()


def test_a_backup_of_a_running_catalogue_is_served_by_new_replicas_in_a_later_epoch(
    bundle: Path, tmp_path: Path
) -> None:
    data_dir, restored_dir = tmp_path / "data", tmp_path / "restored"
    file = tmp_path / "backup.gz"
    with Replica(bundle, data_dir, "a", SETTINGS) as primary:
        primary.wait_primary()
        last = change_much(primary)
        expected = found(primary, last)
        written = export_backup(data_dir / FILE_NAME, file)
        epoch = primary.status().epoch
        assert primary.drain() == 0
    assert verify_store(data_dir / FILE_NAME).sound
    assert written.header.head_sequence == last
    assert restore_backup(file, restored_dir / FILE_NAME).digest == written.digest
    with Replica(bundle, restored_dir, "b", SETTINGS) as primary:
        primary.wait_primary()
        assert found(primary, last) == expected
        answer = primary.apply(upsert("after", "the restore"))
        assert answer.sequence == last + 1
        assert answer.epoch > epoch


def test_a_replica_names_the_damaged_event_and_does_not_serve_without_it(
    bundle: Path, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    settings = {**SETTINGS, "catalogue.retention_events_max": 0}
    with Replica(bundle, data_dir, "a", settings) as replica:
        replica.wait_primary()
        replica.apply(*shoes(30))
        replica.kill()
    damage(data_dir / FILE_NAME, f"UPDATE log SET {FLIP} WHERE sequence = 17")
    with Replica(bundle, data_dir, "a", settings) as replica:
        assert replica.process.wait(timeout=90) == 1
        assert "event 17 of" in replica.log()
        assert "does not match its checksum" in replica.log()
