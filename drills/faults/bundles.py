"""Bundles that pass every check a machine can make alone, and should not be served all the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from drills.experiment import Inconclusive
from muster.bundle import read_bundle, write_bundle

_REPEATS = 100
"""So many times the trees of a ranker are repeated in the slow bundle: some ten milliseconds a request."""

_TREE = re.compile(r"^Tree=\d+$", re.MULTILINE)
_LEAVES = re.compile(r"^leaf_value=(.*)$", re.MULTILINE)


def turned(ranker: str) -> str:
    """A LightGBM text model whose leaves all have the other sign: it puts the worst products first."""

    def negated(line: re.Match[str]) -> str:
        return "leaf_value=" + " ".join(f"{-float(leaf):.17g}" for leaf in line[1].split())

    return _LEAVES.sub(negated, ranker)


def repeated(ranker: str) -> str:
    """A LightGBM text model with all its trees many times over: the same order, at many times the cost."""
    head, _, rest = ranker.partition("\nTree=")
    trees, end, tail = rest.partition("\nend of trees")
    blocks = ("\nTree=" + trees).split("\nTree=")[1:]
    numbered = (
        f"\nTree={number}\n{block.partition(chr(10))[2]}" for number, block in enumerate(blocks * _REPEATS)
    )
    return head + "".join(numbered) + end + tail


KINDS: dict[str, Callable[[str], str]] = {"wrong": turned, "slow": repeated}
"""By name: what is done to every ranker of a good bundle."""


def make(kind: str, good: Path, out: Path) -> str:
    """Write a bad bundle to the new folder ``out``, made of a good one; returns its bundle_id.

    Raises: Inconclusive where the good one has no ranker to spoil.
    """
    bundle = read_bundle(good)
    files: dict[str, bytes | Path] = {name: bundle.folder / name for name in bundle.manifest.files}
    rankers = [name for name in files if name.startswith("ranker/")]
    if not rankers:
        raise Inconclusive(f"bundle {bundle.bundle_id} has no ranker that could be made {kind}")
    for name in rankers:
        files[name] = KINDS[kind]((bundle.folder / name).read_text(encoding="utf-8")).encode()
    manifest = write_bundle(
        out,
        f"{kind}-drill",
        files,
        created_unix_s=bundle.manifest.created_unix_s,
        muster_version=bundle.manifest.muster_version,
        bytes_max=None,
    )
    return manifest.bundle_id
