"""From split behaviour to a section: sources, their mixture and the final order, measured on the validation.

Texts, then the sequence model, then tables, mixture and order. The vectors of texts and the sequence model's
weights are kept in the run folder, so a run that was interrupted goes on; the rest takes a minute or two. The
test is looked at by no part: `training.recommend.evaluate` does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy import sparse

from training.data.whole_files import write_report, write_text
from training.quantise import open_session
from training.recipe import RecipeError
from training.recommend.behaviour import Behaviour, Cases
from training.recommend.measured import gap, interval_of, ndcg
from training.recommend.mixture import (
    FromPopularity,
    FromTable,
    Source,
    chunks,
    fit_weights,
    source_ranks,
    target_shares,
)
from training.recommend.network import ItemSides
from training.recommend.order import candidates_of, out_of_fold, ranks_among, train_order
from training.recommend.recipe import RecommendRecipe
from training.recommend.relations import choose_recency, counts_of, make_tables, with_new_share
from training.recommend.section import Contents, FromSection, export_network, int8_rows, item_rows
from training.recommend.sequence import FromModel, model_ranks, new_model, train_sequence
from training.recommend.tables import Table

_TEXTS_KEPT = 512


def text_vectors(recipe: RecommendRecipe, behaviour: Behaviour, run: Path) -> NDArray[np.float32] | None:
    """Vectors of the items' texts, float32 [items, H], kept in the run folder; None where there is no
    text.
    """
    if not recipe.pretrained or not any(behaviour.texts):
        return None
    path = run / "texts.npy"
    if path.is_file():
        kept: NDArray[np.float32] = np.load(path, allow_pickle=False)
        return kept
    # Loaded here: only texts need an encoder and its library.
    from training.baselines import Vectors

    encoder: Vectors | None = None
    cut = [one[: recipe.text_characters_max] or " " for one in behaviour.texts]
    parts = []
    for number, part in enumerate(chunks(len(cut), _TEXTS_KEPT)):
        kept_part = run / f"texts.{number}.npy"
        if not kept_part.is_file():
            encoder = encoder or Vectors(recipe.pretrained)
            _save(kept_part, encoder.of(cut[part], f"texts of items {part.start + 1} to {part.stop}"))
        parts.append(kept_part)
    found: NDArray[np.float32] = np.concatenate([np.load(one, allow_pickle=False) for one in parts])
    found[[not one for one in behaviour.texts]] = 0.0
    _save(path, found)
    for one in parts:
        one.unlink()
    return found


def _save(path: Path, vectors: NDArray[np.float32]) -> None:
    part = path.with_suffix(".part.npy")
    np.save(part, vectors, allow_pickle=False)
    part.replace(path)


def fit(
    recipe: RecommendRecipe,
    behaviour: Behaviour,
    run: Path,
    *,
    note: Callable[[str], None] = lambda _: None,
    progress: Callable[[int], object] = lambda _: None,
) -> Contents:
    """Run every part that has not ended. note: told what begins; progress: of cases scored.

    Raises: RecipeError where the run folder belongs to another recipe or other data; as
    `training.loop.train`.
    """
    run.mkdir(parents=True, exist_ok=True)
    claim(recipe, behaviour, run)
    note("texts")
    texts = text_vectors(recipe, behaviour, run)
    note("sequence")
    model, sequence = _sequence(recipe, behaviour, texts, run)
    note("tables")
    tables = make_tables(recipe, behaviour, behaviour.train, texts)
    tables, recencies = choose_recency(recipe, tables, behaviour.validation)
    sources: list[Source] = [FromTable(one, recipe.history_max) for one in tables]
    sources.append(FromPopularity(counts_of(behaviour.train, behaviour.items)))
    if model is not None:
        sources.append(model)
    note("mixture")
    validation = behaviour.validation
    found = target_shares(sources, validation, repeats=recipe.repeats, tick=progress)
    weights = with_new_share(fit_weights(found), [one.name for one in sources], recipe.new_share)
    note("order")
    order, ordered = _order(recipe, sources, weights, behaviour, progress)
    shares = {one.name: round(float(weight), 4) for one, weight in zip(sources, weights, strict=True)}
    card = {
        "name": recipe.name,
        "known": recipe.known,
        "seed": recipe.seed,
        "behaviour": describe(behaviour),
        "recency": recencies,
        "weights": shares,
        "sequence": sequence,
        "order": ordered,
    }
    if recipe.known == "validation":
        note("everything before the test")
        sources = _again(recipe, behaviour, texts, run, tables, model is not None, sequence)
    return Contents(
        behaviour.item_ids,
        sources,
        weights,
        recipe.repeats,
        recipe.history_max,
        recipe.order.candidates,
        order,
        card,
    )


def describe(behaviour: Behaviour) -> dict[str, Any]:
    """Figures of a set of behaviour."""
    seen = counts_of(behaviour.train, behaviour.items) > 0
    return {
        "name": behaviour.name,
        "kind": behaviour.kind,
        "items": behaviour.items,
        "sequences": len(behaviour.train),
        "steps": int(sum(len(one) for one in behaviour.train)),
        "validation": len(behaviour.validation),
        "test": len(behaviour.test),
        "items_never_taken": int((~seen).sum()),
        "texts": sum(bool(one) for one in behaviour.texts),
        "attributes": sum(bool(one) for one in behaviour.attributes),
    }


# -- the sequence model ----------------------------------------------------------


def item_sides(behaviour: Behaviour, texts: NDArray[np.float32] | None) -> ItemSides:
    """What is known of the items. texts: from `text_vectors`."""
    return ItemSides(behaviour.attribute_shares(), texts)


def named_items(seen: NDArray[np.bool_], sides: ItemSides) -> NDArray[np.bool_]:
    """Items of which the model knows anything: bool [items]. seen: bool [items], taken by someone."""
    named = seen.copy()
    if sides.attributes is not None:
        named |= np.diff(sides.attributes.indptr) > 0
    if sides.texts is not None:
        named |= np.linalg.norm(sides.texts, axis=1) > 0.5
    return named


def _sequence(
    recipe: RecommendRecipe, behaviour: Behaviour, texts: NDArray[np.float32] | None, run: Path
) -> tuple[FromModel | None, dict[str, Any] | None]:
    """The model of the training part and what it is worth, in float32 and as it is served in int8."""
    if not recipe.sequence.epochs:
        return None, None
    sides = item_sides(behaviour, texts)
    seen = counts_of(behaviour.train, behaviour.items) > 0
    model = new_model(recipe.sequence, sides, seen, seed=recipe.seed)
    weights, told = run / "sequence.safetensors", run / "sequence.json"
    if weights.is_file() and told.is_file():
        model.load_state_dict(load_file(weights))
        report: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
        return FromModel(model.eval(), named_items(seen, sides)), report
    checkpoint = run / "sequence.checkpoint"
    outcome = train_sequence(
        recipe.sequence,
        model,
        behaviour.train,
        behaviour.validation,
        repeats=recipe.repeats,
        seed=recipe.seed,
        checkpoint=checkpoint,
    )
    source = FromModel(model.eval(), named_items(seen, sides))
    report = {
        "steps": outcome.steps,
        "best_step": outcome.best_step,
        "stopped": outcome.stopped,
        "minutes": round(outcome.minutes, 1),
        "parameters": outcome.parameters,
        **_compressed(recipe, source, behaviour.validation, run),
    }
    save_file({key: one.contiguous() for key, one in model.state_dict().items()}, weights)
    write_report(told, report)
    checkpoint.unlink(missing_ok=True)
    return source, report


def _compressed(recipe: RecommendRecipe, source: FromModel, validation: Cases, run: Path) -> dict[str, Any]:
    """nDCG@10 on the validation in float32 and in int8, and the share that int8 keeps."""
    whole = ndcg(model_ranks(source.model, validation, repeats=recipe.repeats))
    path = run / "sequence.onnx"
    export_network(source.model, path)
    rows, scales = int8_rows(item_rows(source.model, source.named))
    small = FromSection(
        open_session(path), rows.astype(np.float32) * scales[:, None], recipe.sequence.history_max
    )
    kept = ndcg(source_ranks(small, validation, repeats=recipe.repeats))
    mean = max(float(whole.mean()), 1e-12)
    return {
        "validation_ndcg10": interval_of(whole, seed=recipe.seed, rounds=recipe.bootstrap).rounded(),
        "int8_ndcg10": interval_of(kept, seed=recipe.seed, rounds=recipe.bootstrap).rounded(),
        "int8_kept": round(float(kept.mean()) / mean, 4),
    }


def _again(
    recipe: RecommendRecipe,
    behaviour: Behaviour,
    texts: NDArray[np.float32] | None,
    run: Path,
    tables: Sequence[Table],
    with_model: bool,
    sequence: dict[str, Any] | None,
) -> list[Source]:
    """The same sources from everything before the test; the model for as many steps as served it best."""
    sequences = behaviour.whole
    recency = {one.name: one.recency for one in tables}
    made = {one.name: one for one in make_tables(recipe, behaviour, sequences, texts)}
    # Each has its weight already, so what was there stays, be it empty: an item may be new no more.
    empty = sparse.csr_matrix((behaviour.items, behaviour.items), dtype=np.float32)
    sources: list[Source] = [
        FromTable(replace(made.get(name, Table(name, empty, 0.0, 0.0)), recency=value), recipe.history_max)
        for name, value in recency.items()
    ]
    counts = counts_of(sequences, behaviour.items)
    sources.append(FromPopularity(counts))
    if with_model and sequence is not None:
        sides = item_sides(behaviour, texts)
        model = new_model(recipe.sequence, sides, counts > 0, seed=recipe.seed)
        weights = run / "sequence.whole.safetensors"
        if weights.is_file():
            model.load_state_dict(load_file(weights))
        else:
            checkpoint = run / "sequence.whole.checkpoint"
            train_sequence(
                recipe.sequence,
                model,
                sequences,
                None,
                steps_end=int(sequence["best_step"]),
                repeats=recipe.repeats,
                seed=recipe.seed,
                checkpoint=checkpoint,
            )
            save_file({key: one.contiguous() for key, one in model.state_dict().items()}, weights)
            checkpoint.unlink(missing_ok=True)
        sources.append(FromModel(model.eval(), named_items(counts > 0, sides)))
    return sources


# -- the final order ----------------------------------------------------------


def _order(
    recipe: RecommendRecipe,
    sources: Sequence[Source],
    weights: NDArray[np.float64],
    behaviour: Behaviour,
    progress: Callable[[int], object],
) -> tuple[str | None, dict[str, Any]]:
    """The forest, where it earned its place over the mixture out of fold; and the figures that say so."""
    cases, settings = behaviour.validation, recipe.order
    taken = counts_of(behaviour.train, behaviour.items)
    found = candidates_of(
        sources, weights, cases, max(settings.candidates, 10), repeats=recipe.repeats, tick=progress
    )
    beyond = behaviour.items
    mixture = ranks_among(found.places, cases.targets, beyond)
    report: dict[str, Any] = {
        "mixture_ndcg10": interval_of(ndcg(mixture), seed=recipe.seed, rounds=recipe.bootstrap).rounded(),
        "reach": round(float((mixture < beyond).mean()), 4),
    }
    learnable = int((mixture < beyond).sum())
    if not settings.candidates or learnable < 2 * settings.folds:
        return None, {**report, "earned": False}
    ranks = out_of_fold(settings, found, cases, taken, seed=recipe.seed)
    ahead = gap(ranks, mixture, seed=recipe.seed, rounds=recipe.bootstrap)
    report |= {
        "ordered_ndcg10": interval_of(ndcg(ranks), seed=recipe.seed, rounds=recipe.bootstrap).rounded(),
        "gain": ahead,
        "earned": ahead["low"] > 0.0,
    }
    if not report["earned"]:
        return None, report
    return train_order(settings, found, cases.targets, np.arange(len(cases)), seed=recipe.seed), report


def claim(recipe: RecommendRecipe, behaviour: Behaviour, run: Path) -> str:
    """Refuse a run folder of another recipe or other data.

    Returns: a digest of both. Raises: RecipeError.
    """
    choices = {key: value for key, value in asdict(recipe).items() if key != "privacy" or value}
    told = json.dumps([choices, behaviour.item_ids, behaviour.texts, behaviour.attributes])
    found = hashlib.sha256(told.encode())
    for sequence in (*behaviour.train, *behaviour.validation.histories, behaviour.validation.targets):
        found.update(sequence.tobytes() + b"|")
    digest = found.hexdigest()
    path = run / "belongs.txt"
    if path.is_file() and path.read_text(encoding="utf-8").strip() != digest:
        raise RecipeError(
            f"{run} was begun with another recipe or other data: name a new folder with --run, or remove "
            "that one"
        )
    write_text(path, digest + "\n")
    return digest
