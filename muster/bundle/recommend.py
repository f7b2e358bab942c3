"""The section `recommend/` of a bundle: what says which product a shopper takes next.

The section names its own files with their digests, so that it is checked alike inside a bundle and in a
folder of its own. All numbers are little-endian. Needs the standard library alone.
"""

from __future__ import annotations

import array
import itertools
import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muster.bundle.checksums import digest_file
from muster.bundle.content import parse_object
from muster.bundle.errors import BundleContentError, BundleDamagedError, BundleError, BundleSchemaError
from muster.bundle.manifest import FileEntry, read_field

SECTION = "recommend"
SECTION_FILE = "section.json"
SECTION_SCHEMA = 1
CARD_FILE, ITEMS_FILE, POPULARITY_FILE, ORDER_FILE = "card.json", "items.json", "popularity.bin", "order.txt"
MODEL_FILE, VECTORS_FILE, SCALES_FILE = "sequence/model.onnx", "sequence/items.bin", "sequence/scales.bin"
ITEMS_MAX = 10_000_000
ENTRIES_MAX = 1_000_000_000
SECTION_BYTES_MAX = 1 << 20
HISTORY_MAX = 1000
CANDIDATES_MAX = 1000
SOURCE_KINDS = ("table", "popularity", "sequence")
_NAME = re.compile(r"[a-z][a-z_]{0,31}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class SourceEntry:
    """One source of the mixture.

    kind: of SOURCE_KINDS. weight: in the mixture, 0 to 1. recency, doubt: see docs/bundle-format.md. entries:
    of a table. width, positions: of a sequence model.
    """

    name: str
    kind: str
    weight: float
    recency: float = 0.0
    doubt: float = 0.0
    entries: int = 0
    width: int = 0
    positions: int = 0


@dataclass(frozen=True)
class RecommendSection:
    """A section whose files are as declared. repeats: whether what was taken may be named again.
    candidates: that the final order looks at, 0 where there is none.
    """

    folder: Path
    items: int
    repeats: bool
    history_max: int
    candidates: int
    sources: list[SourceEntry]
    files: dict[str, FileEntry]

    def item_ids(self) -> list[str]:
        """Of all items, in the order of their places."""
        return list(parse_object(ITEMS_FILE, (self.folder / ITEMS_FILE).read_bytes())["item_ids"])


def table_file(name: str) -> str:
    """Where a table's file is in the section."""
    return f"tables/{name}.bin"


def read_section(folder: str | Path) -> RecommendSection:
    """Verify a section and open it. folder: that holds section.json.

    Raises: BundleError; its `file` names the offender.
    """
    folder = Path(folder)
    path = folder / SECTION_FILE
    try:
        with path.open("rb") as file:
            data = file.read(SECTION_BYTES_MAX + 1)
    except OSError as error:
        raise BundleDamagedError(SECTION_FILE, f"cannot be read: {error.strerror}") from error
    if len(data) > SECTION_BYTES_MAX:
        raise BundleDamagedError(SECTION_FILE, f"larger than {SECTION_BYTES_MAX} bytes")
    section = parse_section(folder, parse_object(SECTION_FILE, data))
    for name, entry in sorted(section.files.items()):
        file_path = folder / name
        if file_path.is_symlink() or not file_path.is_file():
            raise BundleDamagedError(name, "missing, or not a plain file")
        digest, size = digest_file(file_path, bytes_max=entry.bytes)
        if size != entry.bytes or digest != entry.sha256:
            raise BundleDamagedError(name, "its content is not the one declared")
    _check_items(section)
    for source in section.sources:
        if source.kind == "table":
            _check_table(section, source)
    return section


def check_section(bundle: Path, files: Iterable[str]) -> None:
    """Verify the section of a bundle, where one of its files belongs to one.

    bundle: its folder. files: of the whole bundle. Raises: BundleError naming the file in the bundle.
    """
    if not any(file.startswith(f"{SECTION}/") for file in files):
        return
    try:
        section = read_section(bundle / SECTION)
    except BundleError as error:
        raise type(error)(f"{SECTION}/{error.file}", error.reason) from error
    inside = {f"{SECTION}/{file}" for file in (SECTION_FILE, *section.files)}
    for file in files:
        if file.startswith(f"{SECTION}/") and file not in inside:
            raise BundleContentError(file, "the section does not name it")


def parse_section(folder: Path, value: Mapping[str, Any]) -> RecommendSection:
    """Read section.json. Raises: BundleSchemaError, BundleDamagedError, BundleContentError."""
    schema = value.get("schema_version")
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise BundleDamagedError(SECTION_FILE, "schema_version is missing or not a whole number")
    if schema != SECTION_SCHEMA:
        raise BundleSchemaError(
            SECTION_FILE, f"schema version {schema}, this software reads {SECTION_SCHEMA}"
        )
    items = _whole(value, "items", 1, ITEMS_MAX)
    repeats = value.get("repeats")
    if not isinstance(repeats, bool):
        raise BundleContentError(SECTION_FILE, "repeats must be true or false")
    section = RecommendSection(
        folder,
        items,
        repeats,
        _whole(value, "history_max", 1, HISTORY_MAX),
        _whole(value, "candidates", 0, CANDIDATES_MAX),
        [_source(one) for one in read_field(value, "sources", list, SECTION_FILE)],
        _entries(value),
    )
    _check_files(section)
    return section


def _source(value: Any) -> SourceEntry:
    if not isinstance(value, dict) or value.get("kind") not in SOURCE_KINDS:
        raise BundleContentError(SECTION_FILE, f"a source is of one of the kinds {', '.join(SOURCE_KINDS)}")
    name = value.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BundleContentError(SECTION_FILE, f"{name!r} is not the name of a source (a-z and _)")
    return SourceEntry(
        name,
        value["kind"],
        _number(value, "weight", 1.0),
        _number(value, "recency", 16.0),
        _number(value, "doubt", 1e9),
        _whole(value, "entries", 0, ENTRIES_MAX),
        _whole(value, "width", 0, 4096),
        _whole(value, "positions", 0, HISTORY_MAX),
    )


def _entries(value: Mapping[str, Any]) -> dict[str, FileEntry]:
    found = {}
    for name, entry in read_field(value, "files", dict, SECTION_FILE).items():
        digest = entry.get("sha256") if isinstance(entry, dict) else None
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise BundleDamagedError(SECTION_FILE, f"the entry of {name} has no sha256 in lower-case hex")
        found[str(name)] = FileEntry(digest, _whole(entry, "bytes", 0, 1 << 40))
    return found


def _check_files(section: RecommendSection) -> None:
    """Every file that the section needs is declared with the size that follows from the numbers, and no
    other.
    """
    wanted: dict[str, int | None] = {CARD_FILE: None, ITEMS_FILE: None}
    if section.candidates:
        wanted[ORDER_FILE] = None
    names = [one.name for one in section.sources]
    if not names or len(set(names)) < len(names):
        raise BundleContentError(SECTION_FILE, "sources must have names of their own, and there must be one")
    for one in section.sources:
        if one.kind == "table":
            wanted[table_file(one.name)] = 4 * (section.items + 1) + 8 * one.entries
        elif one.kind == "popularity":
            wanted[POPULARITY_FILE] = 4 * section.items
        else:
            if not one.width or not one.positions:
                raise BundleContentError(SECTION_FILE, f"{one.name} needs width and positions")
            wanted |= {
                MODEL_FILE: None,
                VECTORS_FILE: section.items * one.width,
                SCALES_FILE: 4 * section.items,
            }
    for name in sorted(set(wanted) ^ set(section.files)):
        fault = "is needed and not declared" if name in wanted else "is declared and not needed"
        raise BundleContentError(SECTION_FILE, f"{name} {fault}")
    for name, size in wanted.items():
        if size is not None and section.files[name].bytes != size:
            raise BundleContentError(
                name, f"{section.files[name].bytes} bytes are declared, its numbers need {size}"
            )


def _check_items(section: RecommendSection) -> None:
    ids = parse_object(ITEMS_FILE, (section.folder / ITEMS_FILE).read_bytes()).get("item_ids")
    if not isinstance(ids, list) or len(ids) != section.items:
        raise BundleContentError(ITEMS_FILE, f"item_ids must be a list of {section.items} identifiers")
    if any(not isinstance(one, str) or not one for one in ids) or len(set(ids)) < len(ids):
        raise BundleContentError(ITEMS_FILE, "an identifier is empty, no text, or comes twice")


def _check_table(section: RecommendSection, source: SourceEntry) -> None:
    file = table_file(source.name)
    data = (section.folder / file).read_bytes()
    cut, end = 4 * (section.items + 1), 4 * (section.items + 1) + 4 * source.entries
    offsets, places, weights = (
        _numbers("I", data[:cut]),
        _numbers("I", data[cut:end]),
        _numbers("f", data[end:]),
    )
    if offsets[0] != 0 or offsets[-1] != source.entries or any(b < a for a, b in itertools.pairwise(offsets)):
        raise BundleContentError(file, "its rows do not follow each other from the first entry to the last")
    if places and max(places) >= section.items:
        raise BundleContentError(file, f"it names an item beyond the {section.items}")
    if any(not 0.0 <= weight < math.inf for weight in weights):
        raise BundleContentError(file, "a weight is below 0 or no number")


def _numbers(kind: str, data: bytes) -> array.array[Any]:
    found: array.array[Any] = array.array(kind)
    found.frombytes(data)
    if sys.byteorder == "big":
        found.byteswap()
    return found


def _whole(value: Mapping[str, Any], key: str, least: int, most: int) -> int:
    found = value.get(key, 0)
    if not isinstance(found, int) or isinstance(found, bool) or not least <= found <= most:
        raise BundleContentError(SECTION_FILE, f"{key} must be a whole number from {least} to {most}")
    return found


def _number(value: Mapping[str, Any], key: str, most: float) -> float:
    found = value.get(key, 0.0)
    if not isinstance(found, int | float) or isinstance(found, bool) or not 0.0 <= found <= most:
        raise BundleContentError(SECTION_FILE, f"{key} must be a number from 0 to {most:g}")
    return float(found)
