"""Print the requirements of optional extras of pyproject.toml, one a line.

Usage: python scripts/requirements.py EXTRA [EXTRA ...]
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def main(extras: list[str]) -> int:
    """Print each requirement of `extras`; exit 2 naming the first unknown extra."""
    manifest = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    known: dict[str, list[str]] = manifest["project"]["optional-dependencies"]
    for extra in extras:
        if extra not in known:
            print(f"unknown extra {extra!r}; known: {', '.join(sorted(known))}", file=sys.stderr)
            return 2
        print("\n".join(known[extra]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
