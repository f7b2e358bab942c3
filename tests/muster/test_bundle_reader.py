"""A reader refuses whatever is not exactly what was written, and names the file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.bundle import (
    BundleContentError,
    BundleDamagedError,
    BundleError,
    BundleSchemaError,
    read_bundle,
    read_manifest,
    write_bundle,
)
from muster.bundle.content import check_lexical, check_plans, check_text, parse_object
from muster.bundle.manifest import Manifest
from tests.muster.bundle_files import bundle_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "small"
    write_bundle(target, "small", bundle_files(), created_unix_s=1_700_000_000, muster_version="0.1.0")
    return target


def edit_manifest(folder: Path, **changed: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_a_bundle_reads_as_it_was_written(folder: Path) -> None:
    bundle = read_bundle(folder)
    assert bundle.bundle_id.startswith("small-")
    assert len(bundle.bundle_id) == len("small-") + 12
    assert [plan["tier"] for plan in bundle.plans()] == ["lexical", "hybrid", "late"]
    assert bundle.card() == {"seed": 1}
    assert bundle.bytes == sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"
    )


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "encoder/model.onnx", "plans.json", "ranker/late.txt", "card.md"]
)
def test_a_changed_byte_is_refused_with_the_file(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BundleDamagedError, match="changed") as caught:
        read_bundle(folder)
    assert caught.value.file == name


@pytest.mark.parametrize("kept", [0, 1, -1])
def test_a_truncated_file_is_refused_with_its_name(folder: Path, kept: int) -> None:
    path = folder / "encoder" / "model.onnx"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BundleDamagedError, match="truncated") as caught:
        read_bundle(folder)
    assert caught.value.file == "encoder/model.onnx"


def test_a_file_larger_than_declared_is_refused_with_its_name(folder: Path) -> None:
    with (folder / "card.md").open("ab") as file:
        file.write(b" ")
    with pytest.raises(BundleDamagedError, match="larger than the 11 bytes declared") as caught:
        read_bundle(folder)
    assert caught.value.file == "card.md"


def test_a_missing_file_is_refused_with_its_name(folder: Path) -> None:
    (folder / "golden.json").unlink()
    with pytest.raises(BundleDamagedError, match="missing") as caught:
        read_bundle(folder)
    assert caught.value.file == "golden.json"


@pytest.mark.parametrize("name", ["notes.txt", "encoder/model.onnx.data"])
def test_an_undeclared_file_is_refused_with_its_name(folder: Path, name: str) -> None:
    (folder / name).write_text("more")
    with pytest.raises(BundleDamagedError, match="does not declare") as caught:
        read_bundle(folder)
    assert caught.value.file == name


def test_a_link_in_place_of_a_file_is_refused(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "card.md"
    (folder / "card.md").rename(elsewhere)
    (folder / "card.md").symlink_to(elsewhere)
    with pytest.raises(BundleDamagedError, match="not a plain file") as caught:
        read_bundle(folder)
    assert caught.value.file == "card.md"


def test_a_newer_schema_is_refused_whatever_else_it_says(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"schema_version": 2, "layout": "another"}')
    with pytest.raises(BundleSchemaError, match="schema version 2 is newer") as caught:
        read_bundle(folder)
    assert caught.value.file == "manifest.json"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"schema_version": "1"}, "schema_version"),
        ({"schema_version": True}, "schema_version"),
        ({"bundle_id": "small-000000000000"}, "does not belong"),
        ({"bundle_id": 7}, "bundle_id"),
        ({"created_unix_s": "today"}, "created_unix_s"),
        ({"files": []}, "files"),
        ({"files": {}}, "not declared"),
        ({"files": {"../outside": {"sha256": "0" * 64, "bytes": 1}}}, "not a file path"),
        ({"files": {"/etc/hosts": {"sha256": "0" * 64, "bytes": 1}}}, "not a file path"),
        ({"files": {"card.md": {"sha256": "short", "bytes": 1}}}, "sha256"),
        ({"files": {"card.md": {"sha256": "0" * 64, "bytes": -1}}}, "size in bytes"),
        ({"files": {"card.md": 3}}, "sha256"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    folder: Path, changed: dict[str, Any], message: str
) -> None:
    edit_manifest(folder, **changed)
    with pytest.raises(BundleError, match=message) as caught:
        read_manifest(folder)
    assert caught.value.file == "manifest.json"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_broken_manifest_is_refused(folder: Path, data: bytes) -> None:
    (folder / "manifest.json").write_bytes(data)
    with pytest.raises(BundleDamagedError) as caught:
        read_bundle(folder)
    assert caught.value.file == "manifest.json"


def test_a_manifest_without_end_is_not_read_to_its_end(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(BundleDamagedError, match="larger than"):
        read_manifest(folder)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleDamagedError, match="no bundle"):
        read_bundle(tmp_path)
    with pytest.raises(BundleDamagedError, match="not a folder"):
        read_bundle(tmp_path / "absent")


def test_a_well_declared_bundle_that_says_nonsense_is_refused(folder: Path) -> None:
    # The digests are right: only the content check can see this one.
    from muster.bundle.checksums import digest_file
    from muster.bundle.manifest import FileEntry, make_manifest

    (folder / "plans.json").write_text('{"plans": []}')
    old: Manifest = read_manifest(folder)
    entries = {name: FileEntry(*digest_file(folder / name)) for name in old.files}
    manifest = make_manifest("small", entries, created_unix_s=1, muster_version="0.1.0")
    (folder / "manifest.json").write_text(manifest.to_json())
    with pytest.raises(BundleContentError) as caught:
        read_bundle(folder)
    assert caught.value.file == "plans.json"


def test_reading_a_bundle_needs_the_standard_library_alone() -> None:
    script = (
        "import sys, muster.bundle\n"
        "heavy = {'numpy', 'torch', 'onnx', 'onnxruntime', 'google', 'grpc', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(content=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_no_manifest_and_say_so(content: bytes) -> None:
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(content)
    assert caught.value.file == "manifest.json"


@given(
    key=st.sampled_from(["schema_version", "bundle_id", "created_unix_s", "muster_version", "files"]),
    value=JSON,
)
def test_a_manifest_with_any_value_changed_is_read_or_refused(key: str, value: object) -> None:
    entries = {name: {"sha256": "0" * 64, "bytes": 1} for name in bundle_files()}
    good = {
        "schema_version": 1,
        "bundle_id": "x",
        "created_unix_s": 1,
        "muster_version": "1",
        "files": entries,
    }
    with pytest.raises(BundleError):  # the name never fits the files
        Manifest.from_json(json.dumps(good | {key: value}))


@given(content=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()), keys=st.data())
def test_any_json_is_what_a_file_must_say_or_is_refused_by_name(content: bytes, keys: st.DataObject) -> None:
    try:
        value = parse_object("x.json", content)
    except BundleContentError as refused:
        assert refused.file == "x.json"
        return
    inside = keys.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "plans": st.lists(
                    st.fixed_dictionaries({"tier": st.just("late") | JSON, "depth": JSON, "width": JSON})
                ),
                "product": st.dictionaries(
                    st.sampled_from(["dense_fields", "token_fields", "cross_fields"]), JSON
                ),
                "boosts": JSON,
                "fusion": st.fixed_dictionaries(
                    {"kind": st.just("rrf") | JSON, "rrf_k": JSON, "weights": JSON}
                ),
            },
        )
    )
    for check in (check_text, check_lexical, lambda found: check_plans(found, {})):
        with pytest.raises(BundleContentError):
            check(value | inside)
