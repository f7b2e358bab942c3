"""The page about settings says what the code says."""

from __future__ import annotations

from pathlib import Path

from server import config

ROOT = Path(__file__).parents[3]


def test_the_reference_page_is_current() -> None:
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert page == config.reference(), "run: python -m server.config > docs/configuration.md"
