"""Adapters train few weights, start from the model as it was, and become part of it again."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.conftest import Workplace
from training.models.hub import open_pretrained
from training.models.tuning import NAMES, Tuning, TuningError, TuningSettings

ADAPTED = ["lora", "adalora", "adapter"]


@pytest.fixture
def encoder(workplace: Workplace) -> nn.Module:
    torch.set_num_threads(1)
    return open_pretrained(workplace.recipe.pretrained)[0]


def states(encoder: nn.Module) -> Tensor:
    ids = torch.tensor([[2, 40, 50, 3, 60, 3]])
    found: Tensor = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return found


def trained(tuning: Tuning) -> list[nn.Parameter]:
    return [one for one in tuning.encoder.parameters() if one.requires_grad]


def some_updates(tuning: Tuning, first: int, last: int, optimiser: Any = None) -> None:
    # Without a state of its own, plain descent can go on anywhere.
    optimiser = optimiser or torch.optim.SGD(trained(tuning), lr=0.05)
    for step in range(first, last + 1):
        loss = states(tuning.encoder).pow(3).mean() + tuning.penalty()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        tuning.after_update(step)


@pytest.mark.parametrize("kind", ADAPTED)
def test_an_adapter_changes_nothing_until_it_is_trained(encoder: nn.Module, kind: str) -> None:
    before = states(encoder)
    tuning = Tuning(encoder, TuningSettings(kind=kind, rank=2), steps_total=20)
    torch.testing.assert_close(states(tuning.encoder.eval()), before, rtol=1e-4, atol=1e-4)
    count = sum(one.numel() for one in trained(tuning))
    assert 0 < count < 0.3 * sum(one.numel() for one in encoder.parameters())


@pytest.mark.parametrize("kind", ADAPTED)
def test_a_trained_adapter_is_merged_into_plain_weights(encoder: nn.Module, kind: str) -> None:
    names = set(encoder.state_dict())
    before = states(encoder).detach()
    tuning = Tuning(encoder, TuningSettings(kind=kind, rank=2), steps_total=20)
    some_updates(tuning, 1, 6, torch.optim.Adam(trained(tuning), lr=0.02))
    wanted = states(tuning.encoder.eval()).detach()
    assert (wanted - before).abs().max() > 1e-3
    merged = tuning.merged()
    assert set(merged.state_dict()) == names
    torch.testing.assert_close(states(merged.eval()), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("freeze", [True, False])
def test_full_tuning_trains_all_but_the_words_where_they_are_frozen(encoder: nn.Module, freeze: bool) -> None:
    tuning = Tuning(encoder, TuningSettings(freeze_words=freeze), steps_total=20)
    still = [name for name, one in tuning.encoder.named_parameters() if not one.requires_grad]
    assert still == (["embeddings.word_embeddings.weight"] if freeze else [])
    assert tuning.merged() is encoder
    assert tuning.penalty() == 0.0


def test_adalora_gives_ranks_up_and_keeps_the_rest_in_number(encoder: nn.Module) -> None:
    tuning = Tuning(encoder, TuningSettings(kind="adalora", rank=2), steps_total=20)
    layers = sum("lora_E" in name for name, _ in tuning.encoder.named_parameters())
    some_updates(tuning, 1, 20)
    values = [one for name, one in tuning.encoder.named_parameters() if "lora_E" in name]
    assert sum(len(one) for one in values) == 3 * layers
    assert sum(int((one != 0).sum()) for one in values) <= 2 * layers


def test_adalora_goes_on_from_a_saved_state_as_if_nothing_had_been(encoder: nn.Module) -> None:
    settings = TuningSettings(kind="adalora", rank=2)
    ends = []
    for stop in (0, 9, 17):
        torch.manual_seed(8)
        tuning = Tuning(copy.deepcopy(encoder), settings, steps_total=20)
        if stop:
            some_updates(tuning, 1, stop)
            state, weights = tuning.state(), copy.deepcopy(tuning.encoder.state_dict())
            torch.manual_seed(9)
            tuning = Tuning(copy.deepcopy(encoder), settings, steps_total=20)
            tuning.encoder.load_state_dict(weights)
            tuning.restore(state)
        some_updates(tuning, stop + 1, 20)
        ends.append(tuning.encoder.state_dict())
    for other in ends[1:]:
        assert all(torch.equal(value, other[name]) for name, value in ends[0].items())


def test_the_penalty_of_adalora_is_the_distance_from_orthogonal_factors(encoder: nn.Module) -> None:
    tuning = Tuning(encoder, TuningSettings(kind="adalora", rank=2), steps_total=20)
    gaps = []
    for name, one in tuning.encoder.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            matrix = one.detach().double().numpy()
            gram = matrix @ matrix.T if "lora_A" in name else matrix.T @ matrix
            gaps.append(((gram - torch.eye(len(gram)).numpy()) ** 2).sum() ** 0.5)
    found = tuning.penalty()
    assert isinstance(found, Tensor)
    assert found.item() == pytest.approx(0.5 * sum(gaps) / len(gaps), rel=1e-4)


def test_named_layers_alone_are_changed(encoder: nn.Module) -> None:
    settings = TuningSettings(kind="adapter", target_modules=("key", "output.dense"))
    tuning = Tuning(encoder, settings, steps_total=20)
    names = [name for name, one in tuning.encoder.named_parameters() if one.requires_grad]
    assert names and all(".key." in name or ".output.dense." in name for name in names)
    # A layer that narrows is rescaled at its inputs.
    shapes = {
        tuple(one.shape)
        for name, one in tuning.encoder.named_parameters()
        if one.requires_grad and ".output.dense." in name and ".attention." not in name
    }
    assert shapes == {(1, 96)}


def test_layers_that_are_not_there_are_told(encoder: nn.Module) -> None:
    settings = TuningSettings(kind="lora", target_modules=("no_such_layer",))
    with pytest.raises(TuningError, match=r"no_such_layer.*Set target_modules .*dense, key, query, value"):
        Tuning(encoder, settings, steps_total=20)


def test_too_short_a_run_for_adalora_is_told(encoder: nn.Module) -> None:
    with pytest.raises(TuningError, match="at least 4 updates, not 3"):
        Tuning(encoder, TuningSettings(kind="adalora"), steps_total=3)


def test_a_missing_peft_is_named(encoder: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(TuningError, match="pip install peft"):
        Tuning(encoder, TuningSettings(kind="lora"), steps_total=20)


def test_every_kind_has_a_name_for_reports() -> None:
    assert set(NAMES) == {"full", *ADAPTED}
    assert "IA3" in NAMES["adapter"]
