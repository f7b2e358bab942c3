"""Export: the one stage that writes a bundle.

`--draft` writes `draft/` in the run folder: all models with provisional plans, which `rank` and `calibrate`
drive through the engine. Without it, the gated and calibrated bundle is written to `--out`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from muster.bundle import BUNDLE_BYTES_MAX, Manifest, write_bundle
from muster.bundle.content import CROSS_TIERS
from training.golden import Reference, golden_cases, made_up_pairs
from training.models.sharing import compressed, shared_words
from training.prepare import load_prepared
from training.recipe import DEFAULT_RECIPE, Recipe, load_recipe

DRAFT = "draft"

# Provisional: enough for an engine to start and run every tier. `calibrate` measures the real ones.
_PROVISIONAL = (
    ("lexical", 0, 0.60, 0.5),
    ("hybrid", 0, 0.65, 6.0),
    ("late", 50, 0.68, 6.2),
    ("late", 100, 0.69, 6.4),
    ("late", 200, 0.70, 6.8),
    ("cross_small", 8, 0.71, 20.0),
    ("cross_small", 16, 0.72, 35.0),
    ("cross_small", 32, 0.73, 65.0),
    ("cross_large", 8, 0.74, 60.0),
    ("cross_large", 16, 0.75, 110.0),
    ("cross_large", 32, 0.76, 210.0),
)


def text_json(recipe: Recipe) -> dict[str, Any]:
    """What text.json says."""
    return {
        "product": {
            "dense_fields": recipe.text.dense_fields,
            "token_fields": recipe.text.dense_fields,
            "cross_fields": recipe.text.cross_fields,
        },
        "dense_tokens_max": recipe.text.dense_tokens_max,
        "late_tokens_max": recipe.text.late_tokens_max,
        "cross_tokens_max": recipe.text.cross_tokens_max,
        "query_tokens_max": recipe.text.query_tokens_max,
    }


def lexical_json(recipe: Recipe) -> dict[str, Any]:
    """What lexical.json says."""
    return {
        "boosts": recipe.lexical.boosts,
        "fusion": {"kind": "rrf", "rrf_k": recipe.lexical.rrf_k, "weights": recipe.lexical.weights},
    }


def muster_version() -> str:
    """Version of the software that writes, "0+source" from a checkout that is not installed."""
    try:
        return version("muster")
    except PackageNotFoundError:
        return "0+source"


def cross_models(run: Path) -> dict[str, Path]:
    """The cross-encoders that the run has, tier to plain ONNX file."""
    paths = {tier: run / "onnx" / f"{tier}.onnx" for tier in CROSS_TIERS}
    return {tier: path for tier, path in paths.items() if path.is_file()}


def write(
    recipe: Recipe,
    run: Path,
    out: Path,
    *,
    name: str,
    plans: Mapping[str, Any],
    card: Mapping[str, Any],
    card_text: str,
    rankers: Mapping[str, Path],
    crosses: Mapping[str, Path],
    bytes_max: int | None = BUNDLE_BYTES_MAX,
) -> Manifest:
    """Assemble and write one bundle.

    crosses: plain ONNX file of each cross-encoder tier to include. bytes_max: None for a bundle that stays.
    Raises: BundleError; FileNotFoundError.
    """
    encoder = run / "onnx" / "encoder.onnx"
    reference = Reference(load_prepared(run).tokenizer, recipe.text, encoder, crosses)

    def dump(value: Mapping[str, Any]) -> bytes:
        return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()

    files: dict[str, bytes | Path] = {
        "tokenizer.json": run / "prepared" / "tokenizer.json",
        "text.json": dump(text_json(recipe)),
        "encoder/model.onnx": encoder,
        "lexical.json": dump(lexical_json(recipe)),
        "plans.json": dump(plans),
        "golden.json": dump(golden_cases(reference, made_up_pairs())),
        "card.json": dump(card),
        "card.md": card_text.encode(),
    }
    for tier, path in crosses.items():
        files[f"{tier}/model.onnx.gz"] = compressed(shared_words(path, encoder))
    for tier, path in rankers.items():
        files[f"ranker/{tier}.txt"] = path
    return write_bundle(
        out,
        name,
        files,
        created_unix_s=int(time.time()),
        muster_version=muster_version(),
        bytes_max=bytes_max,
    )


def write_draft(
    recipe: Recipe,
    run: Path,
    out: Path | None = None,
    *,
    rankers: Mapping[str, Path] | None = None,
    tiers: Collection[str] = CROSS_TIERS,
) -> Manifest:
    """Write the draft: provisional plans, the given rankers, what cross-encoders there are of these tiers."""
    crosses = {tier: path for tier, path in cross_models(run).items() if tier in tiers}
    plans = [
        {
            "tier": tier,
            "depth": depth,
            "width": recipe.plans.width,
            "expected_ndcg": ndcg,
            "low": 0.0,
            "high": 1.0,
            "cost_ms": cost,
            "settled_pairs": recipe.plans.settled_pairs if tier in CROSS_TIERS else 0,
        }
        for tier, depth, ndcg, cost in _PROVISIONAL
        if tier in crosses or tier not in CROSS_TIERS
    ]
    return write(
        recipe,
        run,
        out or run / DRAFT,
        name=f"{recipe.name}-draft",
        plans={"plans": plans},
        card={"draft": True, "seed": recipe.seed, "licences": recipe.licences},
        card_text=f"# {recipe.name}, draft\n\nNot calibrated: for the stages `rank` and `calibrate` only.\n",
        rankers=rankers or {},
        crosses=crosses,
        bytes_max=None,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = argparse.ArgumentParser(description="Write a bundle.")
    parser.add_argument("--recipe", type=Path, default=DEFAULT_RECIPE)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="folder of the bundle (default for --draft: RUN/draft)")
    parser.add_argument("--draft", action="store_true", help="provisional plans, no rankers")
    arguments = parser.parse_args(argv)
    recipe = load_recipe(arguments.recipe)
    if arguments.draft:
        print(write_draft(recipe, arguments.run, arguments.out).bundle_id)
        return 0
    if arguments.out is None:
        parser.error("--out is needed unless --draft is given")
    from training.card import write_final  # the card needs calibration, a draft does not

    print(write_final(recipe, arguments.run, arguments.out).bundle_id)
    return 0


if __name__ == "__main__":
    sys.exit(main())
