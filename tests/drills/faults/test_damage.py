from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from drills.experiment import Inconclusive
from drills.faults.damage import MANIFEST, Damage, flipped, largest, redigested, truncated
from muster.bundle import BundleDamagedError, read_bundle
from tests.fixtures.bundle_variants import plain


@pytest.mark.parametrize(
    ("below", "damage"),
    [("", flipped), ("", truncated), (MANIFEST, redigested), (MANIFEST, truncated)],
)
def test_each_damage_is_one_that_the_checksums_find(below: str, damage: Damage, tmp_path: Path) -> None:
    plain(tmp_path / "bundle")
    before = read_bundle(tmp_path / "bundle").bundle_id
    assert before
    file = below or largest(tmp_path / "bundle")
    unlike = damage(tmp_path / "bundle" / file)
    with pytest.raises(BundleDamagedError, match=f"{re.escape(file)}|{re.escape(unlike)}"):
        read_bundle(tmp_path / "bundle")


def test_a_flip_changes_one_bit_and_a_truncation_keeps_the_beginning(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    flipped(path)
    changed = path.read_bytes()
    assert len(changed) == 100
    assert [n for n in range(100) if changed[n] != n] == [50] and changed[50] ^ 50 == 1
    truncated(path)
    assert path.read_bytes() == changed[:50]


def test_a_manifest_with_another_digest_is_still_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / MANIFEST
    files = {"small": {"sha256": "01", "bytes": 1}, "large": {"sha256": "0123", "bytes": 2}}
    path.write_text(json.dumps({"files": files}))
    assert redigested(path) == "large"
    assert json.loads(path.read_text())["files"]["large"]["sha256"] == "3210"
    assert json.loads(path.read_text())["files"]["small"]["sha256"] == "01"


def test_the_largest_file_is_found_below_a_folder(tmp_path: Path) -> None:
    (tmp_path / "lexical").mkdir()
    for name, size in (("dense.i8", 9), ("lexical/a", 2), ("lexical/b", 3), (MANIFEST, 50)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert largest(tmp_path) == "dense.i8"
    assert largest(tmp_path, "lexical") == "lexical/b"
    with pytest.raises(Inconclusive, match="holds no file"):
        largest(tmp_path, "nothing")
