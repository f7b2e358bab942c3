"""A file is the old one or the new one, never a part of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.data.whole_files import write_report, write_text


def test_a_report_is_read_back_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    write_report(path, {"a": [1, "é"]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1, "é"]}
    assert [one.name for one in path.parent.iterdir()] == ["report.json"]


def test_a_write_that_is_cut_short_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.txt"
    write_text(path, "old")

    def full(self: Path, *given: object, **named: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
