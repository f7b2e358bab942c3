"""The chain of an audit: whatever is changed in it is found, and what cannot be is said."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster import audit

START_US = 1_800_000_000_000_000


def write(folder: Path, records: int, *, per_file: int = 4) -> list[audit.Record]:
    """A chain over several files."""
    last, made = audit.Anchor(0, audit.FIRST), []
    for number in range(records):
        record = audit.follow(last, START_US + number, "call", "ops", "192.0.2.1", {"path": f"/x/{number}"})
        last = audit.Anchor(record.number, record.hash)
        made.append(record)
        with (folder / f"{number // per_file + 1:06d}.jsonl").open("ab") as file:
            file.write(record.line())
    return made


def lines(folder: Path) -> list[bytes]:
    return b"".join(path.read_bytes() for path in audit.files(folder)).splitlines(keepends=True)


def put(folder: Path, all_lines: list[bytes]) -> None:
    for path in audit.files(folder):
        path.unlink()
    (folder / "000001.jsonl").write_bytes(b"".join(all_lines))


def test_a_whole_chain_over_several_files_is_found_good(tmp_path: Path) -> None:
    made = write(tmp_path, 10)
    found = audit.verify(tmp_path, [audit.Anchor(7, made[6].hash)])
    assert (found.records, found.first, found.findings) == (10, 1, [])
    assert str(found.head) == f"10:{made[-1].hash}"


def edited(all_lines: list[bytes]) -> list[bytes]:
    return [*all_lines[:3], all_lines[3].replace(b'"ops"', b'"eve"'), *all_lines[4:]]


def edited_and_hashed_again(all_lines: list[bytes]) -> list[bytes]:
    value = json.loads(all_lines[3])
    value["subject"] = "eve"
    del value["hash"]
    value["hash"] = audit.chained(value["before"], value)
    return [*all_lines[:3], audit.canonical(value) + b"\n", *all_lines[4:]]


@pytest.mark.parametrize(
    "tamper",
    [
        edited,
        edited_and_hashed_again,
        lambda all_lines: [*all_lines[:3], *all_lines[4:]],
        lambda all_lines: [*all_lines[:3], all_lines[4], all_lines[3], *all_lines[5:]],
        lambda all_lines: [*all_lines[:4], *all_lines[3:]],
        lambda all_lines: [*all_lines[:3], all_lines[3].replace(b":", b": ", 1), *all_lines[4:]],
        lambda all_lines: [*all_lines[:-1], all_lines[-1][:-9]],
        lambda all_lines: [*all_lines[:3], b"\n", *all_lines[3:]],
    ],
    ids=["edited", "rehashed", "deleted", "moved", "doubled", "rewritten", "torn", "blank"],
)
def test_what_was_changed_is_found(tmp_path: Path, tamper: Callable[[list[bytes]], list[bytes]]) -> None:
    write(tmp_path, 10)
    put(tmp_path, tamper(lines(tmp_path)))
    assert audit.verify(tmp_path).findings


def test_missing_newest_records_are_found_by_an_anchor_alone(tmp_path: Path) -> None:
    made = write(tmp_path, 10)
    put(tmp_path, lines(tmp_path)[:6])
    assert not audit.verify(tmp_path).findings
    found = audit.verify(tmp_path, [audit.Anchor(10, made[-1].hash)])
    assert ["were taken away" in one.text for one in found.findings] == [True]


def test_a_chain_written_anew_is_found_by_an_anchor_alone(tmp_path: Path) -> None:
    made = write(tmp_path, 10)
    folder = tmp_path / "forged"
    folder.mkdir()
    last = audit.Anchor(0, audit.FIRST)
    for number in range(10):
        record = audit.follow(last, START_US, "call", "eve", "", {"path": f"/{number}"})
        last = audit.Anchor(record.number, record.hash)
        with (folder / "000001.jsonl").open("ab") as file:
            file.write(record.line())
    assert not audit.verify(folder).findings
    assert audit.verify(folder, [audit.Anchor(10, made[-1].hash)]).findings


def test_archived_files_leave_a_chain_that_begins_later(tmp_path: Path) -> None:
    write(tmp_path, 10)
    (tmp_path / "000001.jsonl").unlink()
    found = audit.verify(tmp_path)
    assert (found.records, found.first, found.findings) == (6, 5, [])


def test_where_there_is_no_audit_is_said(tmp_path: Path) -> None:
    with pytest.raises(audit.AuditError, match="no audit there"):
        audit.verify(tmp_path)
    with pytest.raises(audit.AuditError, match="NUMBER:HASH"):
        audit.Anchor.parse("7")


@given(st.binary(max_size=300))
def test_no_line_breaks_the_reader(line: bytes) -> None:
    try:
        record = audit.parse(line)
    except ValueError:
        return
    assert record.line() == line.rstrip(b"\n") + b"\n"


@given(st.integers(0, 10**6), st.integers(0, 255), st.integers(0, 5_000))
def test_no_changed_byte_of_a_record_passes_and_no_depth_breaks_the_reader(
    at: int, byte: int, deep: int
) -> None:
    made = audit.follow(audit.Anchor(0, audit.FIRST), START_US, "call", "ops", "192.0.2.1", {"path": "/x"})
    line = bytearray(made.line())
    at %= len(line) - 1
    changed = bytes([*line[:at], byte, *line[at + 1 :]])
    try:
        record = audit.parse(changed)
    except ValueError:
        pass
    else:
        assert record.fits() == (changed == bytes(line))
    nested = bytes(line).replace(b'"/x"', b"[" * deep + b"]" * deep)
    with contextlib.suppress(ValueError):
        assert not audit.parse(nested).fits()
