"""The audit of a replica: on the disk when it must be, whole after a crash, never in the way."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import grpc
import pytest

from muster import audit as chain
from muster.v1 import admin_pb2
from server import audit as audit_module
from server.audit import ADDRESS_KEY, CALLER_KEY, Audit, audited
from server.services import unary

OPS = ("ops", "192.0.2.1")


def records(folder: Path) -> list[chain.Record]:
    found = [record for _, _, record in chain.read(folder)]
    assert all(isinstance(record, chain.Record) for record in found)
    return [record for record in found if isinstance(record, chain.Record)]


def opened(folder: Path, **options: Any) -> Audit:
    return Audit(folder, "a", **options)


def test_an_operators_call_is_on_the_disk_when_it_returns(tmp_path: Path) -> None:
    audit = opened(tmp_path)
    audit.call(OPS, "/muster.v1.AdminService/Drain", "OK", {})
    last = records(tmp_path)[-1]
    assert (last.kind, last.subject, last.address) == ("call", "ops", "192.0.2.1")
    assert last.detail == {"path": "/muster.v1.AdminService/Drain", "outcome": "OK"}
    audit.close()


def test_writes_are_summed_up_by_caller_with_their_sequences(tmp_path: Path) -> None:
    audit = opened(tmp_path)
    audit.wrote(("loader", ""), 10, 0, 110)
    audit.wrote(("loader", ""), 5, 5, 90)
    audit.wrote(("loader", ""), 4, 1, 113)
    audit.wrote(("other", ""), 1, 0, 114)
    audit.close()
    found = {record.subject: dict(record.detail) for record in records(tmp_path) if record.kind == "apply"}
    assert found["loader"] == {
        "calls": 3,
        "events": 19,
        "duplicates": 6,
        "first_sequence": 101,
        "last_sequence": 113,
    }
    assert found["other"]["first_sequence"] == found["other"]["last_sequence"] == 114


def test_a_restart_goes_on_with_the_chain_and_cuts_off_what_a_crash_has_torn(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.call(OPS, "/x", "OK", {})
    first.close()
    (path,) = chain.files(tmp_path)
    with path.open("ab") as file:
        file.write(b'{"number":3,"unix')
    second = opened(tmp_path)
    second.close()
    assert [record.kind for record in records(tmp_path)] == ["opened", "call", "recovered", "opened"]
    assert not chain.verify(tmp_path).findings


def test_files_change_at_their_size_and_the_chain_goes_on(tmp_path: Path) -> None:
    audit = opened(tmp_path, file_bytes_max=1_000)
    for number in range(12):
        audit.call(OPS, f"/{number}", "OK", {})
    audit.close()
    again = opened(tmp_path, file_bytes_max=1_000)
    again.close()
    assert len(chain.files(tmp_path)) > 3
    found = chain.verify(tmp_path)
    assert (found.records, found.findings) == (14, [])


def test_a_damaged_last_record_is_left_as_evidence(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.call(OPS, "/x", "OK", {})
    first.close()
    (path,) = chain.files(tmp_path)
    damaged = path.read_bytes().replace(b'"ops"', b'"eve"}')
    path.write_bytes(damaged)
    again = opened(tmp_path)
    assert (first.damaged, again.damaged) == (None, True)
    again.close()
    assert path.read_bytes() == damaged
    assert chain.verify(tmp_path).findings


def test_a_full_disk_stops_nobody_and_its_records_follow_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = opened(tmp_path)
    whole = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(audit_module.os, "fsync", full)
    audit.call(OPS, "/lost", "OK", {})
    audit.call(OPS, "/too", "OK", {})
    assert [record.kind for record in records(tmp_path)] == ["opened"]
    monkeypatch.setattr(audit_module.os, "fsync", whole)
    audit.flush()
    audit.close()
    assert [record.detail.get("path") for record in records(tmp_path)] == [None, "/lost", "/too"]
    assert not chain.verify(tmp_path).findings


def test_a_flood_of_refusals_is_counted_and_not_written_one_by_one(tmp_path: Path) -> None:
    audit = opened(tmp_path)
    for _ in range(500):
        audit.refused("/muster.v1.AdminService/Drain", "192.0.2.9", "", "signature")
    assert sum(record.kind == "refused" for record in records(tmp_path)) <= 60
    audit.close()


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    audit = Audit(None, "a")
    audit.call(OPS, "/x", "OK", {})
    audit.wrote(OPS, 1, 0, 1)
    audit.close()
    assert list(tmp_path.iterdir()) == []


class Context:
    """Stands for gRPC's, as far as a handler uses it."""

    def __init__(self) -> None:
        self.status: Any = None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ((CALLER_KEY, "ops"), (ADDRESS_KEY, "192.0.2.1"))

    def code(self) -> grpc.StatusCode | None:
        return self.status

    def abort_with_status(self, status: Any) -> None:
        self.status = status.code
        raise RuntimeError("aborted")


class Counted:
    """Stands for the series of a method."""

    def start(self) -> float:
        return 0.0

    def finish(self, started: float, code: grpc.StatusCode, **told: Any) -> None:
        """Nothing is published."""


@pytest.mark.parametrize(("fails", "outcome"), [(False, "OK"), (True, "INTERNAL")])
def test_a_call_leaves_who_what_and_its_outcome(tmp_path: Path, fails: bool, outcome: str) -> None:
    def answer(request: Any, context: Any) -> Any:
        if fails:
            raise ZeroDivisionError
        return request

    audit = opened(tmp_path)
    path, look = "/muster.v1.AdminService/PromoteBundle", "/muster.v1.AdminService/Status"
    plain = {name: unary(answer, Counted()) for name in (path, look)}  # type: ignore[arg-type]
    methods = audited(plain, audit)
    request = admin_pb2.PromoteBundleRequest(bundle_id="b-7")
    context = Context()
    if fails:
        with pytest.raises(RuntimeError):
            methods[path].unary_unary(request, context)
    else:
        methods[path].unary_unary(request, context)
        methods[look].unary_unary(request, context)
    audit.close()
    (call,) = [record for record in records(tmp_path) if record.kind == "call"]
    assert (call.subject, call.detail) == ("ops", {"path": path, "outcome": outcome, "bundle_id": "b-7"})
