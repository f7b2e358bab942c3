"""Ablation: what each kind of augmentation, and any other switch, is worth to a small student.

`python -m training.ablation --data DIR --run DIR [--kinds typo,brand] [--switch key=value] [--seeds 3]
[--minutes 2] [--layers 2]`. Reads `prepared/`, writes `ablation/` in the run folder: report.json, table.txt
and runs/ (one file a training run; a run whose file is there is not repeated).

For each fold and seed a cross-encoder on the first layers of `cross_small` is trained on the labels of the
other folds, once as it is and once with each change; both then order the judged products of the fold's
queries, as they are and with a typo each. Seeds are paired: the base run and the changed one start from the
same weights and see the same labelled groups. The figure is nDCG@10, mean over the seeds; its difference is
taken query by query, each set counting the same, with a bootstrap interval over queries.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]

from training.augment import Augmented, augmented_groups, edited_rows
from training.cross import Pieces, labelled_groups, new_cross, score_products, train_cross
from training.data.batches import pieces_of
from training.data.edits import mistyped
from training.data.folds import fold_of
from training.data.lexicon import whole_text, words_of
from training.data.whole_files import write_report, write_text
from training.measure import Estimate, difference, ndcg_by_query
from training.models.networks import CrossEncoder
from training.prepare import JudgedQuery, Prepared, load_prepared
from training.recipe import (
    AUGMENT_KINDS,
    DEFAULT_RECIPE,
    Recipe,
    RecipeError,
    StudentRecipe,
    checked_recipe,
    load_recipe,
    recipe_tables,
)
from training.teacher import training_queries

BASE, EVERYTHING = "base", "everything"
CLEAN, TYPOS = "clean", "typos"
# Sections of the recipe that this student's training depends on.
SWITCHABLE = ("cross_small", "text")
_SHARE_WHERE_OFF = 0.05

Values = dict[str, dict[str, dict[str, float]]]
"""Condition (clean, typos) to set to query to nDCG@10."""


@dataclass(frozen=True)
class Variant:
    """One way to train the student. kinds: of augmentation. unseen: why it is not trained, "" where it is."""

    name: str
    recipe: Recipe
    kinds: tuple[str, ...] = ()
    unseen: str = ""


def student_recipe(recipe: Recipe, *, layers: int, minutes: float) -> Recipe:
    """The recipe with the smallest useful student for `cross_small`: its first layers, labels alone."""
    if layers < 1 or minutes <= 0.0:
        raise RecipeError("layers must be at least 1 and minutes above 0")
    student = replace(
        _student(recipe),
        layers=_student(recipe).layers[:layers],
        start="pretrained",
        pairs=0,
        minutes_max=minutes,
        checkpoint_steps=0,
    )
    return replace(recipe, cross_small=student)


def _student(recipe: Recipe) -> StudentRecipe:
    if recipe.cross_small is None:
        raise RecipeError("the recipe has no [cross_small], on whose settings the ablation trains")
    return recipe.cross_small


def switched(recipe: Recipe, switch: str) -> Recipe:
    """The recipe with one setting changed: "section.key=value", the value as in TOML (a bare word is text).

    Raises: RecipeError naming the key, also where it does not reach this student.
    """
    key, equals, text = switch.partition("=")
    path = key.strip().split(".")
    if not equals or len(path) < 2:
        raise RecipeError(f"--switch {switch}: write it as section.key=value")
    if path[0] not in SWITCHABLE or path == ["cross_small", "pairs"]:
        raise RecipeError(
            f"--switch {switch}: {key} does not reach a student trained on labels alone; "
            f"settings of {' and '.join(SWITCHABLE)} (without pairs) do"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    tables = recipe_tables(recipe)
    place = tables
    for part in path[:-1]:
        inner = place.get(part)
        if not isinstance(inner, dict):
            raise RecipeError(f"--switch {switch}: {key} is not a setting")
        place = inner
    if path[-1] not in place:
        raise RecipeError(f"--switch {switch}: {key} is not a setting")
    place[path[-1]] = value
    return checked_recipe(tables)


def with_shares(recipe: Recipe, kinds: Sequence[str], share: float | None) -> Recipe:
    """The recipe with these kinds alone. share: of each; None: the recipe's, .05 where it is 0.

    Raises: RecipeError for an unknown kind or a negative share.
    """
    shares: dict[str, Any] = dict.fromkeys(AUGMENT_KINDS, 0.0)
    for kind in kinds:
        if kind not in shares:
            raise RecipeError(f"--kinds: {kind!r} is not one of {', '.join(AUGMENT_KINDS)}")
        shares[kind] = share if share is not None else recipe.augment.shares()[kind] or _SHARE_WHERE_OFF
        if shares[kind] <= 0.0:
            raise RecipeError("--share must be above 0")
    return replace(recipe, augment=replace(recipe.augment, **shares))


def ablate(
    recipe: Recipe,
    run: Path,
    *,
    kinds: Sequence[str] = AUGMENT_KINDS,
    switches: Sequence[str] = (),
    share: float | None = None,
    seeds: int = 3,
    minutes: float = 2.0,
    layers: int = 2,
    note: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train and measure every variant, and write the report. Returns what report.json says.

    minutes: of one training run; where it stops a run before its epochs are over, the report says so.
    Raises: RecipeError; FileNotFoundError, saying which stage comes first.
    """
    if seeds < 1:
        raise RecipeError("seeds must be at least 1")
    prepared = load_prepared(run)
    base = with_shares(student_recipe(recipe, layers=layers, minutes=minutes), kinds, share)
    variants = [Variant(BASE, base)]
    variants += [Variant(switch, switched(base, switch)) for switch in switches]
    rows, made = edited_rows(base, prepared, note)
    pieces = {_text_key(one.recipe): Pieces.of(one.recipe, prepared) for one in variants}
    for kind in kinds:
        steps = _groups(base, prepared, pieces[_text_key(base)], rows, (kind,), None, 0)
        unseen = "" if steps else "no row changes what this student reads"
        variants.append(Variant(kind, base, (kind,), unseen))
    if sum(not one.unseen for one in variants if one.kinds) > 1:
        variants.append(Variant(EVERYTHING, base, tuple(kinds)))
    folder = run / "ablation"
    trained = [one for one in variants if not one.unseen]
    todo = [(one, fold, seed) for seed in range(seeds) for fold in range(recipe.folds) for one in trained]
    found: dict[str, dict[int, Values]] = {one.name: {} for one in trained}
    typos = _typos(base, prepared)
    stopped = 0
    for variant, fold, seed in tqdm(todo, desc="ablation", mininterval=5, file=sys.stderr):
        path = folder / "runs" / f"{_fingerprint(variant, rows, fold, seed)}.json"
        if not path.is_file():
            started = time.monotonic()
            values = _run(variant, prepared, pieces[_text_key(variant.recipe)], rows, typos, fold, seed)
            write_report(
                path,
                {
                    "variant": variant.name,
                    "fold": fold,
                    "seed": seed,
                    "minutes": round((time.monotonic() - started) / 60.0, 3),
                    "values": values,
                },
            )
        done = json.loads(path.read_text())
        stopped += done["minutes"] >= _student(variant.recipe).minutes_max
        _merge(found[variant.name].setdefault(seed, {}), done["values"])
    report: dict[str, Any] = {
        "seeds": seeds,
        "folds": recipe.folds,
        "minutes": minutes,
        "stopped_by_time": stopped,
        "layers": _student(base).layers,
        "queries": {name: len(queries) for name, queries in found[BASE][0][CLEAN].items()},
        BASE: {condition: round(_mean(found[BASE], condition), 4) for condition in (CLEAN, TYPOS)},
        "variants": [_compared(one, found, made, recipe.seed) for one in variants if one.name != BASE],
    }
    write_report(folder / "report.json", report)
    write_text(folder / "table.txt", table(report))
    return report


def table(report: Mapping[str, Any]) -> str:
    """The report as aligned text, with a warning wherever a difference is inside the noise."""
    header = ("change", "pairs", "clean", "difference", "typos", "difference", "seeds", "")
    lines = [header, (BASE, "", f"{report[BASE][CLEAN]:.4f}", "", f"{report[BASE][TYPOS]:.4f}", "", "", "")]
    for row in report["variants"]:
        pairs = "" if row["pairs"] is None else str(row["pairs"])
        if "unseen" in row:
            lines.append((row["name"], pairs, "", "", "", "", "", row["unseen"]))
            continue
        cells = []
        for condition in (CLEAN, TYPOS):
            one = row[condition]
            cells += [
                f"{one['ndcg10']:.4f}",
                f"{one['difference']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}]",
            ]
        spread = " ".join(f"{gap:+.3f}" for gap in row[CLEAN]["seeds"])
        inside = [condition for condition in (CLEAN, TYPOS) if row[condition]["inside_noise"]]
        warning = f"inside the noise: {', '.join(inside)}" if inside else ""
        lines.append((row["name"], pairs, *cells, spread, warning))
    widths = [max(len(line[at]) for line in lines) for at in range(len(header))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    queries = ", ".join(f"{count} queries of {name}" for name, count in report["queries"].items())
    text.append(
        f"nDCG@10 of judged products out of fold, {report['folds']} folds, {report['seeds']} seeds, "
        f"{queries}; differences with 95 % intervals over queries; seeds: the clean difference of each."
    )
    if report["stopped_by_time"]:
        text.append(
            f"{report['stopped_by_time']} runs stopped after {report['minutes']:g} minutes, before their "
            "epochs were over: more pairs meant fewer rounds there. Give more --minutes."
        )
    return "\n".join(text) + "\n"


def _run(
    variant: Variant,
    prepared: Prepared,
    pieces: Pieces,
    rows: Sequence[Augmented],
    typos: Mapping[tuple[str, str], str],
    fold: int,
    seed: int,
) -> Values:
    recipe, settings = variant.recipe, _student(variant.recipe)
    queries = training_queries(recipe, prepared, fold)
    chooser = np.random.default_rng([recipe.seed, seed, fold])
    groups = labelled_groups(recipe, settings, prepared, pieces, queries, chooser)
    if variant.kinds:
        groups += _groups(recipe, prepared, pieces, rows, variant.kinds, fold, seed)
    model = train_cross(
        new_cross(recipe, settings, prepared),
        recipe,
        settings,
        groups,
        pieces.specials,
        seed=recipe.seed + 1000 * seed + fold,
        name=f"{variant.name}, fold {fold}, seed {seed}",
    )
    return _measured(model, recipe, prepared, pieces, typos, fold)


def _groups(
    recipe: Recipe,
    prepared: Prepared,
    pieces: Pieces,
    rows: Sequence[Augmented],
    kinds: Sequence[str],
    fold: int | None,
    seed: int,
) -> list[Any]:
    chooser = np.random.default_rng([recipe.seed, seed, recipe.folds if fold is None else fold, 1])
    queries = training_queries(recipe, prepared, fold)
    return list(
        augmented_groups(recipe, _student(recipe), prepared, pieces, queries, rows, chooser, kinds=kinds)
    )


def _measured(
    model: CrossEncoder,
    recipe: Recipe,
    prepared: Prepared,
    pieces: Pieces,
    typos: Mapping[tuple[str, str], str],
    fold: int,
) -> Values:
    values: Values = {CLEAN: {}, TYPOS: {}}
    for name, queries in _held_out(recipe, prepared, fold).items():
        gains = {query.query_id: dict(query.gains) for query in queries}
        for condition, found in values.items():
            orders = {}
            for query in queries:
                text = query.text if condition == CLEAN else typos[name, query.query_id]
                asked = pieces_of(prepared.tokenizer, [text], recipe.text.query_tokens_max)[0]
                keys = [key for key in query.gains if key in pieces.sets[name]]
                products = [pieces.sets[name][key] for key in keys]
                scores = score_products(model, asked, products, pieces.specials) if keys else []
                orders[query.query_id] = [keys[at] for at in np.argsort(-np.array(scores), kind="stable")]
            found[name] = ndcg_by_query(gains, orders)
    return values


def _held_out(recipe: Recipe, prepared: Prepared, fold: int) -> dict[str, list[JudgedQuery]]:
    """Set to those queries of one fold that have an nDCG."""
    found: dict[str, list[JudgedQuery]] = {}
    for one in recipe.judged():
        for query in prepared.of(one.name, "train"):
            mine = fold_of(query.set, query.query_id, recipe.folds, recipe.seed) == fold
            if mine and any(gain > 0 for gain in query.gains.values()):
                found.setdefault(one.name, []).append(query)
    return found


def _typos(recipe: Recipe, prepared: Prepared) -> dict[tuple[str, str], str]:
    """Each judged training query with one slip of the keyboard, the same for all variants."""
    found = {}
    for one in recipe.judged():
        known = frozenset(
            word for product in prepared.products[one.name].values() for word in words_of(whole_text(product))
        )
        chooser = np.random.default_rng([recipe.seed, 77])
        for query in prepared.of(one.name, "train"):
            found[one.name, query.query_id] = mistyped(query.text, known, chooser) or query.text
    return found


def _compared(
    variant: Variant, found: Mapping[str, Mapping[int, Values]], made: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    pairs = sum(made["kinds"].get(kind, {"rows": 0})["rows"] for kind in variant.kinds)
    entry: dict[str, Any] = {"name": variant.name, "pairs": pairs if variant.kinds else None}
    if variant.unseen:
        return entry | {"unseen": variant.unseen}
    mine, base = found[variant.name], found[BASE]
    for condition in (CLEAN, TYPOS):
        gap = difference(_over_seeds(mine, condition), _over_seeds(base, condition), seed=seed)
        by_seed = [
            difference(mine[one][condition], base[one][condition], seed=seed, rounds=1).mean for one in mine
        ]
        entry[condition] = {
            "ndcg10": round(_mean(mine, condition), 4),
            "difference": round(gap.mean, 4),
            "low": round(gap.low, 4),
            "high": round(gap.high, 4),
            "seeds": [round(one, 4) for one in by_seed],
            "inside_noise": inside_noise(gap, by_seed),
        }
    return entry


def inside_noise(gap: Estimate, by_seed: Sequence[float]) -> bool:
    """Whether chance may explain a difference: its interval holds 0, or the seeds disagree on its sign."""
    return gap.low <= 0.0 <= gap.high or min(by_seed) * max(by_seed) <= 0.0


def _over_seeds(found: Mapping[int, Values], condition: str) -> dict[str, dict[str, float]]:
    first = next(iter(found.values()))[condition]
    return {
        name: {
            query: float(np.mean([one[condition][name][query] for one in found.values()])) for query in values
        }
        for name, values in first.items()
    }


def _mean(found: Mapping[int, Values], condition: str) -> float:
    sets = _over_seeds(found, condition)
    return float(np.mean([np.mean(list(values.values())) for values in sets.values()]))


def _merge(into: Values, values: Values) -> None:
    for condition, sets in values.items():
        for name, queries in sets.items():
            into.setdefault(condition, {}).setdefault(name, {}).update(queries)


def _text_key(recipe: Recipe) -> str:
    return json.dumps(dataclasses.asdict(recipe.text))


def _fingerprint(variant: Variant, rows: Sequence[Augmented], fold: int, seed: int) -> str:
    """What a run depends on: the recipe, the rows of its kinds, the fold and the seed."""
    recipe = dataclasses.asdict(variant.recipe)
    used = [
        recipe[name] for name in ("seed", "folds", "pretrained", "data", "text", "vocabulary", "cross_small")
    ]
    used.append([variant.recipe.augment.share_max, list(variant.kinds), fold, seed])
    digest = hashlib.sha256(json.dumps(used).encode())
    for row in rows:
        if row.kind in variant.kinds:
            digest.update(f"{row.set}\t{row.query}\t{row.target}\t".encode() + row.product)
    return digest.hexdigest()[:20]


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m training.ablation", description="What each augmentation and switch is worth."
    )
    parser.add_argument(
        "--recipe", type=Path, default=DEFAULT_RECIPE, help="TOML file (default: the shipped one)"
    )
    parser.add_argument("--data", type=Path, help="folder that holds the data sets (read by `prepare` alone)")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    parser.add_argument("--kinds", default=",".join(AUGMENT_KINDS), help='kinds of augmentation, "" for none')
    parser.add_argument("--switch", action="append", default=[], help="section.key=value; may be repeated")
    parser.add_argument("--share", type=float, help="of each kind (default: the recipe's, .05 where it is 0)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant and fold")
    parser.add_argument("--minutes", type=float, default=2.0, help="of one training run, at most")
    parser.add_argument("--layers", type=int, default=2, help="of the student")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    arguments = parser.parse_args(argv)
    try:
        report = ablate(
            load_recipe(arguments.recipe),
            arguments.run,
            kinds=[kind for kind in arguments.kinds.split(",") if kind],
            switches=arguments.switch,
            share=arguments.share,
            seeds=arguments.seeds,
            minutes=arguments.minutes,
            layers=arguments.layers,
            note=lambda text: print(text, file=sys.stderr),
        )
    except (RecipeError, FileNotFoundError) as error:
        print(f"python -m training.ablation: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report, indent=2) if arguments.json else table(report), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
