"""Gradients are those of each shopper alone, nobody moves a step by more than the clip, noise is added."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from training.recommend.behaviour import Items
from training.recommend.network import ItemSides, SequenceModel
from training.recommend.private import sequence as private
from training.recommend.private.noise import Noise
from training.recommend.private.sequence import (
    Gradients,
    new_private_model,
    train_private_sequence,
    with_popularity,
)
from training.recommend.recipe import PrivacyRecipe, SequenceRecipe

RECIPE = SequenceRecipe(layers=1, width=8, heads=2, inner=8, history_max=6, negatives=0)
PRIVACY = PrivacyRecipe(epsilon=1.0, delta=1e-5, batch=8, steps=4, learning_rate=0.01, clip=0.5)
ITEMS = 9
SEQUENCES = [np.array(one) for one in ([0, 1, 2], [3, 4], [5, 6, 7, 8, 0, 1, 2, 3, 4], [8, 8, 1])]


def _model() -> SequenceModel:
    chooser = np.random.default_rng(2)
    kinds = sparse.csr_matrix(np.eye(ITEMS, 5, dtype=np.float32) + np.eye(ITEMS, 5, -5, dtype=np.float32))
    texts = chooser.normal(size=(ITEMS, 3)).astype(np.float32)
    popularity = np.arange(ITEMS, dtype=np.float32) ** 2
    sides = with_popularity(
        ItemSides(kinds, texts / np.linalg.norm(texts, axis=1, keepdims=True)), popularity
    )
    model = new_private_model(RECIPE, sides, ITEMS, seed=3)
    with torch.no_grad():
        for one in model.parameters():
            one.add_(0.3 * torch.randn(one.shape, generator=torch.Generator().manual_seed(5)))
    return model


def _loss(model: SequenceModel, items: Items) -> Tensor:
    """Of one shopper, as a plain forward pass gives it."""
    cut = torch.from_numpy(items[-RECIPE.history_max - 1 :])
    vectors = model.items()
    states = model.states(vectors, cut[:-1][None])[0]
    return torch.nn.functional.cross_entropy(states @ vectors.T, cut[1:])


def _trained(model: SequenceModel) -> dict[str, Any]:
    return {name: one for name, one in model.named_parameters() if one.requires_grad}


def test_each_shoppers_gradient_is_what_autograd_gives_for_him_alone() -> None:
    model = _model()
    gradients = Gradients(model, RECIPE)
    gradients.of(SEQUENCES, np.arange(ITEMS))
    for row, items in enumerate(SEQUENCES):
        model.zero_grad()
        _loss(model, items).backward()  # type: ignore[no-untyped-call]
        for name, one in _trained(model).items():
            wanted = one.grad if one.grad is not None else torch.zeros_like(one)
            assert torch.allclose(one.grad_sample[row], wanted, atol=1e-5), (name, row)


def test_items_have_no_part_of_their_own_that_could_remember_a_shopper() -> None:
    model = _model()
    assert not model.own.weight.requires_grad
    before = model.items()
    with torch.no_grad():
        model.own.weight.add_(1.0)
    assert torch.equal(model.items(), before)


class _Recorded:
    """What opacus summed before it added noise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, quiet: bool) -> None:
        from opacus.optimizers import DPOptimizer

        self.sums: list[Tensor] = []
        before = DPOptimizer.add_noise

        def add_noise(optimiser: Any) -> None:
            self.sums.append(torch.cat([one.summed_grad.flatten() for one in optimiser.params]))
            if quiet:
                optimiser.noise_multiplier = 0.0
            before(optimiser)

        monkeypatch.setattr(DPOptimizer, "add_noise", add_noise)


def _train(shoppers: list[Items], secret: bytes = b"s" * 32, **changes: Any) -> dict[str, Tensor]:
    model = _model()
    privacy = replace(PRIVACY, **changes)
    train_private_sequence(RECIPE, privacy, model, shoppers, count=8, noise=Noise(secret), multiplier=1.0)
    return {name: one.detach().clone() for name, one in model.named_parameters()}


def test_one_shopper_moves_the_sum_of_a_step_by_at_most_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = _Recorded(monkeypatch, quiet=True)
    nothing = np.array([1])
    for at in range(len(SEQUENCES)):
        _train(SEQUENCES, steps=1)
        _train([nothing if row == at else one for row, one in enumerate(SEQUENCES)], steps=1)
        there, gone = recorded.sums[-2:]
        moved = float((there - gone).norm())
        assert 0.0 < moved <= PRIVACY.clip * (1 + 1e-5)


def test_shoppers_cut_into_parts_by_memory_make_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = _Recorded(monkeypatch, quiet=True)
    _train(SEQUENCES, steps=1)
    monkeypatch.setattr(private, "_NUMBERS_MAX", 1)
    _train(SEQUENCES, steps=1)
    assert len(recorded.sums) == 2
    assert torch.allclose(recorded.sums[0], recorded.sums[1], atol=1e-6)


def test_a_step_for_which_nobody_was_drawn_adds_noise_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = _Recorded(monkeypatch, quiet=False)
    after = _train([], steps=1)
    assert float(recorded.sums[0].abs().max()) == 0.0
    before = dict(_model().named_parameters())
    changed = [name for name in after if not torch.equal(after[name], before[name])]
    assert "kinds.weight" in changed
    assert "own.weight" not in changed


def test_the_noise_has_the_deviation_of_multiplier_times_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    from opacus.optimizers import DPOptimizer

    seen: list[Tensor] = []
    scale = DPOptimizer.scale_grad

    def scale_grad(optimiser: Any) -> None:
        seen.append(torch.cat([one.grad.flatten() for one in optimiser.params]))
        scale(optimiser)

    monkeypatch.setattr(DPOptimizer, "scale_grad", scale_grad)
    _train([], steps=10)
    assert float(torch.cat(seen).std()) == pytest.approx(PRIVACY.clip, rel=0.05)


def test_the_secret_decides_everything() -> None:
    first, again, other = _train(SEQUENCES), _train(SEQUENCES), _train(SEQUENCES, secret=b"t" * 32)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_without_much_noise_it_learns_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    _Recorded(monkeypatch, quiet=True)
    shoppers = [np.array([0, 1, 2, 3])] * 8
    model = _model()
    before = float(_loss(model, shoppers[0]).detach())
    privacy = replace(PRIVACY, steps=40, learning_rate=0.05, clip=5.0)
    train_private_sequence(RECIPE, privacy, model, shoppers, count=8, noise=Noise(b"s" * 32), multiplier=1.0)
    assert float(_loss(model, shoppers[0]).detach()) < before / 2
