"""What the tests of the benchmarks share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.tiny_bundle import build


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with random but fixed weights."""
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    build(folder)
    return folder
