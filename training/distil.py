"""Distil: cross-encoders small enough to serve, from labels and from teachers' scores of unlabelled pairs.

For each cross tier of the recipe, and each fold, a student that saw neither the fold's labels nor a teacher
that did, to measure what the tier is worth on unseen queries; then the student that ships, trained on all of
them. A student starts from pretrained layers, or from those of the teachers with the same labels. Writes
`distil/<tier>.fold<k>.pt` and `<tier>.pt`, and `distil/curves.png`; what is there is not trained again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from muster.v1 import catalogue_pb2
from training.augment import Augmented, augmented_groups, load_augmented
from training.cross import (
    Group,
    Pieces,
    by_head_alone,
    labelled_groups,
    new_cross,
    positions_of,
    train_cross,
)
from training.curves import draw_curves
from training.data.batches import pair_batch, pieces_of
from training.data.edits import Effect, back_off
from training.data.lexicon import Lexicon, learn
from training.data.mining import title_query
from training.data.text import product_text
from training.models.hub import as_cross_encoder, load_scorer
from training.models.networks import CrossEncoder, save_model
from training.models.pruning import importance, most_important, shrink
from training.prepare import JudgedQuery, Prepared, load_prepared
from training.recipe import Recipe, RecipeError, StudentRecipe, stage_arguments
from training.recover import RecoveryTexts
from training.teacher import Teachers, member_folder, training_queries
from training.tracking import Tracker, open_tracker

_BATCH = 16


@dataclass(frozen=True)
class Sources:
    """What students are made of. What is dear is made once, when it is first asked for."""

    recipe: Recipe
    run: Path
    prepared: Prepared
    pieces: Pieces
    _scored: dict[tuple[int | None, int, int, float, int], list[Group]] = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: Recipe, run: Path) -> Sources:
        """Those of a run folder. Raises: FileNotFoundError naming the stage that comes first."""
        prepared = load_prepared(run)
        return cls(recipe, run, prepared, Pieces.of(recipe, prepared))

    @cached_property
    def texts(self) -> RecoveryTexts:
        """Texts by which importance and ranges are measured."""
        return RecoveryTexts.of(self.recipe, self.prepared)

    @cached_property
    def augmented(self) -> list[Augmented]:
        """The edited pairs."""
        return load_augmented(self.run)

    def scored(self, settings: StudentRecipe, fold: int | None, seed: int) -> list[Group]:
        """`teacher_groups`, the same ones for the same settings and seed."""
        key = (fold, settings.pairs, settings.group, settings.synthetic, seed)
        if key not in self._scored:
            # A generator of its own: what the labels draw must not change what the teachers are asked.
            chooser = np.random.default_rng([seed, 1])
            self._scored[key] = teacher_groups(
                self.recipe, self.run, settings, self.prepared, self.pieces, fold, chooser
            )
        return self._scored[key]


def distil(recipe: Recipe, run: Path) -> list[Path]:
    """Run the stage. Returns the files of the students that ship, the smaller first.

    Raises: FileNotFoundError naming the stage that comes first; RecipeError; what the training loop raises.
    """
    sources = Sources.of(recipe, run)
    for number, (tier, settings) in enumerate(recipe.students().items()):
        for fold in (*range(recipe.folds), None):
            path = student_file(run, tier, fold)
            if path.is_file():
                continue
            seed = recipe.seed + 100 * (number + 1) + (recipe.folds if fold is None else fold)
            checkpoint = _checkpoint(run, tier, fold)
            with open_tracker(recipe.tracking, run, f"distil/{checkpoint.stem}") as tracker:
                name = tier if fold is None else f"{tier}, fold {fold}"
                made = student(
                    sources, settings, fold, seed=seed, name=name, checkpoint=checkpoint, tracker=tracker
                )
            save_model(path, made)
            checkpoint.unlink(missing_ok=True)
    draw_curves(run, "distil")
    return [student_file(run, tier, None) for tier in recipe.students()]


def student_file(run: Path, tier: str, fold: int | None) -> Path:
    """The student that ships (None), or the one that saw no label of a fold."""
    return run / (f"{tier}.pt" if fold is None else f"distil/{tier}.fold{fold}.pt")


def _checkpoint(run: Path, tier: str, fold: int | None) -> Path:
    return run / "distil" / f"{student_file(run, tier, fold).stem}.checkpoint"


def student(
    sources: Sources,
    settings: StudentRecipe,
    fold: int | None,
    *,
    seed: int,
    name: str,
    checkpoint: Path | None = None,
    tracker: Tracker | None = None,
) -> CrossEncoder:
    """One student, which saw no label of a fold (None: it saw all).

    seed: of all that is drawn. name, checkpoint, tracker: as for `training.loop.train`.
    Raises: FileNotFoundError naming the stage that comes first; RecipeError; what the training loop raises.
    """
    recipe, prepared, pieces = sources.recipe, sources.prepared, sources.pieces
    anchor_settings = settings
    if settings.start == "teacher":
        model = taught(recipe, sources.run, prepared, settings, fold)
        if recipe.teacher.layers:
            # A student names the teacher's layers, and the teacher those of the pretrained stack.
            own = [recipe.teacher.layers[at] for at in settings.layers]
            anchor_settings = replace(settings, layers=own)
    else:
        model = new_cross(recipe, settings, prepared)
    anchor = new_cross(recipe, anchor_settings, prepared)
    if settings.inner < 1.0:
        model, anchor = _narrowed(sources, settings.inner, model, anchor, seed)
    if settings.trains():
        chooser = np.random.default_rng(seed)
        queries = training_queries(recipe, prepared, fold)
        groups = []
        if settings.epochs:
            groups = labelled_groups(recipe, settings, prepared, pieces, queries, chooser)
        if settings.augmented:
            rows = sources.augmented
            groups += augmented_groups(recipe, settings, prepared, pieces, queries, rows, chooser)
        if settings.pairs:
            groups += sources.scored(settings, fold, seed)
        model = train_cross(
            model,
            recipe,
            settings,
            groups,
            pieces.specials,
            seed=seed,
            name=name,
            checkpoint=checkpoint,
            tracker=tracker,
        )
    return averaged(model, anchor, settings.keep_share)


def _narrowed(
    sources: Sources, share: float, model: CrossEncoder, anchor: CrossEncoder, seed: int
) -> tuple[CrossEncoder, CrossEncoder]:
    """Both models with the feed-forward neurons that matter most to the first, the same ones of each.

    The second is what the weights are drawn back to, so it must keep the same neurons.
    """
    settings = sources.recipe.prune
    chooser = np.random.default_rng(sources.recipe.seed + 200)
    count = max(1, settings.sample // _BATCH)
    drawn = [sources.texts.draw_group(_BATCH, chooser) for _ in range(count)]
    batches = [pair_batch(*group, sources.texts.specials) for group in drawn]
    worth = importance(model, batches, torch.Generator().manual_seed(seed))
    heads = [torch.arange(len(one.heads)) for one in worth]
    inner = most_important([one.inner for one in worth], share, settings.inner_multiple)
    return shrink(model, heads, inner, batches), shrink(anchor, heads, inner, batches)


def taught(
    recipe: Recipe, run: Path, prepared: Prepared, settings: StudentRecipe, fold: int | None
) -> CrossEncoder:
    """The layers of the teacher with the same labels, over the bundle's words; of several seeds, their mean.

    Teachers of one start lie in one valley, so the mean of their weights is a model (Wortsman et al. 2022,
    arXiv:2203.05482). Raises: FileNotFoundError naming the stage; RecipeError for an encoder of another kind.
    """
    found = []
    for seed in range(recipe.teacher.seeds):
        folder = member_folder(run, fold, seed)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is missing: run `python -m training.teacher` first")
        scorer, _ = load_scorer(folder)
        made = as_cross_encoder(
            folder,
            scorer,
            positions=positions_of(recipe),
            kept_tokens=prepared.kept_tokens,
            layers=settings.layers,
        )
        if made is None:
            raise RecipeError(f"{folder} is no BERT, so no student can start from its layers")
        made.stack.shape = replace(made.stack.shape, apart=settings.apart)
        if settings.score == "head":
            by_head_alone(made)
        found.append(made)
    for number, other in enumerate(found[1:], start=2):
        found[0] = averaged(found[0], other, 1.0 / number)
    return found[0]


def averaged(model: CrossEncoder, other: CrossEncoder, share: float) -> CrossEncoder:
    """A model with `share` of another's weights, 0 to 1, and the rest of its own; it is changed in place."""
    with torch.no_grad():
        for own, theirs in zip(model.parameters(), other.parameters(), strict=True):
            own.lerp_(theirs, share)
    return model


def teacher_groups(
    recipe: Recipe,
    run: Path,
    settings: StudentRecipe,
    prepared: Prepared,
    pieces: Pieces,
    fold: int | None,
    chooser: np.random.Generator,
) -> list[Group]:
    """Steps from teachers: queries with products of any set, most of them sharing a word.

    Queries are those of training, labelled or not, and a share that is made from products (`_made_up`). fold:
    use only the teachers that never saw this fold; None: each query is scored by the teachers that never saw
    it (unlabelled queries by all of them). The scale is that of `training.teacher.Teachers`.
    Raises: FileNotFoundError, saying which stage comes first.
    """
    queries = [query for query in prepared.queries if query.split == "train"]
    places = [(name, key) for name in pieces.sets for key in pieces.sets[name]]
    pool = [pieces.sets[name][key] for name, key in places]
    holders: dict[int, list[int]] = {}
    for at, row in enumerate(pool):
        for piece in set(row):
            holders.setdefault(piece, []).append(at)
    teachers = Teachers(recipe, run)
    # Not learnt where none is asked for: it takes seconds.
    tables = prepared.products.items() if settings.synthetic else ()
    lexicons = {name: learn(table.values()) for name, table in tables}
    groups = []
    size = settings.group
    for _ in tqdm(range(max(1, settings.pairs // size)), desc="teachers' scores", mininterval=10):
        query = queries[int(chooser.integers(len(queries)))]
        if settings.synthetic and chooser.random() < settings.synthetic:
            name, key = places[int(chooser.integers(len(places)))]
            query = _made_up(name, prepared.products[name][key], lexicons[name], chooser) or query
        asked = pieces_of(prepared.tokenizer, [query.text], recipe.text.query_tokens_max)[0]
        if not asked:
            continue
        # Rare pieces say more about a query than common ones.
        rare = sorted((piece for piece in asked if piece in holders), key=lambda piece: len(holders[piece]))
        near = [at for piece in rare[:2] for at in holders[piece]]
        chosen = [int(at) for at in chooser.integers(len(pool), size=size // 4)]
        if near:
            chosen += [near[int(at)] for at in chooser.integers(len(near), size=size - len(chosen))]
        drawn = list(dict.fromkeys(chosen))
        texts = [
            product_text(prepared.products[name][key], recipe.text.cross_fields)
            for name, key in (places[at] for at in drawn)
        ]
        which = teachers.fold_for(query) if fold is None else fold
        scores = teachers.score(query.text, texts, fold=which)
        groups.append(Group(asked, [pool[at] for at in drawn], [], scores))
    return groups


def _made_up(
    name: str, product: catalogue_pb2.Product, lexicon: Lexicon, chooser: np.random.Generator
) -> JudgedQuery | None:
    """A query that the product answers, by attributes or words of its title; None where it has neither."""
    pairs = back_off(product, lexicon, Effect(), chooser, neighbours=0) if chooser.random() < 0.5 else []
    text = pairs[0].query if pairs else title_query(product, chooser)
    return None if not text else JudgedQuery(name, "", "train", text, {})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    arguments = stage_arguments("Cross-encoders small enough to serve.", argv)
    for path in distil(arguments.recipe, arguments.run):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
