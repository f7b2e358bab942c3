"""Damaged, foreign and newer generations are refused by name; the newest good one is chosen."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.generation.build import make_current, remove_old
from server.generation.open import (
    DenseIndexReport,
    FileDigest,
    GenerationRefused,
    Manifest,
    candidates,
    current_name,
    current_names,
    newest_valid,
    sha256,
    verify,
)


def make(generations: Path, name: str, sequence: int, bundle_id: str = "b") -> Path:
    folder = generations / name
    (folder / "lexical").mkdir(parents=True)
    (folder / "products.bin").write_bytes(bytes(range(256)) * 40)
    (folder / "lexical" / "meta.json").write_text(f'{{"sequence": {sequence}}}')
    files = {
        path.relative_to(folder).as_posix(): FileDigest(sha256(path), path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    }
    dense_index = DenseIndexReport("lists", 8, 0.99, 0.5, (DenseIndexReport("scan", 0, 1.0, 0.9),))
    manifest = Manifest(name, bundle_id, sequence, 1, 10, 32, 64, dense_index, files)
    (folder / "manifest.json").write_text(manifest.to_json())
    return folder


def edit(folder: Path, **values: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (lambda g: flip(g / "products.bin"), "products.bin does not match its checksum"),
    "a truncated file": (
        lambda g: (g / "products.bin").write_bytes(b"x"),
        r"products.bin has 1 bytes, 10240 are declared",
    ),
    "a missing file": (lambda g: (g / "lexical/meta.json").unlink(), "lexical/meta.json is missing"),
    "a foreign file": (lambda g: (g / "extra").write_text("x"), "extra is not declared"),
    "no manifest": (lambda g: (g / "manifest.json").unlink(), "manifest.json cannot be read"),
    "half a manifest": (
        lambda g: (g / "manifest.json").write_text((g / "manifest.json").read_text()[:99]),
        "manifest.json is damaged",
    ),
    "a manifest without files": (lambda g: edit(g, files=None), "manifest.json is damaged"),
    "an unknown key": (lambda g: edit(g, colour="red"), "manifest.json is damaged"),
    "a count that is a text": (lambda g: edit(g, sequence="5"), "sequence is not a whole number"),
    "a count below 0": (lambda g: edit(g, products=-1), "products is -1, below 0"),
    "a size without end": (
        lambda g: edit(g, files={"products.bin": {"sha256": "", "bytes": float("inf")}}),
        "manifest.json is damaged",
    ),
    "a manifest nested beyond measure": (
        lambda g: (g / "manifest.json").write_text("[" * 100_000),
        "manifest.json is damaged",
    ),
    "a newer schema": (lambda g: edit(g, schema_version=3), "schema version 3"),
    "an older schema": (lambda g: edit(g, schema_version=1), "schema version 1"),
    "no dense index": (lambda g: edit(g, dense_index={"kind": "scan"}), "manifest.json is damaged"),
    "another's manifest": (lambda g: edit(g, generation_id="gen-other"), "belongs to gen-other"),
    "a link": (
        lambda g: ((g / "products.bin").rename(g.parent / "p"), (g / "products.bin").symlink_to("../p")),
        "products.bin is missing",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_a_generation_that_is_not_as_declared_is_refused_by_name(
    damage: Callable[[Path], object], reason: str, tmp_path: Path
) -> None:
    folder = make(tmp_path, "gen-b-5-aa", 5)
    declared = verify(folder)
    assert declared.sequence == 5
    assert declared.dense_index.others[0].kind == "scan"
    damage(folder)
    with pytest.raises(GenerationRefused, match=reason) as caught:
        verify(folder)
    assert caught.value.generation == "gen-b-5-aa"


def test_current_is_tried_first_then_the_highest_sequence(tmp_path: Path) -> None:
    for sequence in (5, 30, 7):
        make(tmp_path, f"gen-b-{sequence}-aa", sequence)
    (tmp_path / "gen-b-9-zz").mkdir()
    make_current(tmp_path, "gen-b-7-aa")
    assert [path.name for path in candidates(tmp_path)] == [
        "gen-b-7-aa",
        "gen-b-30-aa",
        "gen-b-5-aa",
        "gen-b-9-zz",
    ]


def test_current_names_the_newest_generation_of_each_bundle(tmp_path: Path) -> None:
    for name in ("gen-aaaaaaaa-5-x", "gen-bbbbbbbb-6-x", "gen-aaaaaaaa-7-x"):
        (tmp_path / name).mkdir()
        make_current(tmp_path, name)
    assert current_names(tmp_path) == ["gen-aaaaaaaa-7-x", "gen-bbbbbbbb-6-x"]
    assert current_name(tmp_path, "first-aaaaaaaa1234") == "gen-aaaaaaaa-7-x"
    assert current_name(tmp_path, "second-bbbbbbbb1234") == "gen-bbbbbbbb-6-x"
    assert current_name(tmp_path, "third-cccccccc1234") == ""
    # One whose folder was removed is forgotten.
    (tmp_path / "gen-bbbbbbbb-6-x").rmdir()
    make_current(tmp_path, "gen-aaaaaaaa-7-x")
    assert current_names(tmp_path) == ["gen-aaaaaaaa-7-x"]


def test_the_last_good_one_is_found_behind_damaged_and_foreign_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "gen-b-5-aa", 5)
    make(tmp_path, "gen-c-40-aa", 40, bundle_id="c")
    flip(make(tmp_path, "gen-b-30-aa", 30) / "products.bin")
    make_current(tmp_path, "gen-b-30-aa")
    found = newest_valid(tmp_path, "b")
    assert found is not None
    assert found[0].name == "gen-b-5-aa"
    assert "gen-b-30-aa refused: products.bin does not match its checksum" in caplog.text


def test_nothing_is_found_where_nothing_is_valid(tmp_path: Path) -> None:
    assert newest_valid(tmp_path, "b") is None
    flip(make(tmp_path, "gen-b-30-aa", 30) / "products.bin")
    assert newest_valid(tmp_path, "b") is None


def test_old_generations_are_removed_and_damaged_ones_are_left(tmp_path: Path) -> None:
    for sequence in (1, 2, 3, 4):
        make(tmp_path, f"gen-b-{sequence}-aa", sequence)
    for sequence in (1, 2):
        make(tmp_path, f"gen-c-{sequence}-aa", sequence, bundle_id="c")
    (tmp_path / "gen-b-4-aa" / "products.bin").unlink()
    remove_old(tmp_path, "b", keep=2)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["gen-b-2-aa", "gen-b-3-aa", "gen-b-4-aa", "gen-c-2-aa"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["bundle_id", "sequence", "epoch", "products", "files", "schema_version", "analyser", "recall_at_100"]


@given(
    content=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()),
    edits=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=2),
)
def test_any_manifest_is_refused_by_name_or_its_generation_can_be_ordered(
    content: bytes, edits: dict[str, object]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        generations = Path(name)
        make(generations, "gen-b-5-aa", 5)
        (make(generations, "gen-b-6-aa", 6) / "manifest.json").write_bytes(content)
        edit(make(generations, "gen-b-7-aa", 7), **edits)
        assert len(candidates(generations)) == 3
        found = newest_valid(generations, "b")
        assert found is not None and found[1].sequence in (5, 7, edits.get("sequence"))
