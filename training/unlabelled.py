"""Unlabelled: adapt the pretrained encoder to the catalogues before its projection is fitted.

Six parts, each with its own steps and weight in the recipe's `[unlabelled]`: a title against the rest of
its product (`structure`), queries made from attributes against mined hard negatives (`synthetic`), the
ensemble's grades for unlabelled queries (`pseudo`), guessing hidden words (`masked`), a text against itself
under another dropout mask (`dropout`), and the labelled training pairs (`labels`). What is written is an
average of the adapted and the pretrained weights (Wortsman et al. 2022, arXiv:2109.01903): few labels easily
hurt a good zero-shot encoder.

No part but `labels` sees a judged query. With labels, or with teachers that saw labels, one encoder a fold is
written beside the one that ships: `adapted-fold<k>.pt` saw no label of fold k, so figures on that fold stay
out of fold.

Writes `adapted.pt`, `adapted-fold<k>.pt`, and `unlabelled/report.json` with train and dev curves and, out of
fold, nDCG@10 of the judged products before and after. With `--ablation` it measures each part alone, and all
of them, into `unlabelled/ablation.json` and leaves the encoders as they are.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.data.batches import text_batch
from training.data.folds import fold_of
from training.data.mining import (
    Example,
    Pool,
    labelled_example,
    negatives_allowed,
    structure_example,
    synthetic_example,
)
from training.data.tables import TRAIN, UNLABELLED
from training.data.text import product_text
from training.data.whole_files import write_report
from training.loop import (
    DEVICES,
    PRECISIONS,
    LoopSettings,
    ParameterGroup,
    chosen_device,
    chosen_precision,
    train,
)
from training.losses import pairwise_logistic
from training.losses.contrastive import hide_words, masked_words, paired_info_nce, soft_cross_entropy
from training.measure import Estimate, best_first, difference, estimate, ndcg_by_query
from training.models.networks import (
    Encoder,
    Stack,
    load_stack,
    pretrained_folder,
    save_model,
    unit,
)
from training.prepare import JudgedQuery, Prepared, load_classes, load_prepared
from training.recipe import (
    DEFAULT_RECIPE,
    PartRecipe,
    Recipe,
    RecipeError,
    UnlabelledRecipe,
    load_recipe,
)
from training.teacher import Teachers, member_folder, training_queries
from training.tracking import Tracker, open_tracker
from training.vectors import Vectors, encode

SCORES = ("dense", "late")
_DEV_BATCHES = 2
_CURVE_POINTS = 10
_PSEUDO_SHARPNESS = 2.0

Measured = dict[str, dict[str, dict[str, float]]]
"""Score to set to query to nDCG@10 of its judged products."""


def start_stack(recipe: Recipe, prepared: Prepared) -> Stack:
    """The pretrained stack over the cut vocabulary, with room for the longest text of the encoder."""
    return load_stack(
        pretrained_folder(recipe.pretrained),
        kept_tokens=prepared.kept_tokens,
        layers=None,
        positions=recipe.text.dense_tokens_max + recipe.text.query_tokens_max + 8,
    )


def fingerprint(recipe: Recipe, prepared: Prepared) -> str:
    """Names what an adapted encoder depends on, so that one of an older recipe is not taken for it."""
    told = {
        "unlabelled": dataclasses.asdict(recipe.unlabelled),
        "text": dataclasses.asdict(recipe.text),
        "seed": recipe.seed,
        "folds": recipe.folds,
        "pretrained": recipe.pretrained,
        "targets": {one.name: one.targets for one in recipe.data},
        "tokens": hashlib.sha256(json.dumps(list(prepared.kept_tokens)).encode()).hexdigest(),
        "products": {name: len(table) for name, table in prepared.products.items()},
        "queries": len(prepared.queries),
        "labels": sum(len(query.gains) for query in prepared.queries),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def adapted_stack(recipe: Recipe, prepared: Prepared, run: Path, fold: int | None) -> Stack | None:
    """The adapted stack of a run; None where the recipe adapts nothing.

    fold: the one that saw no label of this fold; None: the one that ships.
    Raises: FileNotFoundError where the stage has not run; RecipeError where it ran with another recipe.
    """
    path = _path(run, fold)
    if not recipe.unlabelled.parts():
        return None
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run `python -m training.unlabelled` first")
    saved = torch.load(path, weights_only=True)
    if saved.get("made_with") != fingerprint(recipe, prepared):
        raise RecipeError(
            f"{path} was made with another recipe or other data: run `python -m training.unlabelled` again"
        )
    stack = start_stack(recipe, prepared)
    prefix = "stack."
    stack.load_state_dict(
        {key[len(prefix) :]: value for key, value in saved["state"].items() if key.startswith(prefix)}
    )
    return stack


def saw_labels(recipe: Recipe, run: Path) -> bool:
    """Whether the adapted encoder of a run learnt from labels, so that figures need the one of each fold."""
    path = _path(run, None)
    if not recipe.unlabelled.parts() or not path.is_file():
        return False
    return bool(torch.load(path, weights_only=True).get("saw_labels", False))


def _uses_labels(recipe: Recipe, run: Path) -> bool:
    # A teacher in the run folder saw labels, and `pseudo` hands on what it learnt.
    parts = recipe.unlabelled.parts()
    return "labels" in parts or ("pseudo" in parts and _has_teachers(recipe, run))


# -- examples ----------------------------------------------------------


@dataclass
class Examples:
    """Draws the batches of each part.

    fold: whose queries are never seen; None: none is left out. loose: texts that belong to no product.
    pseudo: held out or not, to graded queries.
    """

    recipe: Recipe
    prepared: Prepared
    pool: Pool
    fold: int | None
    loose: Sequence[str]
    pseudo: Mapping[bool, Sequence[Example]]

    def batch(self, part: str, chooser: np.random.Generator, *, held_out: bool) -> list[Example]:
        """Examples of one step of a part that compares queries with products."""
        settings = self.recipe.unlabelled
        if part == "labels":
            return self._labelled(chooser, held_out)
        if part == "pseudo":
            known = self.pseudo[held_out]
            return [known[int(at)] for at in chooser.integers(len(known), size=settings.batch // 2 or 1)]
        make = structure_example if part == "structure" else synthetic_example
        found: list[Example] = []
        for _ in range(20 * settings.batch):
            one = make(self.pool, chooser, negatives=settings.hard_negatives, held_out=held_out)
            if one is not None:
                found.append(one)
            if len(found) == settings.batch:
                break
        if not found:
            raise RecipeError(
                f"unlabelled.{part}: the products hold nothing to learn from; set its steps to 0"
            )
        return found

    def texts(self, chooser: np.random.Generator, *, held_out: bool) -> list[list[int]]:
        """Word pieces of titles, product texts and unlabelled texts, for the parts without pairs."""
        settings = self.recipe.unlabelled
        queries = [text for text in self.loose if self.pool.is_held_out(text) == held_out]
        # Where there are more texts than products (short sentences), they are what there is to learn from.
        share = max(0.25, len(self.loose) / (len(self.loose) + 2 * len(self.pool.rows)))
        rows: list[list[int]] = []
        while len(rows) < settings.batch:
            if queries and chooser.random() < share:
                row = self.pool.asked(queries[int(chooser.integers(len(queries)))])
            else:
                key = self.pool.draw(chooser, held_out=held_out)
                title = self.pool.products[key].title
                row = self.pool.asked(title) if chooser.random() < 0.5 else self.pool.rows[key]
            if row:
                rows.append(row)
        return rows

    def _labelled(self, chooser: np.random.Generator, held_out: bool) -> list[Example]:
        settings = self.recipe.unlabelled
        if not held_out:
            queries = training_queries(self.recipe, self.prepared, self.fold)
        elif self.fold is None:
            queries = [query for query in self.prepared.queries if query.split == "dev" and query.gains]
        else:
            kept = {id(query) for query in training_queries(self.recipe, self.prepared, self.fold)}
            everything = training_queries(self.recipe, self.prepared, None)
            queries = [query for query in everything if id(query) not in kept]
        by_set: dict[str, list[JudgedQuery]] = {}
        for query in queries:
            by_set.setdefault(query.set, []).append(query)
        if not by_set:
            raise RecipeError("unlabelled.labels: no labelled query is left; set its steps to 0")
        names = sorted(by_set)
        shares = np.sqrt([sum(len(query.gains) for query in by_set[name]) for name in names])
        name = names[int(chooser.choice(len(names), p=shares / shares.sum()))]
        found: list[Example] = []
        products = 0
        for at in chooser.permutation(len(by_set[name])):
            one = labelled_example(self.pool, by_set[name][int(at)], chooser, candidates=settings.candidates)
            if one is not None:
                found.append(one)
                products += len(one.rows)
            if products >= 2 * settings.batch or len(found) >= settings.batch:
                break
        return found


def unlabelled_queries(recipe: Recipe, prepared: Prepared) -> list[JudgedQuery]:
    """Queries whose texts may be seen: nobody judged them, or no ranking is measured on their set."""
    measured = {one.name for one in recipe.judged()}
    return [
        query
        for query in prepared.queries
        if query.split == UNLABELLED or (query.split == TRAIN and query.set not in measured)
    ]


def loose_texts(recipe: Recipe, prepared: Prepared, run: Path) -> list[str]:
    """Texts that belong to no product: unlabelled queries, and classed texts without their class."""
    found = [query.text for query in unlabelled_queries(recipe, prepared)]
    found += [one.text for one in load_classes(run) if one.split in (TRAIN, UNLABELLED)]
    return list(dict.fromkeys(found))


def pseudo_examples(
    recipe: Recipe, prepared: Prepared, run: Path, pool: Pool, fold: int | None, chooser: np.random.Generator
) -> dict[bool, list[Example]]:
    """Unlabelled queries with products that share words with them, graded by an ensemble.

    The ensemble is the mean of standardised scores: the pretrained encoder's dense and late scores, word
    overlap, and, where they are trained, the teachers' (of a fold: those that never saw its labels).
    Targets are the softmax of that mean, times a sharpness of 2. Each query meets the products of one set,
    the one whose best product shares most with it.
    Returns: held out or not, to examples.
    """
    settings = recipe.unlabelled
    wanted = settings.pseudo.steps * (settings.batch // 2 or 1)
    queries = unlabelled_queries(recipe, prepared)
    queries = [queries[int(at)] for at in chooser.permutation(len(queries))]
    found: list[tuple[JudgedQuery, list[int], list[str]]] = []
    for query in queries[: max(wanted, 40)]:
        asked = pool.asked(query.text)
        near = [key for key in pool.overlap.best(query.text, 200) if pool.rows[key]]
        if not asked or not near:
            continue
        near = [key for key in near if key.split("/", 1)[0] == near[0].split("/", 1)[0]]
        first = settings.candidates // 2
        rest = near[first:40]
        picked = near[:first] + [
            rest[int(at)] for at in chooser.permutation(len(rest))[: settings.candidates - first]
        ]
        if len(picked) > 1:
            found.append((query, asked, picked))
    if not found:
        raise RecipeError(
            "unlabelled.pseudo: no unlabelled query shares a word with a product; set its steps to 0"
        )
    teacher = Encoder(start_stack(recipe, prepared).shape, 1)
    teacher.stack = start_stack(recipe, prepared)
    products = {key: pool.rows[key] for _, _, keys in found for key in keys}
    half = _half(recipe)
    vectors = encode(teacher, products, pool.specials, projected=False, half=half, note="pseudo-labels")
    texts = encode(
        teacher,
        {str(at): one[1] for at, one in enumerate(found)},
        pool.specials,
        projected=False,
        half=half,
    )
    teachers = Teachers(recipe, run) if _has_teachers(recipe, run) else None
    made: dict[bool, list[Example]] = {False: [], True: []}
    for at, (query, asked, keys) in enumerate(found):
        overlap = pool.overlap.scores(query.text)
        scores = [
            vectors.dense_scores(texts.dense[at], keys),
            vectors.late_scores(texts.tokens[at], keys),
            np.array([overlap[pool.overlap.at[key]] for key in keys], dtype=np.float32),
        ]
        if teachers is not None:
            offered = [product_text(pool.products[key], recipe.text.cross_fields) for key in keys]
            unseen = fold if fold is not None else teachers.fold_for(query)
            said = teachers.score(query.text, offered, fold=unseen)
            scores.append(np.array(said, dtype=np.float32))
        graded = ensemble(scores)
        targets = torch.softmax(torch.from_numpy(graded) * _PSEUDO_SHARPNESS, dim=0).tolist()
        example = Example(asked, frozenset(), keys, [pool.rows[key] for key in keys], targets, open=False)
        made[pool.is_held_out(query.text)].append(example)
    # Too few for a share of them to be held out: the curve then shows the loss on what is learnt.
    for kept, other in ((True, False), (False, True)):
        made[kept] = made[kept] or made[other]
    return made


def ensemble(scores: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Mean of the scores of several rankers over the same candidates, each standardised first. [n] each."""
    total = np.zeros(len(scores[0]), dtype=np.float32)
    for one in scores:
        total += (one - one.mean()) / max(float(one.std()), 1e-6)
    return (total / len(scores)).astype(np.float32)


# -- learning ----------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One step of training: which part it belongs to, and its own random number."""

    part: str
    number: int


class Learner(nn.Module):
    """The encoder that learns, and the head that guesses hidden words."""

    def __init__(self, recipe: Recipe, encoder: Encoder, examples: Examples) -> None:
        super().__init__()
        self.recipe = recipe
        self.encoder = encoder
        self.examples = examples
        shape = encoder.stack.shape
        self.turn = nn.Linear(shape.width, shape.width)
        nn.init.eye_(self.turn.weight)
        nn.init.zeros_(self.turn.bias)
        self.bias = nn.Parameter(torch.zeros(shape.vocabulary))
        self.recent: dict[str, list[float]] = {}
        settings = recipe.unlabelled
        for parameter in encoder.parameters():
            parameter.requires_grad_(False)
        first = max(0, len(encoder.stack.layers) - settings.layers)
        self.body: list[nn.Parameter] = [
            one for layer in list(encoder.stack.layers)[first:] for one in layer.parameters()
        ]
        # The word table stays as pretrained, as a rule: words that no text here has keep their place.
        if settings.train_words:
            self.body += [*encoder.stack.words.parameters()]
        for parameter in self.body:
            parameter.requires_grad_(True)
        self.head = [self.turn.weight, self.turn.bias, self.bias]
        # What dense vectors are held to; in a list, so that it is no part of what is trained.
        self.pretrained: list[Stack] = []
        if settings.stay_weight > 0:
            self.pretrained.append(copy.deepcopy(encoder.stack).requires_grad_(False))

    def step(self, step: Step) -> Tensor:
        """Weighted loss of one step of training."""
        loss = self.loss(step, held_out=False)
        self.recent.setdefault(step.part, []).append(float(loss.detach()))
        return loss * self.recipe.unlabelled.parts()[step.part].weight

    def figures(self) -> dict[tuple[str, str], float]:
        """Losses of the steps since the last call, and of the same held-out batches at every call."""
        found = {("train", part): sum(one) / len(one) for part, one in self.recent.items() if one}
        self.recent.clear()
        for part in self.recipe.unlabelled.parts():
            losses = [
                self.loss(Step(part, -1 - number), held_out=True).item() for number in range(_DEV_BATCHES)
            ]
            found[("dev", part)] = sum(losses) / len(losses)
        return found

    def loss(self, step: Step, *, held_out: bool) -> Tensor:
        """Loss of one step, scalar, in nats, before its weight. Its draws follow from the step alone."""
        seed = [self.recipe.seed, int(held_out), abs(step.number)]
        chooser = np.random.default_rng(seed)
        if step.part in ("masked", "dropout"):
            rows = self.examples.texts(chooser, held_out=held_out)
            draws = torch.Generator().manual_seed(int(chooser.integers(2**62)))
            return self._masked(rows, draws) if step.part == "masked" else self._dropout(rows)
        batch = self.examples.batch(step.part, chooser, held_out=held_out)
        allowed = negatives_allowed(self.examples.pool, batch)
        return self._compared(batch, allowed, ordered=step.part == "labels")

    def _states(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Returns: unit dense [B, H], unit tokens [B, T, H], bool [B, T] of real words."""
        specials = self.examples.pool.specials
        ids, mask = (one.to(self.bias.device) for one in text_batch(rows, specials))
        states = self.encoder.stack(ids, mask).float()
        dense = _dense(states, mask)
        words = (mask > 0) & (ids != specials.start) & (ids != specials.end)
        return dense, unit(states), words

    def _moved(self, rows: Sequence[Sequence[int]], dense: Tensor) -> Tensor:
        """How far dense vectors of texts [B, H] are from the pretrained encoder's: mean of 1 - cosine."""
        pretrained = self.pretrained[0].to(dense.device)
        ids, mask = (one.to(dense.device) for one in text_batch(rows, self.examples.pool.specials))
        with torch.no_grad():
            before = _dense(pretrained(ids, mask).float(), mask)
        return (1.0 - (dense * before).sum(1)).mean()

    def _compared(self, batch: Sequence[Example], allowed: list[list[bool]], *, ordered: bool) -> Tensor:
        settings = self.recipe.unlabelled
        queries, products = [one.query for one in batch], [row for one in batch for row in one.rows]
        dense, tokens, words = self._states(queries)
        offered, product_tokens, product_words = self._states(products)
        permitted = torch.tensor(allowed, device=dense.device)
        targets = torch.zeros(permitted.shape, device=dense.device)
        start = 0
        spans = []
        for at, one in enumerate(batch):
            spans.append((at, start, start + len(one.rows)))
            targets[at, start : start + len(one.rows)] = torch.tensor(one.targets, device=dense.device)
            start += len(one.rows)
        similar = torch.einsum("qsd,ptd->qpst", tokens, product_tokens).float()
        best = similar.masked_fill(~product_words[None, :, None, :], -4.0).amax(dim=3)
        shown = words[:, None, :].to(best.dtype)
        late = (best * shown).sum(2) / shown.sum(2).clamp(min=1.0)
        total = dense.new_zeros(())
        for scores, weight in ((dense @ offered.T, settings.dense_weight), (late, settings.late_weight)):
            if weight == 0.0:
                continue
            scaled = scores.float() / settings.temperature
            total = total + weight * soft_cross_entropy(scaled, targets, permitted)
            if ordered:
                orders = [pairwise_logistic(scaled[at, a:b], targets[at, a:b]) for at, a, b in spans]
                total = total + weight * torch.stack(orders).mean()
        if self.pretrained:
            moved = self._moved(queries, dense) + self._moved(products, offered)
            total = total + settings.stay_weight * moved
        return total

    def _masked(self, rows: Sequence[Sequence[int]], draws: torch.Generator) -> Tensor:
        pool = self.examples.pool
        stack = self.encoder.stack
        mask_id = pool.tokenizer.token_to_id("[MASK]")
        if mask_id is None:
            raise RecipeError("unlabelled.masked: the tokenizer has no [MASK]; set its steps to 0")
        ids, mask = text_batch(rows, pool.specials)
        shown = (mask > 0) & (ids != pool.specials.start) & (ids != pool.specials.end)
        hidden, asked = hide_words(
            ids,
            shown,
            share=self.recipe.unlabelled.masked_share,
            mask=mask_id,
            vocabulary=stack.shape.vocabulary,
            chooser=draws,
        )
        device = self.bias.device
        states = self.turn(stack(hidden.to(device), mask.to(device))[asked.to(device)])
        return masked_words(states.float(), stack.words.weight, self.bias, ids[asked].to(device))

    def _dropout(self, rows: Sequence[Sequence[int]]) -> Tensor:
        settings = self.recipe.unlabelled
        # One text twice in a batch would be its own negative.
        rows = [list(row) for row in dict.fromkeys(tuple(row) for row in rows)]
        layers = [one for one in self.encoder.stack.modules() if isinstance(one, nn.Dropout)]
        before = [(one.p, one.training) for one in layers]
        try:
            for one in layers:
                one.p = settings.drop
                one.train()
            first, second = self._states(rows)[0], self._states(rows)[0]
        finally:
            for one, (share, was_training) in zip(layers, before, strict=True):
                one.p = share
                one.train(was_training)
        return paired_info_nce(first, second, temperature=settings.temperature)


def _dense(states: Tensor, mask: Tensor) -> Tensor:
    """Unit mean of the states [B, T, H] that mask [B, T] shows, as `Encoder.forward`. Returns: [B, H]."""
    share = mask.to(torch.float32)[..., None]
    return unit((states * share).sum(1) / share.sum(1))


def adapt(
    recipe: Recipe,
    prepared: Prepared,
    run: Path,
    pool: Pool,
    fold: int | None,
    *,
    checkpoint: Path | None = None,
    tracker: Tracker | None = None,
) -> tuple[Encoder, dict[str, Any]]:
    """Train one encoder and average it with the pretrained weights. Returns: it, and what the report says.

    checkpoint: where a killed run goes on from. Raises as `training.loop.train`, and RecipeError.
    """
    settings = recipe.unlabelled
    parts = settings.parts()
    seed = recipe.seed + 500 + (recipe.folds if fold is None else fold)
    stack = start_stack(recipe, prepared)
    encoder = Encoder(stack.shape, recipe.encoder.token_dimension).eval()
    encoder.stack = stack
    # Nobody should mistake a projection that was never fitted for one that was.
    nn.init.zeros_(encoder.project.weight)
    before = {key: value.clone() for key, value in stack.state_dict().items()}
    pseudo: Mapping[bool, Sequence[Example]] = {}
    if "pseudo" in parts:
        pseudo = pseudo_examples(recipe, prepared, run, pool, fold, np.random.default_rng(seed))
    learner = Learner(
        recipe, encoder, Examples(recipe, prepared, pool, fold, loose_texts(recipe, prepared, run), pseudo)
    )
    steps = [Step(part, number) for part, one in parts.items() for number in range(one.steps)]
    steps = [Step(one.part, number) for number, one in enumerate(steps)]
    name = "adapting" if fold is None else f"adapting, fold {fold}"
    outcome = train(
        learner,
        steps,
        learner.step,
        [
            ParameterGroup(learner.body, settings.learning_rate),
            ParameterGroup(learner.head, settings.head_learning_rate, clipped=False),
        ],
        LoopSettings(
            warm_up=settings.warm_up,
            precision=settings.precision,
            device=settings.device,
            minutes_max=settings.minutes_max,
            checkpoint_steps=settings.checkpoint_steps if checkpoint is not None else 0,
            evaluate_steps=max(1, len(steps) // _CURVE_POINTS),
        ),
        name=name,
        seed=seed,
        checkpoint=checkpoint,
        about={"made_with": fingerprint(recipe, prepared), "fold": -1 if fold is None else fold},
        evaluate=learner.figures,
        tracker=tracker,
    )
    after = encoder.stack.state_dict()
    keep = settings.keep_share
    stack.load_state_dict({key: keep * before[key] + (1.0 - keep) * after[key] for key in before})
    told = {
        "steps": outcome.steps,
        "stopped": outcome.stopped,
        "minutes": round(outcome.minutes, 2),
        "device": outcome.device,
        "precision": outcome.precision,
        "curves": [[step, split, part, round(value, 4)] for step, split, part, value in outcome.curves],
    }
    return encoder.eval(), told


# -- measuring ----------------------------------------------------------


def judged_ndcg(
    recipe: Recipe, prepared: Prepared, encoder: Encoder, pool: Pool, queries: Sequence[JudgedQuery]
) -> Measured:
    """nDCG@10 of the judged products of queries, by dense and by late scores in the width of the stack."""
    half = _half(recipe)
    known = {
        f"{query.set}/{key}" for query in queries for key in query.gains if f"{query.set}/{key}" in pool.rows
    }
    vectors = encode(
        encoder, {key: pool.rows[key] for key in sorted(known)}, pool.specials, projected=False, half=half
    )
    texts = encode(
        encoder,
        {f"{query.set}/{query.query_id}": pool.asked(query.text) for query in queries},
        pool.specials,
        projected=False,
        half=half,
    )
    return {
        score: {
            name: ndcg_by_query(
                {query.query_id: query.gains for query in queries if query.set == name},
                {
                    query.query_id: _ranked(score, query, vectors, texts)
                    for query in queries
                    if query.set == name
                },
            )
            for name in sorted({query.set for query in queries})
        }
        for score in SCORES
    }


def _ranked(score: str, query: JudgedQuery, vectors: Vectors, texts: Vectors) -> list[str]:
    keys = [key for key in query.gains if f"{query.set}/{key}" in vectors.at]
    at = texts.at[f"{query.set}/{query.query_id}"]
    named = [f"{query.set}/{key}" for key in keys]
    scores = (
        vectors.dense_scores(texts.dense[at], named)
        if score == "dense"
        else vectors.late_scores(texts.tokens[at], named)
    )
    return [keys[place] for place in best_first(scores.astype(np.float64))]


def measured_queries(recipe: Recipe, prepared: Prepared, fold: int | None) -> list[JudgedQuery]:
    """Training queries of the judged sets, of one fold (None: all), that have a relevant product."""
    return [
        query
        for one in recipe.judged()
        for query in prepared.of(one.name, "train")
        if max(query.gains.values(), default=0.0) > 0
        and (fold is None or fold_of(query.set, query.query_id, recipe.folds, recipe.seed) == fold)
    ]


def merged(parts: Sequence[Measured]) -> Measured:
    """Figures of several folds as one."""
    found: Measured = {}
    for one in parts:
        for score, sets in one.items():
            for name, values in sets.items():
                found.setdefault(score, {}).setdefault(name, {}).update(values)
    return found


def compared(recipe: Recipe, before: Measured, after: Measured) -> dict[str, Any]:
    """Means and paired differences, score by score and set by set, with intervals; noise is marked."""
    told: dict[str, Any] = {}
    for score in SCORES:
        told[score] = {"both": _gap(recipe, after[score], before[score])}
        for name in after[score]:
            told[score][name] = {
                "before": _mean(recipe, before[score][name]),
                "after": _mean(recipe, after[score][name]),
                **_gap(recipe, {name: after[score][name]}, {name: before[score][name]}),
            }
    return told


def _mean(recipe: Recipe, values: Mapping[str, float]) -> dict[str, float]:
    return estimate(values, seed=recipe.seed, rounds=recipe.plans.bootstrap).rounded()


def _gap(
    recipe: Recipe, after: Mapping[str, Mapping[str, float]], before: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    gap: Estimate = difference(
        after, before, seed=recipe.seed, rounds=recipe.plans.bootstrap, interval=recipe.plans.interval
    )
    return {
        "difference": round(gap.mean, 4),
        "low": round(gap.low, 4),
        "high": round(gap.high, 4),
        "inside_noise": gap.low <= 0 <= gap.high,
    }


# -- the stage ----------------------------------------------------------


def learn_unlabelled(recipe: Recipe, run: Path, note: Callable[[str], None] = print) -> list[Path]:
    """Run the stage. Returns the files written or found there; none where every part is switched off."""
    check(recipe)
    if not recipe.unlabelled.parts():
        return []
    prepared = load_prepared(run)
    pool = Pool(recipe, prepared, held_out=recipe.unlabelled.held_out)
    made_with = fingerprint(recipe, prepared)
    report: dict[str, Any] = {"made_with": made_with, "encoders": {}}
    path_of_report = run / "unlabelled" / "report.json"
    if path_of_report.is_file():
        old = json.loads(path_of_report.read_text())
        if old.get("made_with") == made_with:
            report = old
    folds: list[int | None] = [*range(recipe.folds)] if _uses_labels(recipe, run) else []
    files = []
    for fold in (*folds, None):
        path = _path(run, fold)
        files.append(path)
        name = "all" if fold is None else f"fold {fold}"
        if name in report["encoders"] and _made_with(path) == made_with:
            continue
        checkpoint = run / "unlabelled" / f"{path.stem}.checkpoint"
        with open_tracker(recipe.tracking, run, f"unlabelled/{path.stem}", note) as tracker:
            encoder, told = adapt(recipe, prepared, run, pool, fold, checkpoint=checkpoint, tracker=tracker)
        # An encoder that saw all labels has nothing to show on the training queries.
        if fold is not None or not folds:
            queries = measured_queries(recipe, prepared, fold)
            told["after"] = judged_ndcg(recipe, prepared, encoder, pool, queries)
        save_model(path, encoder, made_with=made_with, saw_labels=bool(folds))
        report["encoders"][name] = told
        report.pop("judged_out_of_fold", None)
        write_report(path_of_report, report)
        checkpoint.unlink(missing_ok=True)
    if "judged_out_of_fold" not in report:
        before = zero_shot(recipe, prepared, pool)
        after = merged([one["after"] for one in report["encoders"].values() if "after" in one])
        report["judged_out_of_fold"] = compared(recipe, before, after)
        write_report(path_of_report, report)
    note(json.dumps(report["judged_out_of_fold"]))
    return files


def zero_shot(recipe: Recipe, prepared: Prepared, pool: Pool) -> Measured:
    """nDCG@10 of the pretrained encoder as it is, on the measured training queries."""
    encoder = Encoder(start_stack(recipe, prepared).shape, 1).eval()
    encoder.stack = start_stack(recipe, prepared)
    return judged_ndcg(recipe, prepared, encoder, pool, measured_queries(recipe, prepared, None))


def ablation(recipe: Recipe, run: Path, note: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure each part of the recipe alone, and all of them, out of fold, against the pretrained encoder.

    Returns what ablation.json says; rows that are there with the same settings are not measured again.
    """
    check(recipe)
    prepared = load_prepared(run)
    pool = Pool(recipe, prepared, held_out=recipe.unlabelled.held_out)
    parts = recipe.unlabelled.parts()
    path = run / "unlabelled" / "ablation.json"
    told: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    before: Measured | None = None
    variants = {name: _only(recipe, [name]) for name in parts}
    if len(parts) > 1:
        variants["all"] = recipe
    for name, variant in variants.items():
        made_with = fingerprint(variant, prepared)
        if told.get(name, {}).get("made_with") == made_with:
            continue
        before = before or zero_shot(recipe, prepared, pool)
        started = time.monotonic()
        measured = []
        folds: list[int | None] = [*range(recipe.folds)] if _uses_labels(variant, run) else [None]
        curves = []
        for fold in folds:
            encoder, of_fold = adapt(variant, prepared, run, pool, fold)
            queries = measured_queries(recipe, prepared, fold)
            measured.append(judged_ndcg(recipe, prepared, encoder, pool, queries))
            curves.append(of_fold["curves"])
        told[name] = {
            "made_with": made_with,
            "seconds": round(time.monotonic() - started, 1),
            "judged_out_of_fold": compared(recipe, before, merged(measured)),
            "curves": curves,
        }
        write_report(path, told)
        note(f"{name}: {json.dumps(told[name]['judged_out_of_fold'])}")
    return told


def check(recipe: Recipe) -> None:
    """Refuse settings that cannot be learnt with. Raises: RecipeError naming the key."""
    settings = recipe.unlabelled
    rules: Iterator[tuple[str, bool, str]] = iter(
        [
            ("batch", settings.batch >= 2, "at least 2"),
            ("layers", settings.layers >= 1, "at least 1"),
            ("candidates", settings.candidates >= 2, "at least 2"),
            ("hard_negatives", settings.hard_negatives >= 0, "0 or above"),
            ("temperature", settings.temperature > 0, "above 0"),
            ("dense_weight", settings.dense_weight >= 0, "0 or above"),
            ("late_weight", settings.late_weight >= 0, "0 or above"),
            ("stay_weight", settings.stay_weight >= 0, "0 or above"),
            ("keep_share", 0 <= settings.keep_share < 1, "at least 0 and below 1"),
            ("held_out", 0 < settings.held_out < 1, "between 0 and 1"),
            ("masked_share", 0 < settings.masked_share < 1, "between 0 and 1"),
            ("drop", 0 < settings.drop < 1, "between 0 and 1"),
            ("minutes_max", settings.minutes_max >= 0, "0 (no limit) or above"),
            ("precision", settings.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
            ("device", settings.device in DEVICES, f"one of {', '.join(DEVICES)}"),
        ]
    )
    for key, holds, rule in rules:
        if not holds:
            raise RecipeError(f"unlabelled.{key} must be {rule}, not {getattr(settings, key)!r}")


def _only(recipe: Recipe, names: Sequence[str]) -> Recipe:
    off = {name: PartRecipe() for name in recipe.unlabelled.parts() if name not in names}
    settings: UnlabelledRecipe = replace(recipe.unlabelled, **off)  # type: ignore[arg-type]
    return replace(recipe, unlabelled=settings)


def _half(recipe: Recipe) -> bool:
    device = chosen_device(recipe.unlabelled.device)
    return chosen_precision(recipe.unlabelled.precision, device) != "off"


def _path(run: Path, fold: int | None) -> Path:
    return run / ("adapted.pt" if fold is None else f"adapted-fold{fold}.pt")


def _has_teachers(recipe: Recipe, run: Path) -> bool:
    return all(member_folder(run, fold, 0).is_dir() for fold in range(recipe.folds))


def _made_with(path: Path) -> str | None:
    if not path.is_file():
        return None
    found = torch.load(path, weights_only=True).get("made_with")
    return None if found is None else str(found)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    parser = argparse.ArgumentParser(description="Adapt the pretrained encoder to the catalogues.")
    parser.add_argument(
        "--recipe", type=Path, default=DEFAULT_RECIPE, help="TOML file (default: the shipped one)"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the data sets")
    parser.add_argument("--run", type=Path, required=True, help="folder for everything this run writes")
    parser.add_argument("--ablation", action="store_true", help="measure each part alone; write no encoder")
    parsed = parser.parse_args(argv)
    recipe = load_recipe(parsed.recipe)
    if parsed.ablation:
        ablation(recipe, parsed.run)
    else:
        for path in learn_unlabelled(recipe, parsed.run):
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
