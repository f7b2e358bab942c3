"""Encoder: the adapted or pretrained stack, and a projection that keeps late interaction in few dimensions.

The stack is that of `adapted.pt` where the recipe adapts it (`training.unlabelled`), else the pretrained one;
it stays frozen here. The projection starts at the principal components of the catalogue's token vectors and
is then trained so that the late-interaction score of any (query, product) pair in the small space equals the
one in the full space. Writes `encoder.pt`, and, where the stack learnt from labels, `encoder-fold<k>.pt`,
which saw no label of fold k: out-of-fold figures need it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from training.data.batches import Specials, by_length, pieces_of, text_batch
from training.data.text import product_text
from training.loop import Drawn, LoopSettings, ParameterGroup, train
from training.models.networks import Encoder, save_model, unit
from training.prepare import Prepared, load_prepared
from training.recipe import Recipe, stage_arguments
from training.unlabelled import adapted_stack, saw_labels, start_stack


def principal_components(vectors: Tensor, dimension: int) -> Tensor:
    """Orthonormal directions that keep most of the dot products. vectors: [n, H]. Returns: [dimension, H].

    Not centred: late interaction compares dot products, and a shift would change them.
    """
    values, directions = torch.linalg.eigh(vectors.T.double() @ vectors.double())
    best: Tensor = directions[:, values.argsort(descending=True)[:dimension]].T.float()
    return best


def late_scores(query: Tensor, query_mask: Tensor, products: Tensor, product_mask: Tensor) -> Tensor:
    """Mean over query tokens of the best cosine among the product's tokens.

    query: [Q, S, D]; products: [P, T, D], unit vectors; masks: bool [Q, S], [P, T]. Returns: [Q, P].
    Source: Khattab & Zaharia 2020, arXiv:2004.12832 (mean in place of sum).
    """
    similar = torch.einsum("qsd,ptd->qpst", query, products)
    best = similar.masked_fill(~product_mask[None, :, None, :], -4.0).amax(dim=3)
    weights = query_mask[:, None, :].to(best.dtype)
    return (best * weights).sum(2) / weights.sum(2).clamp(min=1.0)


def train_encoder(recipe: Recipe, run: Path) -> Encoder:
    """Run the stage. Returns the encoder that ships.

    Raises: FileNotFoundError where the recipe adapts the encoder and that stage has not run; RecipeError
    where it ran with another recipe.
    """
    prepared = load_prepared(run)
    # The one that ships comes last: where it is, those of the folds are as well.
    folds = range(recipe.folds) if saw_labels(recipe, run) else range(0)
    for fold in folds:
        save_model(encoder_path(run, fold), _encoder(recipe, prepared, run, fold))
    for old in run.glob("encoder-fold*.pt"):
        if old not in {encoder_path(run, fold) for fold in folds}:
            old.unlink()
    encoder = _encoder(recipe, prepared, run, None)
    save_model(encoder_path(run, None), encoder)
    return encoder


def encoder_path(run: Path, fold: int | None) -> Path:
    """The encoder that ships (None), or the one that saw no label of a fold."""
    return run / ("encoder.pt" if fold is None else f"encoder-fold{fold}.pt")


def _encoder(recipe: Recipe, prepared: Prepared, run: Path, fold: int | None) -> Encoder:
    torch.manual_seed(recipe.seed)
    stack = adapted_stack(recipe, prepared, run, fold) or start_stack(recipe, prepared)
    encoder = Encoder(stack.shape, recipe.encoder.token_dimension).eval()
    encoder.stack = stack
    products = [one for name in prepared.products for one in prepared.products[name].values()]
    chooser = torch.Generator().manual_seed(recipe.seed)
    chosen = torch.randperm(len(products), generator=chooser)[: recipe.encoder.sample].tolist()
    texts = [product_text(products[index], recipe.text.dense_fields) for index in chosen]
    product_rows = pieces_of(prepared.tokenizer, texts, recipe.text.late_tokens_max)
    query_rows = pieces_of(
        prepared.tokenizer,
        [query.text for query in prepared.queries if query.split == "train"],
        recipe.text.query_tokens_max,
    )
    specials = Specials.of(prepared.tokenizer)
    product_states = token_states(encoder, [row for row in product_rows if row], specials)
    query_states = token_states(encoder, [row for row in query_rows if row], specials)
    everything = torch.cat(product_states).float()
    components = principal_components(everything, recipe.encoder.token_dimension)
    kept = ((everything @ components.T) ** 2).sum() / (everything**2).sum()
    print(json.dumps({"share_kept_by_components": round(float(kept), 4)}))
    encoder.project.weight.data.copy_(components)
    if recipe.encoder.steps:
        _fit_projection(recipe, encoder, query_states, product_states, chooser)
    return encoder


@torch.inference_mode()
def token_states(encoder: Encoder, rows: Sequence[Sequence[int]], specials: Specials) -> list[Tensor]:
    """Unit vectors of the last layer, special tokens excluded, one float16 [tokens, H] a row."""
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    batches = list(by_length(rows, 64))
    for batch in tqdm(batches, desc="token vectors", mininterval=5):
        states = unit(encoder.stack(*text_batch([rows[index] for index in batch], specials)))
        for at, index in enumerate(batch):
            found[index] = states[at, 1 : 1 + len(rows[index])].half().clone()
    return found


def _fit_projection(
    recipe: Recipe,
    encoder: Encoder,
    queries: Sequence[Tensor],
    products: Sequence[Tensor],
    chooser: torch.Generator,
) -> None:
    size = recipe.encoder.batch_products
    seed = int(torch.randint(2**31, (1,), generator=chooser))

    def draw(generator: torch.Generator) -> tuple[Stacked, Stacked]:
        return _stacked(queries, size, generator), _stacked(products, 2 * size, generator)

    def loss_of(batch: tuple[Stacked, Stacked]) -> Tensor:
        weight = encoder.project.weight
        asked, offered = (tuple(one.to(weight.device) for one in part) for part in batch)
        with torch.no_grad():
            wanted = late_scores(*asked, *offered)
        got = late_scores(unit(asked[0] @ weight.T), asked[1], unit(offered[0] @ weight.T), offered[1])
        # Only differences between products of one query change an order.
        gap = (got - got.mean(1, keepdim=True)) - (wanted - wanted.mean(1, keepdim=True))
        return gap.pow(2).mean() + 0.1 * (got - wanted).pow(2).mean()

    outcome = train(
        encoder.project,
        Drawn(recipe.encoder.steps, draw, seed=seed),
        loss_of,
        [ParameterGroup([encoder.project.weight], recipe.encoder.learning_rate)],
        LoopSettings(warm_up=0.0, weight_decay=0.0, clip_norm=0.0, precision="off"),
        name="projection",
        seed=seed,
    )
    losses = [value for _, _, name, value in outcome.curves if name == "loss"]
    tenth = max(1, len(losses) // 10)
    first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    seconds = round(60.0 * outcome.minutes, 1)
    print(json.dumps({"projection_loss_first": first, "projection_loss_last": last, "seconds": seconds}))


Stacked = tuple[Tensor, Tensor]
"""Vectors, float32 [rows, longest, H], and which of them are real, bool [rows, longest]."""


def _stacked(rows: Sequence[Tensor], count: int, chooser: torch.Generator) -> Stacked:
    drawn = [rows[i] for i in torch.randint(len(rows), (count,), generator=chooser).tolist()]
    longest = max(len(one) for one in drawn)
    vectors = torch.zeros(count, longest, drawn[0].shape[1])
    mask = torch.zeros(count, longest, dtype=torch.bool)
    for at, one in enumerate(drawn):
        vectors[at, : len(one)] = one.float()
        mask[at, : len(one)] = True
    return vectors, mask


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    arguments = stage_arguments("Encoder with small token vectors.", argv)
    train_encoder(arguments.recipe, arguments.run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
