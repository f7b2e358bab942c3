"""Torch, ONNX Runtime and rankcore give a text the same scores, whole and pruned."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("rankcore._native", reason="the extension is not built: `make build`")

from tests.training.conftest import Workplace
from training.data.batches import Specials
from training.engine import open_catalogue
from training.export import write_draft
from training.models.networks import load_encoder
from training.prepare import load_prepared
from training.prune import model_files, prune
from training.quality import (
    EncodeTexts,
    JudgedList,
    Vectors,
    judged_lists,
    judged_products,
    onnx_encoder,
    product_vectors,
    torch_encoder,
)
from training.quantise import export_encoder, open_session, quantise
from training.recipe import PruneRecipe, PruneVariant, RecoveryRecipe

SETTINGS = PruneRecipe(
    variants=[PruneVariant("small", heads=0.75, inner=0.5)],
    ship={"encoder": "small"},
    sample=16,
    inner_multiple=16,
    recovery=RecoveryRecipe(steps=5, batch=4),
)
# The same arithmetic in another order.
FLOAT32 = 1e-4
# Weights of 7 bits and activations of 8, two layers deep: cosines move by some thousandths.
INT8 = 0.02
# rankcore runs the same int8 graph, a text at a time where the other side runs a batch (whose scales differ),
# and stores token vectors in 8 bits.
ENGINE = 0.02
# What separates the last from the first is bounded by the sum of the steps.
ALL = INT8 + ENGINE


def scores(lists: Sequence[JudgedList], products: Vectors, encode: EncodeTexts) -> NDArray[np.float64]:
    """[pairs, 2]: dense and late of every judged pair."""
    found = []
    for one in lists:
        dense, tokens = encode([one.query])
        for key in one.product_ids:
            late = (tokens[0] @ products.tokens[one.set, key].T).max(axis=1).mean()
            found.append((float(dense[0] @ products.dense[one.set, key]), float(late)))
    return np.array(found)


@pytest.mark.parametrize("form", ["whole", "pruned"])
def test_torch_onnx_and_rankcore_agree(workplace: Workplace, tmp_path: Path, form: str) -> None:
    torch.set_num_threads(1)
    recipe, run = workplace.recipe, tmp_path / "run"
    keep_out = shutil.ignore_patterns("draft", "bundle", "catalogues", "cross_*", "distil", "teacher")
    shutil.copytree(workplace.run, run, ignore=keep_out)
    if form == "pruned":
        recipe = replace(recipe, prune=SETTINGS)
        prune(recipe, run)
        quantise(recipe, run)
    encoder = load_encoder(model_files(recipe, run, "encoder")[0])
    assert (encoder.stack.shape.inner_by_layer == ()) == (form == "whole")
    export_encoder(encoder, tmp_path / "float32.onnx", int8=False)
    write_draft(recipe, run, tmp_path / "bundle")

    prepared = load_prepared(run)
    specials = Specials.of(prepared.tokenizer)
    lists = judged_lists(recipe, prepared)
    products = judged_products(recipe, prepared, lists)
    found = {}
    for name, encode in (
        ("torch", torch_encoder(encoder, specials)),
        ("float32", onnx_encoder(open_session(tmp_path / "float32.onnx"), specials)),
        ("int8", onnx_encoder(open_session(run / "onnx" / "encoder.onnx"), specials)),
    ):
        found[name] = scores(lists, product_vectors(recipe, lists, products, [encode])[0], encode)
    texts = {(query.set, query.query_id): query.text for query in prepared.queries}
    rows = []
    with open_catalogue(
        tmp_path / "bundle", prepared.products["shop"].values(), cache=tmp_path / "cache", threads=1
    ) as catalogue:
        for one in lists:
            signals = catalogue.signals(
                texts[one.set, one.query_id], "late", product_ids=one.product_ids, width=len(one.product_ids)
            )
            assert signals.product_ids == one.product_ids
            rows.append(np.stack([signals.column("dense"), signals.column("late")], axis=1))
    found["rankcore"] = np.concatenate(rows)

    assert len(found["torch"]) > 100
    for first, second, tolerance in (
        ("torch", "float32", FLOAT32),
        ("float32", "int8", INT8),
        ("int8", "rankcore", ENGINE),
        ("torch", "rankcore", ALL),
    ):
        gap = np.abs(found[first] - found[second]).max(axis=0)
        assert gap.max() < tolerance, f"{first} and {second}: dense {gap[0]:.4f}, late {gap[1]:.4f}"
