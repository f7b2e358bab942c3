"""Train the section `recommend/` of a bundle from a file of behaviour.

    muster train --task recommend --data FILE_OR_DIR --out BUNDLE [--base BUNDLE] [--recipe FILE] [--run DIR]

With --base the new bundle holds all of that one and the section; without, the section alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from muster.bundle import BundleError, read_bundle, write_bundle
from muster.bundle.recommend import SECTION, read_section
from muster.products import ProductError
from training.export import muster_version
from training.loop import CheckpointError, DeviceMemoryError
from training.recipe import RecipeError
from training.recommend.behaviour import Behaviour, read_behaviour
from training.recommend.fit import fit
from training.recommend.private.accounting import require_opacus
from training.recommend.private.fit import private_fit
from training.recommend.recipe import DEFAULT_RECIPE, RecommendRecipe, load_recommend_recipe
from training.recommend.section import write_section

EXIT_FAILED, EXIT_BAD_INPUT = 1, 2


def train(
    recipe: RecommendRecipe, behaviour: Behaviour, run: Path, out: Path, base: Path | None, console: Console
) -> None:
    """Fit a section and write it into a new bundle.

    Raises: BundleError; RecipeError where `out` exists; as `training.recommend.fit.fit`.
    """
    if out.exists():
        raise RecipeError(f"--out {out} exists already; name another folder, or remove it")
    beginning = None if base is None else read_bundle(base)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("texts", total=2 * len(behaviour.validation))

        def note(what: str) -> None:
            bar.update(task, description=what)
            if not console.is_terminal:
                console.print(what, highlight=False)

        learn = fit if recipe.privacy is None else private_fit
        contents = learn(recipe, behaviour, run, note=note, progress=lambda count: bar.advance(task, count))
    if beginning is None:
        write_section(out / SECTION, contents)
    else:
        section = run / SECTION
        write_section(section, contents)
        files: dict[str, bytes | Path] = {name: beginning.folder / name for name in beginning.manifest.files}
        files = {name: path for name, path in files.items() if not name.startswith(f"{SECTION}/")}
        for path in section.rglob("*"):
            if path.is_file():
                files[f"{SECTION}/{path.relative_to(section).as_posix()}"] = path
        write_bundle(
            out,
            beginning.bundle_id.rpartition("-")[0],
            files,
            created_unix_s=int(time.time()),
            muster_version=muster_version(),
            bytes_max=None,
        )
    read_section(out / SECTION)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it from a command line. Returns 0; 1 where training failed; 2 where it cannot begin as asked."""
    parser = argparse.ArgumentParser(
        prog="muster train --task recommend",
        description="Train what says which product a shopper takes next.",
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="file of behaviour, or a folder that holds one"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle to be written")
    parser.add_argument("--base", type=Path, help="bundle whose other files the new one takes over")
    parser.add_argument(
        "--recipe", type=Path, default=DEFAULT_RECIPE, help="TOML file (default: the shipped one)"
    )
    parser.add_argument(
        "--run", type=Path, help="folder for everything in between (default: run/recommend/<set>)"
    )
    parser.add_argument("--json", action="store_true", help="print the card as JSON")
    given = parser.parse_args(argv)
    console = Console(stderr=True)
    try:
        recipe = load_recommend_recipe(given.recipe)
        if recipe.privacy is not None:
            require_opacus()
        behaviour = read_behaviour(given.data, seed=recipe.seed, listed_only=recipe.privacy is not None)
        run = given.run or Path("run") / "recommend" / behaviour.name
        train(recipe, behaviour, run, given.out, given.base, console)
    except (RecipeError, ProductError, BundleError, FileNotFoundError) as error:
        print(f"train: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except (FloatingPointError, CheckpointError, DeviceMemoryError, ValueError, OSError) as error:
        print(
            f"train: {error}. What was made before is kept: the same command goes on from there",
            file=sys.stderr,
        )
        return EXIT_FAILED
    card = json.loads((given.out / SECTION / "card.json").read_text(encoding="utf-8"))
    if given.json:
        print(json.dumps({"bundle": str(given.out), "run": str(run), **card}))
        return 0
    if recipe.privacy is not None:
        private = card["privacy"]
        print(
            f"private: epsilon {private['epsilon']:.3f}, delta {private['delta']:g}, for all of one shopper"
        )
    for name, weight in sorted(card["weights"].items(), key=lambda one: -one[1]):
        print(f"{name:<14} {weight:.3f} of the mixture")
    print(f"bundle {given.out}; measure it: muster evaluate {given.out} --task recommend --data {given.data}")
    return 0
