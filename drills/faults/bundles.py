"""Bundles that pass every check a machine can make alone, and should not be served all the same: those that
rank badly, and one that leaves the planner no choice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from drills.experiment import Inconclusive
from muster.bundle import Bundle, read_bundle, write_bundle

_REPEATS = 100
"""So many times the trees of a ranker are repeated in the slow bundle: some ten milliseconds a request."""

_PLANS = "plans.json"
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
    rankers = [name for name in bundle.manifest.files if name.startswith("ranker/")]
    if not rankers:
        raise Inconclusive(f"bundle {bundle.bundle_id} has no ranker that could be made {kind}")
    spoilt = {name: KINDS[kind]((bundle.folder / name).read_text(encoding="utf-8")) for name in rankers}
    return _written(bundle, out, f"{kind}-drill", spoilt)


def best_plan_alone(good: Path, out: Path) -> str:
    """Write a bundle to the new folder ``out`` that has no plan but the best one of a good one; returns its
    bundle_id. Raises: Inconclusive where the good one has no cheaper plan to lose."""
    bundle = read_bundle(good)
    plans = json.loads((bundle.folder / _PLANS).read_text(encoding="utf-8"))
    if len(plans["plans"]) < 2:
        raise Inconclusive(
            f"bundle {bundle.bundle_id} has one plan alone, so there is no ladder to take away"
        )
    plans["plans"] = plans["plans"][-1:]
    return _written(bundle, out, "best-plan-drill", {_PLANS: json.dumps(plans)})


def _written(bundle: Bundle, out: Path, name: str, changed: Mapping[str, str]) -> str:
    files: dict[str, bytes | Path] = {name: bundle.folder / name for name in bundle.manifest.files}
    files.update({name: text.encode() for name, text in changed.items()})
    manifest = write_bundle(
        out,
        name,
        files,
        created_unix_s=bundle.manifest.created_unix_s,
        muster_version=bundle.manifest.muster_version,
        bytes_max=None,
    )
    return manifest.bundle_id
