"""Which catalogue the generations of a folder were built from.

A store may move, and a replica may be pointed at another one; generations of another catalogue would answer
with products that the store does not know.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from server.catalogue.errors import SchemaMismatch

MARK = "CATALOGUE"


def keep_to_one_catalogue(generations: Path, cluster_id: str) -> None:
    """Mark the folder as the catalogue's, the first time.

    Raises: SchemaMismatch if it is another's; nothing is changed then. OSError.
    """
    mark = generations / MARK
    draft = generations / f".{MARK}-{secrets.token_hex(8)}"
    draft.write_text(f"{cluster_id}\n", encoding="utf-8")
    try:
        # Replicas that start together: one makes it, and all read what it wrote.
        os.link(draft, mark)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    found = mark.read_text(encoding="utf-8").strip()
    if found != cluster_id:
        raise SchemaMismatch(
            f"the generations in {generations} were built from catalogue {found}, the store holds catalogue"
            f" {cluster_id}; set another data_dir, or the store that belongs to this one"
        )
