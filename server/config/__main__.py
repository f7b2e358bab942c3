"""Prints the reference page: ``python -m server.config > docs/configuration.md``."""

from __future__ import annotations

from server.config.reference import reference

if __name__ == "__main__":
    print(reference(), end="")
