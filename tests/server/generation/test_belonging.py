from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.catalogue.errors import SchemaMismatch
from server.generation.belonging import keep_to_one_catalogue


def test_a_folder_belongs_to_the_first_catalogue_that_uses_it(tmp_path: Path) -> None:
    keep_to_one_catalogue(tmp_path, "c0ffee")
    keep_to_one_catalogue(tmp_path, "c0ffee")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SchemaMismatch, match=r"built from catalogue c0ffee, the store holds catalogue decaf"):
        keep_to_one_catalogue(tmp_path, "decaf")
    assert sorted(tmp_path.iterdir()) == before


def test_of_two_that_come_together_one_keeps_the_folder(tmp_path: Path) -> None:
    def claim(cluster_id: str) -> bool:
        try:
            keep_to_one_catalogue(tmp_path, cluster_id)
        except SchemaMismatch:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        claims = list(pool.map(claim, ["a", "b"]))
    assert sum(claims) == 1
