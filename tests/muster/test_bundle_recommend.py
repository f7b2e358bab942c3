"""The section `recommend/` is refused where it is not exactly what its numbers and digests say."""

from __future__ import annotations

import array
import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.bundle import BundleContentError, BundleDamagedError, BundleError, BundleSchemaError
from muster.bundle.recommend import check_section, parse_section, read_section


def _numbers(kind: str, values: list[float]) -> bytes:
    return array.array(kind, [int(one) for one in values] if kind == "I" else values).tobytes()


def _section(folder: Path) -> dict[str, Any]:
    """A section of three items: one table of two entries, and popularity."""
    files = {
        "card.json": b"{}",
        "items.json": b'{"item_ids": ["a", "b", "c"]}',
        "popularity.bin": _numbers("f", [3.0, 1.0, 0.0]),
        "tables/next.bin": _numbers("I", [0, 1, 2, 2, 1, 0]) + _numbers("f", [2.0, 0.5]),
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return {
        "schema_version": 1,
        "items": 3,
        "repeats": False,
        "history_max": 50,
        "candidates": 0,
        "sources": [
            {"name": "next", "kind": "table", "weight": 0.8, "recency": 1.0, "doubt": 2.0, "entries": 2},
            {"name": "popularity", "kind": "popularity", "weight": 0.2},
        ],
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in files.items()
        },
    }


def _write(folder: Path, value: dict[str, Any]) -> None:
    (folder / "section.json").write_text(json.dumps(value))


def _rewritten(folder: Path, value: dict[str, Any], name: str, content: bytes) -> None:
    """Change a file and its entry, as one does who means it."""
    (folder / name).write_bytes(content)
    value["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def test_a_whole_section_is_read(tmp_path: Path) -> None:
    _write(tmp_path, _section(tmp_path))
    found = read_section(tmp_path)
    assert found.item_ids() == ["a", "b", "c"]
    assert [(one.name, one.kind, one.weight) for one in found.sources] == [
        ("next", "table", 0.8),
        ("popularity", "popularity", 0.2),
    ]


Change = Callable[[Path, dict[str, Any]], None]


def _table(offsets: list[float], places: list[float], weights: list[float]) -> Change:
    content = _numbers("I", offsets) + _numbers("I", places) + _numbers("f", weights)
    return lambda folder, value: _rewritten(folder, value, "tables/next.bin", content)


def _sets(key: str, new: Any) -> Change:
    return lambda folder, value: value.update({key: new})


def _source(**changes: Any) -> Change:
    return lambda folder, value: value["sources"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (_sets("schema_version", 2), BundleSchemaError, "schema version 2"),
        (_sets("schema_version", None), BundleDamagedError, "schema_version"),
        (_sets("items", 0), BundleContentError, "items must be"),
        (_sets("items", 4), BundleContentError, "its numbers need"),
        (_sets("repeats", 1), BundleContentError, "repeats"),
        (_sets("candidates", 5), BundleContentError, "order.txt is needed"),
        (_sets("sources", []), BundleContentError, "there must be one"),
        (_source(name="../x"), BundleContentError, "not the name of a source"),
        (_source(kind="oracle"), BundleContentError, "of one of the kinds"),
        (_source(weight=1.5), BundleContentError, "weight must be a number from 0 to 1"),
        (_source(weight=True), BundleContentError, "weight"),
        (_source(entries=3), BundleContentError, "its numbers need"),
        (_source(name="popularity"), BundleContentError, "names of their own"),
        (_table([0, 2, 1, 2], [1, 0], [1, 1]), BundleContentError, "rows do not follow"),
        (_table([0, 1, 1, 1], [1, 0], [1, 1]), BundleContentError, "rows do not follow"),
        (_table([0, 1, 2, 2], [1, 3], [1, 1]), BundleContentError, "beyond the 3"),
        (_table([0, 1, 2, 2], [1, 0], [1, -1]), BundleContentError, "below 0 or no number"),
        (_table([0, 1, 2, 2], [1, 0], [1, float("nan")]), BundleContentError, "below 0 or no number"),
        (
            lambda folder, value: (folder / "tables/next.bin").write_bytes(b"x" * 32),
            BundleDamagedError,
            "not the one",
        ),
        (lambda folder, value: (folder / "popularity.bin").unlink(), BundleDamagedError, "missing"),
        (
            lambda folder, value: _rewritten(folder, value, "items.json", b'{"item_ids": ["a", "a", "c"]}'),
            BundleContentError,
            "comes twice",
        ),
        (lambda folder, value: _rewritten(folder, value, "more.bin", b""), BundleContentError, "not needed"),
    ],
)
def test_whatever_differs_is_refused_by_name(
    tmp_path: Path, change: Change, kind: type[BundleError], said: str
) -> None:
    value = _section(tmp_path)
    change(tmp_path, value)
    _write(tmp_path, value)
    with pytest.raises(kind, match=said):
        read_section(tmp_path)


def test_a_link_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, _section(tmp_path))
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "popularity.bin").rename(elsewhere)
    (tmp_path / "popularity.bin").symlink_to(elsewhere)
    with pytest.raises(BundleDamagedError, match="not a plain file"):
        read_section(tmp_path)


@given(changes=st.lists(st.tuples(st.integers(0, 31), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_table_of_any_bytes_is_read_as_it_is_or_refused(changes: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        value = _section(folder)
        content = bytearray((folder / "tables/next.bin").read_bytes())
        for at, byte in changes:
            content[at] = byte
        _rewritten(folder, value, "tables/next.bin", bytes(content))
        _write(folder, value)
        try:
            read_section(folder)
        except BundleContentError:
            return
        offsets, places = array.array("I", content[:16]), array.array("I", content[16:24])
        assert list(offsets) == sorted(offsets)
        assert (offsets[0], offsets[-1]) == (0, 2)
        assert max(places) < 3
        assert all(0.0 <= one < float("inf") for one in array.array("f", content[24:]))


def test_in_a_bundle_the_section_is_checked_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "recommend"
    folder.mkdir()
    value = _section(folder)
    _write(folder, value)
    files = ["card.md", "recommend/section.json", *(f"recommend/{name}" for name in value["files"])]
    check_section(tmp_path, files)
    check_section(tmp_path, ["card.md"])
    with pytest.raises(BundleContentError, match=r"recommend/more\.bin: the section does not name it"):
        check_section(tmp_path, [*files, "recommend/more.bin"])
    (folder / "popularity.bin").unlink()
    with pytest.raises(BundleDamagedError, match=r"recommend/popularity\.bin"):
        check_section(tmp_path, files)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    key=st.sampled_from(
        ["schema_version", "items", "repeats", "history_max", "candidates", "sources", "files"]
    ),
    value=_JSON,
)
def test_no_value_of_any_key_is_more_than_an_error_of_the_bundle(key: str, value: Any) -> None:
    described = {
        "schema_version": 1,
        "items": 3,
        "repeats": False,
        "history_max": 5,
        "candidates": 0,
        "sources": [{"name": "popularity", "kind": "popularity", "weight": 1.0}],
        "files": {
            name: {"sha256": "0" * 64, "bytes": size}
            for name, size in (("card.json", 2), ("items.json", 9), ("popularity.bin", 12))
        },
    }
    parse_section(Path(), described)
    described[key] = value
    try:
        parse_section(Path(), described)
    except BundleError:
        return
