"""Marked texts that no file may hold afterwards, and the search for them.

A canary is a text that looks like what it stands for (a shopper's name, an address, a card) and occurs
nowhere else: its middle is drawn from the seed. It is looked for as it is and in every form of
`muster.privacy.forms`, in the bytes of each file and in what gzip and Parquet have packed.
"""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from muster.privacy.forms import forms_of

_PART_BYTES = 1 << 20
_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"


@dataclass(frozen=True)
class Canary:
    """name: what it stands for; told in place of the text. text: what is sent. forms: what is looked for."""

    name: str
    text: str

    @property
    def forms(self) -> Mapping[str, bytes]:
        """The bytes to look for, by form."""
        return forms_of(self.text)


@dataclass(frozen=True)
class Leak:
    """A canary was found. place: where; form: as what."""

    place: str
    canary: str
    form: str


def draw(seed: int) -> list[Canary]:
    """One of each kind, the same for the same seed."""
    chance = random.Random(seed)

    def word(length: int = 10) -> str:
        return "".join(chance.choices(_LETTERS, k=length))

    def digits(length: int) -> str:
        return "".join(chance.choices("0123456789", k=length))

    return [
        Canary("shopper", f"shopper-{word()}"),
        Canary("session", f"visit-{word()}"),
        Canary("event id", f"event-{word()}"),
        Canary("receipt", f"receipt-{word()}"),
        Canary("email", f"{word()}@{word(6)}.example.com"),
        Canary("phone", f"+86 138{digits(8)}"),
        Canary("card", with_luhn(f"4{digits(14)}")),
        Canary(
            "identity",
            with_check(f"110105{1950 + chance.randrange(50)}0{chance.randrange(1, 10)}1{digits(4)}"),
        ),
        Canary("token", f"tok_{word(28)}"),
        Canary("query", f"gift for {word()}@{word(6)}.example.org"),
        Canary("metadata", f"meta-{word(14)}"),
    ]


def draw_stored(seed: int) -> list[Canary]:
    """One for each kind of text that the store keeps on purpose, so that only encryption hides it."""
    chance = random.Random(f"stored {seed}")

    def word() -> str:
        return "".join(chance.choices("abcdefghijkmnpqrstuvwxyz", k=12))

    return [
        Canary(name, f"{word()} {word()}")
        for name in ("title", "description", "brand", "category", "attribute", "comment")
    ]


def with_luhn(digits: str) -> str:
    """The digits with the last one of a card."""
    total = 0
    for place, char in enumerate(reversed(digits + "0")):
        value = int(char) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return digits + str(-total % 10)


def with_check(digits: str) -> str:
    """Seventeen digits with the check character of a Chinese identity number."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    total = sum(int(char) * weight for char, weight in zip(digits, weights, strict=True))
    return digits + "10X98765432"[total % 11]


@dataclass
class Search:
    """Looks for canaries. files, size_bytes: what was looked through. unread: what could not be, with the
    reason.
    """

    canaries: list[Canary]
    files: int = 0
    size_bytes: int = 0

    def __post_init__(self) -> None:
        self.leaks: list[Leak] = []
        self.unread: list[str] = []
        self._needles = [
            (canary.name, form, data) for canary in self.canaries for form, data in canary.forms.items()
        ]
        self._longest = max(len(data) for _, _, data in self._needles)

    def folder(self, folder: Path) -> None:
        """Every file below a folder, by its path in it. One that goes away meanwhile is no file of it."""
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                self.file(path, str(path.relative_to(folder)))

    def file(self, path: Path, name: str) -> None:
        """One file, as it lies and unpacked."""
        try:
            with path.open("rb") as file:
                head = file.read(4)
                file.seek(0)
                self._look(name, iter(lambda: file.read(_PART_BYTES), b""))
            if head[:2] == b"\x1f\x8b":
                with gzip.open(path) as packed:
                    self._look(name, iter(lambda: packed.read(_PART_BYTES), b""))
            elif head == b"PAR1":
                self._look(name, _columns(path))
            self.files += 1
        except FileNotFoundError:
            return
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            self.unread.append(f"{name}: {type(error).__name__}")

    def text(self, name: str, content: str | bytes) -> None:
        """What was answered, or printed."""
        data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        self._look(name, iter([data]))
        self.files += 1

    def _look(self, place: str, parts: Iterator[bytes]) -> None:
        before = b""
        for part in parts:
            self.size_bytes += len(part)
            window = before + part
            for canary, form, data in self._needles:
                leak = Leak(place, canary, form)
                if data in window and leak not in self.leaks:
                    self.leaks.append(leak)
            before = window[-self._longest :]


def _columns(path: Path) -> Iterator[bytes]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            for column in batch.columns:
                yield "\0".join(str(value) for value in column.to_pylist()).encode() + b"\0"
