from __future__ import annotations

import os
from pathlib import Path

from drills.faults.caches import drop, resident_bytes


def test_what_the_system_keeps_of_a_file_is_counted_and_dropped(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(b"x" * 100_000)
        file.flush()
        os.fsync(file.fileno())
    path.read_bytes()
    assert resident_bytes(path) >= 100_000
    drop(path)
    # Whether the kernel follows the advice is its own affair; it must not count more than there was.
    assert resident_bytes(path) <= 102_400
    (tmp_path / "empty").touch()
    assert resident_bytes(tmp_path / "empty") == 0
