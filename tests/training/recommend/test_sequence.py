"""The sequence model looks at no later item, learns planted steps, and is the same when exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from training.quantise import open_session
from training.recommend import sequence
from training.recommend.behaviour import Cases
from training.recommend.measured import ndcg
from training.recommend.network import ItemSides, SequenceModel
from training.recommend.recipe import SequenceRecipe
from training.recommend.section import FromSection, export_network, int8_rows, item_rows
from training.recommend.sequence import (
    FromModel,
    model_ranks,
    new_model,
    padded,
    sampled_softmax,
    states_of,
    train_sequence,
)

ITEMS = 12
RECIPE = SequenceRecipe(
    epochs=12,
    layers=1,
    width=16,
    heads=2,
    inner=16,
    history_max=6,
    batch=16,
    learning_rate=0.02,
    dropout=0.0,
    evaluate_steps=0,
)


def _model(sides: ItemSides | None = None, seen: int = ITEMS) -> SequenceModel:
    return new_model(RECIPE, sides or ItemSides(), np.arange(ITEMS) < seen, seed=3).eval()


@torch.no_grad()
def test_the_state_after_an_item_does_not_know_what_comes_later() -> None:
    model = _model()
    items = model.items()
    short = model.states(items, padded([np.array([1, 2, 3])], 6))
    long = model.states(items, padded([np.array([1, 2, 3, 4, 5])], 6))
    assert torch.allclose(short[0, 2], long[0, 2], atol=1e-6)


@torch.no_grad()
def test_a_history_in_a_batch_of_longer_ones_gives_the_same_state() -> None:
    model = _model()
    items = model.items()
    alone = states_of(model, items, [np.array([4, 2])])
    beside = states_of(model, items, [np.array([4, 2]), np.array([1, 3, 5, 7, 9, 11, 0])])
    assert torch.allclose(alone[0], beside[0], atol=1e-6)


def _rounds(count: int, seed: int) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Walks in which each item is followed by the next one of a ring."""
    chooser = np.random.default_rng(seed)
    return [(int(chooser.integers(ITEMS)) + np.arange(5)) % ITEMS for _ in range(count)]


def test_planted_steps_are_learnt() -> None:
    held = _rounds(24, 2)
    cases = Cases(
        [str(at) for at in range(24)], [one[:-1] for one in held], np.array([one[-1] for one in held])
    )
    model = _model()
    before = float((model_ranks(model, cases, repeats=False) == 0).mean())
    outcome = train_sequence(RECIPE, model, _rounds(96, 1), cases, repeats=False, seed=5)
    ranks = model_ranks(model, cases, repeats=False)
    assert float((ranks == 0).mean()) > 0.9 > before
    assert outcome.best == pytest.approx(float(ndcg(ranks).mean()))


def test_a_run_that_was_interrupted_goes_on_and_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, epochs=3, dropout=0.3, checkpoint_steps=2)

    def trained(checkpoint: Path | None) -> dict[str, torch.Tensor]:
        model = _model()
        train_sequence(recipe, model, _rounds(96, 1), None, repeats=False, seed=5, checkpoint=checkpoint)
        return model.state_dict()

    whole = trained(None)
    calls = 0

    def fail_at_the_eighth(*given: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return sampled_softmax(*given)

    with monkeypatch.context() as patched:
        patched.setattr(sequence, "sampled_softmax", fail_at_the_eighth)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "checkpoint")
    again = trained(tmp_path / "checkpoint")
    assert all(torch.equal(whole[key], again[key]) for key in whole)


@torch.no_grad()
def test_the_whole_softmax_is_what_a_drawn_one_stands_for() -> None:
    generator = torch.Generator().manual_seed(1)
    states, items = torch.randn(5, 8, generator=generator), torch.randn(40, 8, generator=generator) * 0.3
    wanted = torch.arange(5)
    every = torch.arange(40)
    whole = torch.nn.functional.cross_entropy(states @ items.T, wanted)
    assert sampled_softmax(states, items, wanted, every, 40).item() == pytest.approx(whole.item(), rel=1e-5)
    drawn = [
        sampled_softmax(states, items, wanted, torch.randperm(40, generator=generator)[:20], 40).item()
        for _ in range(300)
    ]
    assert float(np.mean(drawn)) == pytest.approx(whole.item(), abs=0.05)


@torch.no_grad()
def test_an_item_that_nobody_took_is_made_of_its_attributes_and_text_alone() -> None:
    shares = sparse.csr_matrix(np.tile(np.array([[0.5, 0.5]], dtype=np.float32), (ITEMS, 1)))
    texts = np.zeros((ITEMS, 4), dtype=np.float32)
    texts[-1, 0] = 1.0
    model = _model(ItemSides(shares, texts), seen=ITEMS - 2)
    items = model.items()
    assert model.kinds is not None
    assert model.project is not None
    of_kinds = model.kinds.weight.mean(0)
    assert torch.allclose(items[-2], of_kinds, atol=1e-6)
    assert torch.allclose(items[-1], of_kinds + model.project.weight[:, 0], atol=1e-6)
    assert not torch.allclose(items[0], of_kinds, atol=1e-3)


def test_the_exported_network_says_what_the_model_says(tmp_path: Path) -> None:
    model = _model()
    path = tmp_path / "model.onnx"
    export_network(model, path, int8=False)
    source = FromModel(model, np.ones(ITEMS, dtype=bool))
    histories = [
        np.array([1, 2, 3]),
        np.array([7]),
        np.array([1, 2, 3, 4, 5, 6, 7, 8]),
        np.array([], dtype=np.int64),
    ]
    served = FromSection(open_session(path), item_rows(model, source.named), RECIPE.history_max)
    assert served.evidence(histories[:3]) == pytest.approx(source.evidence(histories[:3]), abs=1e-5)
    # Without a history every item is as likely.
    assert served.evidence(histories)[3] == pytest.approx(np.full(ITEMS, 1.0 / ITEMS), abs=1e-6)


def test_rows_in_int8_are_within_half_a_step_of_the_rows() -> None:
    rows = np.random.default_rng(1).normal(size=(9, 16)).astype(np.float32)
    rows[4] = 0.0
    small, scales = int8_rows(rows)
    assert scales[4] == 0.0
    assert (np.abs(small * scales[:, None] - rows) <= scales[:, None] * 0.5001).all()
