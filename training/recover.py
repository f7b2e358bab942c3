"""Recovery: a changed model (pruned, or quantised in its forward pass) is pulled back to the whole one.

No label is used: the whole model's vectors or score differences on catalogue texts and training queries are
the target, so whatever was out of fold stays out of fold.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]

from training.data.batches import Specials, pair_batch, pieces_of, text_batch
from training.data.text import product_text
from training.losses import margin_mse
from training.models.networks import CrossEncoder, Encoder
from training.prepare import Prepared
from training.recipe import Recipe, RecoveryRecipe

_WARM_UP = 0.08
# Pairs' similarities differ by hundredths where vectors differ by tenths: the weight brings both to one size.
_SIMILARITY_WEIGHT = 5.0
_SPAN_PIECES_MAX = 10


@dataclass(frozen=True)
class RecoveryTexts:
    """Word pieces to recover on: training queries, and products as the encoder and a cross-encoder read them.

    starts: ids of pieces that can begin a word.
    """

    queries: list[list[int]]
    products: list[list[int]]
    cross_products: list[list[int]]
    starts: frozenset[int]
    specials: Specials

    @classmethod
    def of(cls, recipe: Recipe, prepared: Prepared) -> RecoveryTexts:
        """Tokenise the catalogue and the training queries, labelled or not, once.

        Raises: ValueError where either is empty.
        """
        everything = [one for table in prepared.products.values() for one in table.values()]

        def cut(fields: Sequence[str], tokens_max: int) -> list[list[int]]:
            texts = [product_text(product, fields) for product in everything]
            return [row for row in pieces_of(prepared.tokenizer, texts, tokens_max) if row]

        asked = [query.text for query in prepared.queries if query.split == "train"]
        queries = [row for row in pieces_of(prepared.tokenizer, asked, recipe.text.query_tokens_max) if row]
        products = cut(recipe.text.dense_fields, recipe.text.dense_tokens_max)
        if not queries or not products:
            raise ValueError(
                "there are no products or no training queries to recover on: see prepared/data.json"
            )
        starts = frozenset(
            number for token, number in prepared.tokenizer.get_vocab().items() if not token.startswith("##")
        )
        return cls(
            queries,
            products,
            cut(recipe.text.cross_fields, recipe.text.cross_tokens_max),
            starts,
            Specials.of(prepared.tokenizer),
        )

    def draw_queries(self, count: int, chooser: np.random.Generator) -> list[list[int]]:
        """Short texts: training queries and spans of products in turn, so that words of all kinds come up."""
        drawn = []
        for number in range(count):
            if number % 2:
                drawn.append(self.queries[int(chooser.integers(len(self.queries)))])
                continue
            row = self.products[int(chooser.integers(len(self.products)))]
            starts = [at for at, piece in enumerate(row) if piece in self.starts] or [0]
            start = starts[int(chooser.integers(len(starts)))]
            drawn.append(row[start : start + int(chooser.integers(2, _SPAN_PIECES_MAX + 1))])
        return drawn

    def draw_products(self, count: int, chooser: np.random.Generator) -> list[list[int]]:
        """Texts of random products."""
        return [self.products[int(at)] for at in chooser.integers(len(self.products), size=count)]

    def draw_group(self, count: int, chooser: np.random.Generator) -> tuple[list[int], list[list[int]]]:
        """A training query and products: of a larger draw those with most of its words, and with least."""
        query = self.queries[int(chooser.integers(len(self.queries)))]
        drawn = [
            self.cross_products[int(at)] for at in chooser.integers(len(self.cross_products), size=8 * count)
        ]
        words = set(query)
        drawn.sort(key=lambda row: -len(words & set(row)))
        return query, drawn[: count - count // 2] + drawn[-(count // 2) :] if count > 1 else drawn[:1]


def recover(
    student: Encoder | CrossEncoder,
    teacher: Encoder | CrossEncoder,
    texts: RecoveryTexts,
    settings: RecoveryRecipe,
    *,
    seed: int,
    name: str,
) -> dict[str, float]:
    """Train a model of either kind, in place, to say what the teacher says.

    Returns: {"loss_first", "loss_last", "steps", "seconds"}.
    Raises: FloatingPointError where the loss is no longer finite; TypeError for models of two kinds;
    ValueError for an unknown precision.
    """
    if settings.precision not in ("float32", "bfloat16"):
        raise ValueError(f"recovery.precision must be float32 or bfloat16, not {settings.precision!r}")
    if isinstance(student, Encoder) and isinstance(teacher, Encoder):
        return recover_encoder(student, teacher, texts, settings, seed=seed, name=name)
    if isinstance(student, CrossEncoder) and isinstance(teacher, CrossEncoder):
        return recover_cross(student, teacher, texts, settings, seed=seed, name=name)
    raise TypeError(f"a {type(student).__name__} cannot learn from a {type(teacher).__name__}")


def recover_encoder(
    student: Encoder,
    teacher: Encoder,
    texts: RecoveryTexts,
    settings: RecoveryRecipe,
    *,
    seed: int,
    name: str,
) -> dict[str, float]:
    """Train an encoder, in place, to say what the teacher says.

    Dense and token vectors by cosine, and the similarities of the queries and products of a step among each
    other. The projection of the token vectors stays as it is: the two encoders share one space.
    Returns and raises as `recover`.
    """
    chooser = np.random.default_rng(seed)
    student.project.requires_grad_(False)

    def step() -> Tensor:
        batches = [texts.draw_queries(settings.batch, chooser)]
        if chooser.random() >= settings.short_share:
            batches.append(texts.draw_products(settings.batch, chooser))
        loss = torch.zeros(())
        found, wanted = [], []
        for rows in batches:
            ids, mask = text_batch(rows, texts.specials)
            with _precision(settings):
                with torch.no_grad():
                    dense, tokens = (one.float() for one in teacher(ids, mask))
                ours, our_tokens = (one.float() for one in student(ids, mask))
            real = mask.to(torch.float32)
            loss = loss + (1.0 - (ours * dense).sum(-1)).mean()
            loss = loss + ((1.0 - (our_tokens * tokens).sum(-1)) * real).sum() / real.sum()
            found.append(ours)
            wanted.append(dense)
        if len(batches) == 2:
            loss = loss / 2.0 + _SIMILARITY_WEIGHT * (
                (found[0] @ found[1].T - wanted[0] @ wanted[1].T).pow(2).mean()
            )
        return loss

    return _train(student, step, settings, name)


def recover_cross(
    student: CrossEncoder,
    teacher: CrossEncoder,
    texts: RecoveryTexts,
    settings: RecoveryRecipe,
    *,
    seed: int,
    name: str,
) -> dict[str, float]:
    """Train a cross-encoder, in place, towards the teacher's score differences among the products of a query.

    Returns and raises as `recover`.
    """
    chooser = np.random.default_rng(seed)

    def step() -> Tensor:
        batch = pair_batch(*texts.draw_group(settings.batch, chooser), texts.specials)
        with _precision(settings):
            with torch.no_grad():
                wanted = teacher(*batch).float()
            found = student(*batch).float()
        return margin_mse(found, wanted)

    return _train(student, step, settings, name)


def _precision(settings: RecoveryRecipe) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.precision == "bfloat16")


def _train(
    student: nn.Module, step: Callable[[], Tensor], settings: RecoveryRecipe, name: str
) -> dict[str, float]:
    if isinstance(student, Encoder | CrossEncoder):
        # Rows of words that no drawn text has must keep their place beside the others.
        student.stack.words.weight.requires_grad_(False)
    student.train()
    weights = [one for one in student.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.01)
    losses: list[float] = []
    started = time.monotonic()
    bar = tqdm(range(settings.steps), desc=name, mininterval=10)
    for number in bar:
        spent = (time.monotonic() - started) / 60.0 / settings.minutes_max
        progress = max(number / settings.steps, spent)
        if progress >= 1.0:
            break
        rate = min(1.0, progress / _WARM_UP) * 0.5 * (1.0 + math.cos(math.pi * progress))
        for part in optimiser.param_groups:
            part["lr"] = settings.learning_rate * rate
        loss = step()
        if not math.isfinite(loss.item()):
            raise FloatingPointError(
                f"{name}: the loss is {loss.item()} at step {number}; lower the recovery's learning_rate"
            )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.4f}", refresh=False)
    for one in student.parameters():
        one.requires_grad_(True)
    student.eval()
    tenth = max(1, len(losses) // 10)
    return {
        "loss_first": round(sum(losses[:tenth]) / tenth, 6),
        "loss_last": round(sum(losses[-tenth:]) / tenth, 6),
        "steps": len(losses),
        "seconds": round(time.monotonic() - started, 1),
    }
