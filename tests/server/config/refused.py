"""What a test of settings needs at least, and what is said of those that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server import config

REQUIRED = {"bundle": "bundle", "data_dir": "data"}


def refusal(path: Path | None, overrides: dict[str, Any]) -> list[str]:
    """The problems that loading these tells."""
    with pytest.raises(config.ConfigurationError) as caught:
        config.load(path, overrides)
    return caught.value.problems
