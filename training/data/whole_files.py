"""Files that are whole or not there: written beside their place and moved into it last."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a text file; a kill at any moment leaves the older one intact. Makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def write_report(path: Path, value: Mapping[str, Any]) -> None:
    """Write a report as JSON, as `write_text` does."""
    write_text(path, json.dumps(value, indent=2))
