"""Copies of deployed bundles."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from muster.bundle import BundleError, read_bundle
from server.release.shelf import Shelf
from tests.fixtures.bundle_variants import plain


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shelf") / "plain"
    plain(folder)
    return folder


def test_a_bundle_is_copied_once_and_found_by_its_name(bundle: Path, tmp_path: Path) -> None:
    shelf, bundle_id = Shelf(tmp_path / "bundles"), read_bundle(bundle).bundle_id
    assert shelf.find(bundle_id) is None
    with ThreadPoolExecutor(4) as pool:
        copies = set(pool.map(lambda _: shelf.put(bundle, bundle_id), range(4)))
    assert copies == {shelf.find(bundle_id)}
    assert read_bundle(copies.pop()).bundle_id == bundle_id
    assert [path.name for path in (tmp_path / "bundles").iterdir() if path.is_dir()] == [bundle_id]


def test_another_bundle_than_the_one_named_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not other-1"):
        Shelf(tmp_path / "bundles").put(bundle, "other-1")


def test_a_damaged_source_leaves_nothing_and_a_damaged_copy_is_made_anew(
    bundle: Path, tmp_path: Path
) -> None:
    shelf, bundle_id = Shelf(tmp_path / "bundles"), read_bundle(bundle).bundle_id
    copy = shelf.put(bundle, bundle_id)
    (copy / "card.md").write_text("changed")
    assert read_bundle(shelf.put(bundle, bundle_id)).bundle_id == bundle_id
    (copy / "card.md").write_text("changed")
    with pytest.raises(BundleError, match=r"card\.md"):
        Shelf(tmp_path / "elsewhere").put(copy, bundle_id)
    assert Shelf(tmp_path / "elsewhere").find(bundle_id) is None


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../bundles", ""])
def test_a_name_that_leads_elsewhere_is_not_found(bundle: Path, tmp_path: Path, name: str) -> None:
    shelf = Shelf(tmp_path / "bundles")
    shelf.put(bundle, read_bundle(bundle).bundle_id)
    (tmp_path / "manifest.json").touch()
    (tmp_path / "bundles" / "manifest.json").touch()
    assert shelf.find(name) is None


def test_the_newest_copies_stay_beside_those_that_are_needed(tmp_path: Path) -> None:
    for age, name in enumerate(("needed", "oldest", "older", "newer")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "manifest.json").touch()
        os.utime(folder, (1000 + age, 1000 + age))
    (tmp_path / ".draft").mkdir()
    Shelf(tmp_path).clear({"needed"}, spare=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".draft", "needed", "newer"]
    Shelf(tmp_path / "missing").clear(set(), spare=0)
