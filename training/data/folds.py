"""Folds over training queries: the same everywhere, so a score is out of fold in every stage or in none."""

from __future__ import annotations

import hashlib


def fold_of(query_set: str, query_id: str, folds: int, seed: int) -> int:
    """Fold of a query, 0 to folds - 1, from its identity alone: adding queries moves no other."""
    digest = hashlib.sha256(f"{seed}/{query_set}/{query_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % folds
