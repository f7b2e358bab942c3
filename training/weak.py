"""Weak: cross-encoders that retrieval taught, before any label.

Retrieval reads whole products, knows which words are rare, and costs nothing to ask. So a student with start
= "weak" first learns to say of two texts what the engine's signals say of them (weak supervision: Dehghani et
al. 2017, arXiv:1704.08803), over the training queries, labelled or not, and over queries made from products.
No label is seen, so one model serves every fold: `training.distil` goes on from it.

A query of a judged set is asked in that set's catalogue, any other one in the catalogue that holds the best
answer to it by late interaction. Writes `weak/<score>-<layers>.pt`, one for all students of that form, and
`weak/curves.png`; what is there is not trained again. The engine runs on the encoder as `onnx/encoder.onnx`,
which `training.quantise` writes anew later.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from training.cross import Group, Pieces, new_cross, train_cross
from training.curves import draw_curves
from training.data.batches import pieces_of
from training.data.edits import Effect, back_off
from training.data.leakage import Text, alike
from training.data.lexicon import learn
from training.data.mining import title_query
from training.data.tables import TRAIN, JudgedQuery
from training.distil import weak_file
from training.encoder import encoder_path
from training.engine import Signals, open_catalogue
from training.export import write_draft
from training.models.networks import load_encoder, save_model
from training.prepare import Prepared, load_prepared
from training.quantise import export_encoder
from training.recipe import Recipe, RecipeError, StudentRecipe, stage_arguments
from training.tracking import open_tracker
from training.unlabelled import saw_labels

MADE = "made"
"""The set of queries that were made from products."""

_BESIDE = 0.5
"""How far below the worst candidate a random product is held to be, in standard deviations of one signal."""


@dataclass(frozen=True)
class Candidates:
    """What retrieval found for one query.

    query: its word pieces. made: from a product. set: whose catalogue it was asked in. keys: product ids,
    best first. values: float64 [n, signals], in the recipe's order; unknown is 0.
    """

    query: list[int]
    made: bool
    set: str
    keys: list[str]
    values: NDArray[np.float64]


def teach(recipe: Recipe, run: Path) -> list[Path]:
    """Run the stage. Returns the files of the students.

    Raises: FileNotFoundError naming the stage that comes first; RecipeError naming the key; what the training
    loop raises.
    """
    check_weak(recipe)
    if saw_labels(recipe, run):
        raise RecipeError(
            'start = "weak" serves every fold, so the encoder must not have seen labels: leave '
            "unlabelled.labels and teachers in unlabelled.pseudo out"
        )
    prepared = load_prepared(run)
    students = {weak_file(run, one): one for one in recipe.students().values() if one.start == "weak"}
    wanted = {path: one for path, one in students.items() if not path.is_file()}
    found = candidates_of(recipe, run, prepared) if wanted else []
    pieces = Pieces.of(recipe, prepared)
    seed = recipe.seed + 400
    for path, settings in wanted.items():
        checkpoint = path.with_suffix(".checkpoint")
        with open_tracker(recipe.tracking, run, f"weak/{path.stem}") as tracker:
            model = train_cross(
                new_cross(recipe, settings, prepared),
                recipe,
                _as_asked(recipe, settings),
                weak_groups(recipe, found, pieces, np.random.default_rng(seed)),
                pieces.specials,
                seed=seed,
                name=f"{path.stem}, from retrieval",
                checkpoint=checkpoint,
                tracker=tracker,
            )
        save_model(path, model)
        checkpoint.unlink(missing_ok=True)
    draw_curves(run, "weak")
    return list(students)


def check_weak(recipe: Recipe) -> None:
    """Raises: RecipeError naming the key."""
    settings = recipe.weak
    if not settings.signals or min(settings.signals.values()) <= 0.0:
        raise RecipeError("weak.signals must name at least one signal, each with a weight above 0")
    for name, least in (("steps", 1), ("group", 2), ("width", 2), ("near", 1)):
        if getattr(settings, name) < least:
            raise RecipeError(f"weak.{name} must be at least {least}")
    for name in ("queries", "random_products", "minutes_max"):
        if getattr(settings, name) < 0:
            raise RecipeError(f"weak.{name} must be at least 0")
    if not 0.0 <= settings.synthetic <= 1.0:
        raise RecipeError("weak.synthetic must be a share between 0 and 1")
    if settings.synthetic and not settings.queries:
        raise RecipeError("weak.synthetic wants queries made from products: set weak.queries above 0")


def candidates_of(recipe: Recipe, run: Path, prepared: Prepared) -> list[Candidates]:
    """Ask the engine about every training query and every made one.

    Raises: RecipeError for a signal that the engine does not know.
    """
    encoder = run / "onnx" / "encoder.onnx"
    export_encoder(load_encoder(encoder_path(run, None)), encoder, weight_bits=recipe.quantise.weight_bits)
    draft = run / "weak" / "draft"
    write_draft(recipe, run, draft, tiers=())
    queries = [one for one in prepared.queries if one.split == TRAIN]
    queries += made_queries(recipe, prepared, np.random.default_rng([recipe.seed, 4]))
    asked = pieces_of(prepared.tokenizer, [one.text for one in queries], recipe.text.query_tokens_max)
    judged = [one.name for one in recipe.judged()]
    best: dict[int, tuple[float, Candidates]] = {}
    for name in judged:
        products = prepared.products[name].values()
        with open_catalogue(draft, products, cache=run / "catalogues") as catalogue:
            for at, query in enumerate(tqdm(queries, desc=f"retrieval, {name}", mininterval=5)):
                if not asked[at] or (query.set in judged and query.set != name):
                    continue
                signals = catalogue.signals(query.text, "late", product_ids=None, width=recipe.weak.width)
                if len(signals.product_ids) < 2:
                    continue
                promise = float(signals.column("late").max())
                if at not in best or promise > best[at][0]:
                    best[at] = (promise, _candidates(recipe, asked[at], query.set == MADE, name, signals))
    return [best[at][1] for at in sorted(best)]


def _candidates(recipe: Recipe, asked: list[int], made: bool, name: str, signals: Signals) -> Candidates:
    unknown = [one for one in recipe.weak.signals if one not in signals.names]
    if unknown:
        raise RecipeError(
            f"weak.signals: the engine has no signal {unknown[0]!r}; it has {', '.join(signals.names)}"
        )
    order = np.argsort(-signals.column("fused"), kind="stable")
    values = np.stack([signals.column(one) for one in recipe.weak.signals], axis=1)
    return Candidates(
        asked, made, name, [signals.product_ids[at] for at in order], np.nan_to_num(values[order])
    )


def made_queries(
    recipe: Recipe, prepared: Prepared, chooser: np.random.Generator, tries: int = 20
) -> list[JudgedQuery]:
    """Queries that products of the judged sets answer: type with brand and colour, or words of a title.

    Each judged set gives equally many. One that asks what a query outside training asks is left out. tries:
    products drawn for each query at most.
    """
    names = [one.name for one in recipe.judged()]
    texts: dict[str, None] = {}
    for name in names:
        products = list(prepared.products[name].values())
        lexicon = learn(products, synonyms=False)
        wanted = len(texts) + math.ceil(recipe.weak.queries / len(names))
        for _ in range(tries * recipe.weak.queries):
            if len(texts) >= wanted:
                break
            product = products[int(chooser.integers(len(products)))]
            pairs = (
                back_off(product, lexicon, Effect(), chooser, neighbours=0) if chooser.random() < 0.5 else []
            )
            text = pairs[0].query if pairs else title_query(product, chooser)
            if text:
                texts[text] = None
    outside = [
        Text(one.set, one.query_id, one.split, one.text) for one in prepared.queries if one.split != TRAIN
    ]
    own = [Text(MADE, str(at), TRAIN, text) for at, text in enumerate(texts)]
    leaked = {leak.train.key for leak in alike(own, outside, recipe.splits.near_duplicate)}
    return [JudgedQuery(MADE, one.key, TRAIN, one.text, {}) for one in own if one.key not in leaked]


def teacher_scores(recipe: Recipe, found: Sequence[Candidates]) -> list[NDArray[np.float64]]:
    """The sum of the signals, each in standard deviations over all candidates, times their weights. [n] each.

    Raises: ValueError where nothing was found.
    """
    if not found:
        raise ValueError("retrieval found nothing for any query: there is nothing to learn from")
    spread = np.concatenate([one.values for one in found]).std(axis=0)
    weights = np.array(list(recipe.weak.signals.values())) / np.maximum(spread, 1e-12)
    return [one.values @ weights for one in found]


def weak_groups(
    recipe: Recipe, found: Sequence[Candidates], pieces: Pieces, chooser: np.random.Generator
) -> list[Group]:
    """Steps: a query with candidates from near and far, and products that retrieval did not find."""
    settings = recipe.weak
    scores = teacher_scores(recipe, found)
    of_kind = {made: [at for at, one in enumerate(found) if one.made is made] for made in (False, True)}
    everything: Mapping[str, list[str]] = {name: list(rows) for name, rows in pieces.sets.items()}
    groups = []
    for _ in range(settings.steps):
        kind = of_kind[bool(chooser.random() < settings.synthetic)] or range(len(found))
        at = kind[int(chooser.integers(len(kind)))]
        one = found[at]
        near = chooser.permutation(min(settings.near, len(one.keys)))[: settings.group // 2]
        rest = np.setdiff1d(np.arange(len(one.keys)), near)
        far = chooser.permutation(rest)[: settings.group - len(near)]
        chosen = np.concatenate([near, far])
        drawn = [
            everything[one.set][int(number)]
            for number in chooser.integers(len(everything[one.set]), size=settings.random_products)
        ]
        others = [key for key in drawn if key not in one.keys]
        groups.append(
            Group(
                one.query,
                [pieces.sets[one.set][key] for key in (*(one.keys[number] for number in chosen), *others)],
                [],
                [*scores[at][chosen].tolist(), *([float(scores[at].min()) - _BESIDE] * len(others))],
            )
        )
    return groups


def _as_asked(recipe: Recipe, settings: StudentRecipe) -> StudentRecipe:
    """The student's settings, with those by which retrieval teaches it."""
    weak = recipe.weak
    return replace(
        settings,
        epochs=1,
        steps=weak.steps,
        learning_rate=weak.learning_rate,
        head_learning_rate=weak.head_learning_rate,
        minutes_max=weak.minutes_max,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    arguments = stage_arguments("Cross-encoders that retrieval taught, before any label.", argv)
    for path in teach(arguments.recipe, arguments.run):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
