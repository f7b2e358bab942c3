"""One cross-encoder run on our own layers: its steps, its losses, its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.data.batches import Specials, by_length, pair_batch, pieces_of
from training.data.text import product_text
from training.loop import LoopSettings, ParameterGroup, device_of, train
from training.losses import distil_listwise, graded_bce, margin_mse, pairwise_logistic
from training.models.networks import CrossEncoder, load_stack, pretrained_folder
from training.prepare import JudgedQuery, Prepared
from training.recipe import CrossRecipe, Recipe, RecipeError, StudentRecipe
from training.tracking import Tracker

# Puts the untrained score (late interaction times the mix) near 0 for a doubtful product.
_BIAS = -9.0
_MARGIN = 0.05


@dataclass(frozen=True)
class Group:
    """One step: a query and candidates. targets: 0 to 1; teacher: raw scores, or None where labelled."""

    query: list[int]
    products: list[list[int]]
    targets: list[float]
    teacher: list[float] | None = None


@dataclass(frozen=True)
class Pieces:
    """Word pieces of every product, cut for the cross-encoder. sets: name to product id to ids."""

    sets: dict[str, dict[str, list[int]]]
    specials: Specials

    @classmethod
    def of(cls, recipe: Recipe, prepared: Prepared) -> Pieces:
        """Tokenise each product once."""
        sets = {}
        for name, products in prepared.products.items():
            texts = [product_text(product, recipe.text.cross_fields) for product in products.values()]
            rows = pieces_of(prepared.tokenizer, texts, recipe.text.cross_tokens_max)
            sets[name] = dict(zip(products, rows, strict=True))
        return cls(sets, Specials.of(prepared.tokenizer))


def positions_of(recipe: Recipe) -> int:
    """Positions of a cross-encoder: the longest pair, its special tokens, and some room."""
    return recipe.text.cross_tokens_max + recipe.text.query_tokens_max + 8


def new_cross(recipe: Recipe, settings: CrossRecipe, prepared: Prepared) -> CrossEncoder:
    """An untrained cross-encoder on the pretrained layers that the recipe names."""
    stack = load_stack(
        pretrained_folder(recipe.pretrained),
        kept_tokens=prepared.kept_tokens,
        layers=settings.layers,
        positions=positions_of(recipe),
    )
    if isinstance(settings, StudentRecipe):
        stack.shape = replace(stack.shape, apart=settings.apart)
    model = CrossEncoder(stack.shape)
    model.stack = stack
    model.head.bias.data.fill_(_BIAS)
    if isinstance(settings, StudentRecipe) and settings.score == "head":
        by_head_alone(model)
    return model


def by_head_alone(model: CrossEncoder) -> CrossEncoder:
    """A cross-encoder whose score is its linear head over [CLS] and nothing else; it is changed in place.

    The mix stays in the model, at 0, so that one format holds both kinds.
    """
    model.mix.data.zero_()
    model.mix.requires_grad_(False)
    model.head.bias.data.zero_()
    return model


def labelled_groups(
    recipe: Recipe,
    settings: CrossRecipe,
    prepared: Prepared,
    pieces: Pieces,
    queries: Sequence[JudgedQuery],
    chooser: np.random.Generator,
) -> list[Group]:
    """Steps from labels: up to `group` judged products of a query, and some random ones as target 0.

    Raises: RecipeError where a gain has no target.
    """
    targets = {one.name: one.targets for one in recipe.data}
    groups = []
    for query in queries:
        keys = [key for key in query.gains if key in pieces.sets.get(query.set, {})]
        if not keys:
            continue
        asked = pieces_of(prepared.tokenizer, [query.text], recipe.text.query_tokens_max)[0]
        everything = list(pieces.sets[query.set])
        chooser.shuffle(keys)
        for start in range(0, len(keys), settings.group):
            chosen = keys[start : start + settings.group]
            wanted = []
            for key in chosen:
                gain = str(float(query.gains[key]))
                if gain not in targets[query.set]:
                    raise RecipeError(f"data.{query.set}.targets says nothing of the gain {gain}")
                wanted.append(targets[query.set][gain])
            others = [
                everything[at] for at in chooser.integers(len(everything), size=settings.random_products)
            ]
            others = [key for key in others if key not in query.gains]
            groups.append(
                Group(
                    asked,
                    [pieces.sets[query.set][key] for key in (*chosen, *others)],
                    wanted + [0.0] * len(others),
                )
            )
    return groups


def train_cross(
    model: CrossEncoder,
    recipe: Recipe,
    settings: CrossRecipe,
    groups: Sequence[Group],
    specials: Specials,
    *,
    seed: int,
    name: str,
    checkpoint: Path | None = None,
    tracker: Tracker | None = None,
) -> CrossEncoder:
    """Train a cross-encoder over groups in random order; it is changed in place.

    Stops after `epochs` (a student's `steps`, where it has some), or after `minutes_max` with the learning
    rate already brought down: progress through the schedule is whichever of steps and time is further on.
    checkpoint: see `training.loop.train`.
    Raises: FloatingPointError where the loss is no longer finite; CheckpointError; DeviceMemoryError.
    """
    torch.manual_seed(seed)
    # The word table stays as pretrained: words that no training query has keep their place beside the others.
    model.stack.words.weight.requires_grad_(False)
    known = {id(one) for one in (model.head.weight, model.head.bias, model.mix)}
    heads = [one for one in (model.head.weight, model.head.bias, model.mix) if one.requires_grad]
    body = [one for one in model.parameters() if one.requires_grad and id(one) not in known]
    train(
        model,
        groups,
        lambda group: group_loss(model, group, specials, settings),
        [
            ParameterGroup(body, settings.learning_rate),
            ParameterGroup(heads, settings.head_learning_rate, clipped=False),
        ],
        loop_settings(settings, name),
        name=name,
        seed=seed,
        checkpoint=checkpoint,
        about={"layers": str(settings.layers), "pretrained": recipe.pretrained},
        tracker=tracker,
    )
    return model


def loop_settings(settings: CrossRecipe, name: str) -> LoopSettings:
    """How the recipe wants a run to be trained. Raises: RecipeError naming the setting."""
    try:
        return LoopSettings(
            epochs=settings.epochs,
            steps=settings.steps if isinstance(settings, StudentRecipe) else 0,
            accumulate=settings.accumulate,
            warm_up=settings.warm_up,
            weight_decay=settings.weight_decay,
            dropout=settings.dropout,
            clip_norm=settings.clip_norm,
            precision=settings.precision,
            checkpointing=settings.checkpointing,
            minutes_max=settings.minutes_max,
            device=settings.device,
            checkpoint_steps=settings.checkpoint_steps,
        )
    except ValueError as error:
        raise RecipeError(f"{name}: {error}") from error


def group_loss(model: CrossEncoder, group: Group, specials: Specials, settings: CrossRecipe) -> Tensor:
    """Loss of one step: order and grade where labelled, what a teacher says of the products where not."""
    device = device_of(model)
    scores = model(*(one.to(device) for one in pair_batch(group.query, group.products, specials)))
    if group.teacher is not None:
        return _teacher_loss(scores, torch.tensor(group.teacher, device=device), settings)
    targets = torch.tensor(group.targets, device=device)
    return pairwise_logistic(scores, targets) + settings.bce_weight * graded_bce(scores, targets)


def _teacher_loss(scores: Tensor, teacher: Tensor, settings: CrossRecipe) -> Tensor:
    weights, temperature = {"margin": 1.0}, 1.0
    if isinstance(settings, StudentRecipe):
        weights, temperature = settings.teacher_losses, settings.temperature
    losses = {
        # Brought to the size of the losses on labels: differences of logits are squared here.
        "margin": lambda: _MARGIN * margin_mse(scores, teacher),
        "listwise": lambda: distil_listwise(scores, teacher, temperature=temperature),
    }
    return torch.stack([weight * losses[name]() for name, weight in weights.items() if weight]).sum()


@torch.inference_mode()
def score_products(
    model: CrossEncoder, query: Sequence[int], products: Sequence[Sequence[int]], specials: Specials
) -> list[float]:
    """Scores of one query's products, in their order."""
    scores = [0.0] * len(products)
    for batch in by_length(products, 64):
        found = model(*pair_batch(query, [products[at] for at in batch], specials)).tolist()
        for at, score in zip(batch, found, strict=True):
            scores[at] = score
    return scores
