"""The audit of one replica: what was done to it by whom, as a chain of records that cannot be changed unseen.

A folder holds files `000001.jsonl`, `000002.jsonl`, ...; a line of them is one record. Each record carries
the hash of the one before it, and its own: SHA-256 over the hash before and the record as canonical JSON
(keys sorted, no spaces). So an edited, missing, doubled or moved record breaks the chain. That the newest
records are missing is not to be seen from what is left: compare with an anchor, the number and hash of a
record, kept elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIRST = "0" * 64
"""What the first record says was before it."""

RECORD_BYTES_MAX = 64 * 1024
_FILE = re.compile(r"[0-9]{6}\.jsonl")
_ANCHOR = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")


class AuditError(Exception):
    """There is no audit to look at, or an anchor that is none."""


@dataclass(frozen=True)
class Record:
    """One thing that happened. number: from 1. unix_us: by the replica's clock. kind: `apply`, `call`,
    `refused`, `gate`, `opened`, `recovered`. subject: who, empty where nobody is asked. address: from where.
    """

    number: int
    unix_us: int
    kind: str
    subject: str
    address: str
    detail: Mapping[str, Any]
    before: str
    hash: str

    def line(self) -> bytes:
        """As it stands in the file."""
        return canonical({**self._plain(), "hash": self.hash}) + b"\n"

    def _plain(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "unix_us": self.unix_us,
            "kind": self.kind,
            "subject": self.subject,
            "address": self.address,
            "detail": dict(self.detail),
            "before": self.before,
        }

    def fits(self) -> bool:
        """Whether its hash is its own."""
        return self.hash == chained(self.before, self._plain())


@dataclass(frozen=True)
class Anchor:
    """A record known from elsewhere, written `NUMBER:HASH`."""

    number: int
    hash: str

    @classmethod
    def parse(cls, text: str) -> Anchor:
        """Raises: AuditError."""
        match = _ANCHOR.fullmatch(text)
        if match is None:
            raise AuditError(
                f"an anchor is NUMBER:HASH, as `muster audit verify` prints it, not {text[:100]!r}"
            )
        return cls(int(match[1]), match[2])

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"


@dataclass(frozen=True)
class Finding:
    """What is wrong at one place: file, line (from 1; 0: the file as a whole), and a sentence."""

    file: str
    line: int
    text: str


@dataclass(frozen=True)
class Verified:
    """What a look at the whole chain found. first: number of the oldest record that is there; head: the
    newest, None where there is none.
    """

    records: int
    first: int
    head: Anchor | None
    findings: Sequence[Finding]


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, no spaces, ASCII alone."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def chained(before: str, plain: Mapping[str, Any]) -> str:
    """The hash of a record that follows the one with the hash `before`."""
    return hashlib.sha256(before.encode("ascii") + canonical(plain)).hexdigest()


def follow(
    last: Anchor, unix_us: int, kind: str, subject: str, address: str, detail: Mapping[str, Any]
) -> Record:
    """The record after `last`."""
    record = Record(last.number + 1, unix_us, kind, subject, address, detail, last.hash, "")
    return Record(
        last.number + 1,
        unix_us,
        kind,
        subject,
        address,
        detail,
        last.hash,
        chained(last.hash, record._plain()),
    )


def parse(line: bytes) -> Record:
    """A record from its line. Raises: ValueError with the reason."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON") from error
    kinds = {
        "number": int,
        "unix_us": int,
        "kind": str,
        "subject": str,
        "address": str,
        "detail": dict,
        "before": str,
        "hash": str,
    }
    if not isinstance(value, dict) or set(value) != set(kinds):
        raise ValueError("not the fields of a record")
    for name, kind in kinds.items():
        if type(value[name]) is not kind:
            raise ValueError(f"{name} is no {kind.__name__}")
    record = Record(**value)
    try:
        same = canonical(value) == line.rstrip(b"\n")
    except (ValueError, RecursionError):
        same = False
    if not same:
        # Two texts that mean the same would have one hash.
        raise ValueError("not written as records are")
    return record


def files(folder: Path) -> list[Path]:
    """The files of an audit, the oldest first. Raises: AuditError where there is none."""
    found = sorted(path for path in folder.glob("*.jsonl") if _FILE.fullmatch(path.name))
    if not found:
        raise AuditError(f"{folder}: no audit there; each replica keeps its own in DATA_DIR/audit/REPLICA")
    return found


def read(folder: Path) -> Iterator[tuple[Path, int, Record | str]]:
    """File, line and record of every line; a text instead of the record says why it is none."""
    for path in files(folder):
        with path.open("rb") as file:
            number = 0
            while line := file.readline(RECORD_BYTES_MAX + 1):
                number += 1
                if len(line) > RECORD_BYTES_MAX:
                    yield path, number, f"longer than {RECORD_BYTES_MAX} bytes"
                    return
                if not line.endswith(b"\n"):
                    yield path, number, "cut off in the middle of a record"
                    continue
                try:
                    yield path, number, parse(line)
                except ValueError as error:
                    yield path, number, str(error)


def verify(folder: Path, anchors: Sequence[Anchor] = ()) -> Verified:
    """Look at every record and every link between two. Raises: AuditError where there is no audit."""
    findings: list[Finding] = []
    wanted = {anchor.number: anchor for anchor in anchors}
    last: Record | None = None
    first = count = 0
    for path, line, found in read(folder):
        if isinstance(found, str):
            findings.append(Finding(path.name, line, found))
            continue
        count += 1
        first = first or found.number
        wrong = _wrong(last, found)
        if wrong:
            findings.append(Finding(path.name, line, wrong))
        anchor = wanted.pop(found.number, None)
        if anchor is not None and anchor.hash != found.hash:
            findings.append(Finding(path.name, line, f"record {found.number} is not the one of the anchor"))
        last = found
    for anchor in wanted.values():
        findings.append(
            Finding(
                "",
                0,
                f"record {anchor.number}, which the anchor names, is not there: records were taken away",
            )
        )
    head = None if last is None else Anchor(last.number, last.hash)
    return Verified(count, first, head, findings)


def _wrong(last: Record | None, found: Record) -> str:
    if not found.fits():
        return f"record {found.number} was changed: its hash is not its own"
    if last is None:
        if found.number == 1 and found.before != FIRST:
            return "the first record says that there was one before it"
        return ""
    if found.number != last.number + 1:
        return f"record {found.number} follows {last.number}: records are missing, doubled or moved"
    if found.before != last.hash:
        return f"record {found.number} does not follow from record {last.number}"
    return ""
