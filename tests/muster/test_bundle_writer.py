"""A writer leaves a whole bundle or what was there before."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.bundle import BundleContentError, BundleError, Manifest, read_bundle, write_bundle
from muster.bundle.content import check_compressed
from tests.muster.bundle_files import bundle_files, golden, lexical, plan, text


def write(folder: Path, files: dict[str, bytes | Path], **other: Any) -> Manifest:
    return write_bundle(folder, "small", files, created_unix_s=1, muster_version="0.1.0", **other)


def test_the_same_files_have_the_same_identity_and_others_another(tmp_path: Path) -> None:
    first = write(tmp_path / "a", {**bundle_files()})
    again = write(tmp_path / "b", {**bundle_files()})
    other = write(tmp_path / "c", {**bundle_files(card={"seed": 2})})
    assert first.bundle_id == again.bundle_id != other.bundle_id


def test_a_file_named_by_path_is_copied(tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.write_bytes(b"from a file")
    write(tmp_path / "a", {**bundle_files(), "encoder/model.onnx": source})
    assert (tmp_path / "a" / "encoder" / "model.onnx").read_bytes() == b"from a file"
    assert read_bundle(tmp_path / "a").manifest.files["encoder/model.onnx"].bytes == 11


def test_a_bundle_replaces_an_older_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "a", {**bundle_files(), "notes.txt": b"old"})
    newer = write(tmp_path / "a", {**bundle_files()})
    assert read_bundle(tmp_path / "a").bundle_id == newer.bundle_id
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_is_not_a_bundle_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(BundleError, match="left alone"):
        write(tmp_path / "thesis", {**bundle_files()})
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_a_refused_bundle_leaves_the_older_one_as_it_was(tmp_path: Path) -> None:
    older = write(tmp_path / "a", {**bundle_files()})
    with pytest.raises(BundleContentError, match=r"plans\.json"):
        write(tmp_path / "a", {**bundle_files(plans={"plans": []})})
    assert read_bundle(tmp_path / "a").bundle_id == older.bundle_id
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_bundle_above_the_size_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleContentError, match="more than the 500 allowed"):
        write(tmp_path / "a", {**bundle_files()}, bytes_max=500)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["encoder/model.onnx", "card.md"])
def test_a_bundle_without_a_needed_file_is_refused(tmp_path: Path, name: str) -> None:
    files: dict[str, bytes | Path] = {**bundle_files()}
    del files[name]
    with pytest.raises(BundleContentError) as caught:
        write(tmp_path / "a", files)
    assert caught.value.file == name


@pytest.mark.parametrize("name", ["", "Upper", "a b", "../x", "-x"])
def test_a_name_that_is_not_one_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleContentError, match="not a bundle name"):
        write_bundle(tmp_path / "a", name, bundle_files(), created_unix_s=1, muster_version="0.1.0")


def golden_scores(**scores: float) -> dict[str, Any]:
    value = golden()
    case = {key: kept for key, kept in value["cases"][0].items() if key != "cross"}
    return value | {"cases": [case | scores]}


def nan_plan() -> dict[str, Any]:
    return plan(cost_ms=float("nan"))


@pytest.mark.parametrize(
    ("file", "value", "message"),
    [
        ("text", {}, "product"),
        ("text", text() | {"dense_tokens_max": 0}, "dense_tokens_max"),
        ("text", text() | {"late_tokens_max": 41}, "late_tokens_max is above"),
        ("text", text() | {"query_tokens_max": 2.5}, "query_tokens_max"),
        ("text", text() | {"product": text()["product"] | {"cross_fields": ["colour"]}}, "cross_fields"),
        ("text", text() | {"product": text()["product"] | {"token_fields": ["title"]}}, "token_fields"),
        ("lexical", lexical() | {"boosts": {"title": 1.0}}, "boosts"),
        ("lexical", lexical() | {"fusion": {"kind": "sum"}}, "fusion.kind"),
        ("plans", {"plans": [plan("cross_small", 8)]}, "cross_small/model.onnx.gz"),
        ("plans", {"plans": [plan("cross_large", 8)]}, "cross_large/model.onnx.gz"),
        ("plans", {"plans": [plan("fastest")]}, "tier"),
        ("plans", {"plans": [plan(), plan()]}, "repeats"),
        ("plans", {"plans": [plan("lexical", 50)]}, "depth must be 0"),
        ("plans", {"plans": [plan("late", 0)]}, "above 0"),
        ("plans", {"plans": [plan(expected_ndcg=0.8)]}, "outside its own interval"),
        ("plans", {"plans": [nan_plan()]}, "NaN"),
        ("golden", golden() | {"cases": []}, "at least one case"),
        ("golden", golden() | {"tolerance": {"dense": 0.1}}, "tolerance"),
        ("golden", golden() | {"cases": [{"query": " ", "product": {}}]}, "no query"),
        ("golden", golden_scores(cross_large=float("1e9")), r"cases\[0\]\.cross_large"),
        ("golden", golden_scores(cross=0.1, cross_small=0.1), "by its old name"),
    ],
)
def test_contents_that_make_no_sense_are_refused_with_the_file(
    tmp_path: Path, file: str, value: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleContentError, match=message) as caught:
        write(tmp_path / "a", {**bundle_files(**{file: value})})
    assert caught.value.file == f"{file}.json"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("ranker/late.txt", b"tree\nfeature_names=bm25\n"),
        ("ranker/late.txt", b""),
        ("ranker/best.txt", b"tree\nfeature_names=bm25\n\nend of trees\n"),
    ],
)
def test_a_ranker_that_is_not_whole_or_of_no_tier_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(BundleContentError) as caught:
        write(tmp_path / "a", {**bundle_files(), name: data})
    assert caught.value.file == name


MODEL = b"weights of a cross-encoder"


@pytest.mark.parametrize("tier", ["cross_small", "cross_large"])
@pytest.mark.parametrize(("name", "data"), [("model.onnx.gz", gzip.compress(MODEL)), ("model.onnx", MODEL)])
def test_a_cross_encoder_is_stored_compressed_or_plain(
    tmp_path: Path, tier: str, name: str, data: bytes
) -> None:
    files = {**bundle_files(plans={"plans": [plan(tier, 8)]}), f"{tier}/{name}": data}
    write(tmp_path / "a", files)
    assert read_bundle(tmp_path / "a").plans()[0]["tier"] == tier


def test_a_tier_with_two_models_is_refused(tmp_path: Path) -> None:
    files = {"cross_large/model.onnx": MODEL, "cross_large/model.onnx.gz": gzip.compress(MODEL)}
    with pytest.raises(BundleContentError, match="a tier has one model") as caught:
        write(tmp_path / "a", {**bundle_files(), **files})
    assert caught.value.file == "cross_large/model.onnx.gz"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(MODEL)[:-1], "it ends too soon"),
        (gzip.compress(MODEL)[:12], "it ends too soon"),
        (b"", "it ends too soon"),
        (MODEL, "not a whole gzip file"),
        (gzip.compress(MODEL)[:-8] + bytes(8), "not a whole gzip file"),
        (gzip.compress(MODEL) * 2, "bytes after the end"),
    ],
)
def test_a_compressed_file_that_is_not_whole_is_refused_by_name(
    tmp_path: Path, data: bytes, message: str
) -> None:
    with pytest.raises(BundleContentError, match=message) as caught:
        write(tmp_path / "a", {**bundle_files(), "cross_small/model.onnx.gz": data})
    assert caught.value.file == "cross_small/model.onnx.gz"


def test_a_small_file_that_inflates_to_much_is_given_up_at_the_limit() -> None:
    data = gzip.compress(bytes(16 << 20))
    assert len(data) < 1 << 16
    check_compressed("cross_large/model.onnx.gz", data, bytes_max=16 << 20)
    with pytest.raises(BundleContentError, match="inflates to more than 4194304 bytes"):
        check_compressed("cross_large/model.onnx.gz", data, bytes_max=4 << 20)


@given(content=st.binary(max_size=3000), cut=st.integers(0, 3000))
def test_only_a_whole_compressed_file_passes(content: bytes, cut: int) -> None:
    data = gzip.compress(content)
    check_compressed("model.onnx.gz", data, bytes_max=3000)
    with pytest.raises(BundleContentError):
        check_compressed("model.onnx.gz", data[: min(cut, len(data) - 1)], bytes_max=3000)


def test_a_manifest_is_written_in_a_stable_order(tmp_path: Path) -> None:
    write(tmp_path / "a", dict(reversed({**bundle_files()}.items())))
    names = list(json.loads((tmp_path / "a" / "manifest.json").read_text())["files"])
    assert names == sorted(names)
