"""What matters least goes first, and what stays says what the whole model said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from training.models.networks import CrossEncoder, Encoder, Shape, load_cross, load_encoder, save_model
from training.models.pruning import (
    Batch,
    distortion,
    importance,
    least_harmful_layers,
    most_important,
    outputs,
    parameters,
    shrink,
    spread_layers,
    stack_layers,
    without_layers,
)

SHAPE = Shape(layers=3, width=32, heads=4, inner=48, vocabulary=60, positions=24)


def batches(count: int = 6) -> list[Batch]:
    """Texts of random words, some of them shorter than others."""
    chooser = torch.Generator().manual_seed(4)
    found: list[Batch] = []
    for _ in range(count):
        ids = torch.randint(5, 60, (8, 10), generator=chooser)
        mask = torch.ones_like(ids)
        mask[::2, 7:] = 0
        found.append((ids, mask))
    return found


def pairs(count: int = 6) -> list[Batch]:
    """The same as a query of three words and a product."""
    found: list[Batch] = []
    for ids, mask in batches(count):
        kinds = torch.zeros_like(ids)
        kinds[:, 5:] = 1
        found.append((ids, mask, kinds * mask))
    return found


def encoder() -> Encoder:
    torch.manual_seed(7)
    torch.set_num_threads(1)
    model = Encoder(SHAPE, 16).eval()
    for part in model.parameters():
        if part.dim() == 2:
            torch.nn.init.normal_(part, std=0.3)
    return model


def cross() -> CrossEncoder:
    model = CrossEncoder(SHAPE).eval()
    model.stack = encoder().stack
    torch.nn.init.normal_(model.head.weight, std=0.3)
    return model


def silence(model: Encoder | CrossEncoder, layer: int, head: int, neurons: slice) -> None:
    """A head and neurons whose outputs nobody reads."""
    part = stack_layers(model.stack)[layer]
    width = SHAPE.head_width
    part.mix.weight.data[:, head * width : (head + 1) * width] = 0.0
    part.narrow.weight.data[:, neurons] = 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "cannot be shared by 5 heads"),
        ({"heads_by_layer": (4, 4)}, "names 2 layers, not 3"),
        ({"inner_by_layer": (48, 0, 48)}, "each must be between 1 and 48"),
        ({"heads_by_layer": (4, 5, 4)}, "each must be between 1 and 4"),
    ],
)
def test_a_shape_that_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SHAPE, **change)


def test_a_model_saved_before_layers_had_sizes_of_their_own_still_loads(tmp_path: Path) -> None:
    model = encoder()
    save_model(tmp_path / "new.pt", model)
    saved = torch.load(tmp_path / "new.pt", weights_only=True)
    del saved["shape"]["heads_by_layer"], saved["shape"]["inner_by_layer"]
    torch.save(saved, tmp_path / "old.pt")
    assert load_encoder(tmp_path / "old.pt").stack.shape == SHAPE
    assert distortion(load_encoder(tmp_path / "old.pt"), outputs(model, batches(1)), batches(1)) < 1e-10


def test_a_head_and_neurons_that_nobody_reads_matter_nothing_and_go_first() -> None:
    model = encoder()
    silence(model, 1, 2, slice(0, 16))
    found = importance(model, batches(), torch.Generator().manual_seed(1))
    assert float(found[1].heads[2]) == 0.0
    assert float(found[1].inner[:16].max()) == 0.0
    assert min(float(one.heads.sum()) for one in found) > 0.0
    heads = most_important([one.heads for one in found], 11 / 12, 1)
    assert [one.tolist() for one in heads] == [[0, 1, 2, 3], [0, 1, 3], [0, 1, 2, 3]]


def test_importance_foretells_what_taking_a_head_away_changes() -> None:
    for model, inputs in ((encoder(), batches(12)), (cross(), pairs(12))):
        wanted = outputs(model, inputs)
        foretold = torch.cat(
            [one.heads for one in importance(model, inputs, torch.Generator().manual_seed(1))]
        )
        real = []
        for layer in range(3):
            for head in range(4):
                smaller = type(model)(SHAPE, 16) if isinstance(model, Encoder) else CrossEncoder(SHAPE)
                smaller.load_state_dict(model.state_dict())
                silence(smaller, layer, head, slice(0, 0))
                real.append(distortion(smaller.eval(), wanted, inputs))
        together = torch.stack([foretold.log(), torch.tensor(real).log()])
        assert float(torch.corrcoef(together)[0, 1]) > 0.6


@pytest.mark.parametrize("kind", ["encoder", "cross"])
def test_pruning_what_says_nothing_changes_nothing(kind: str) -> None:
    model, inputs = (encoder(), batches()) if kind == "encoder" else (cross(), pairs())
    silence(model, 0, 1, slice(8, 24))
    heads = [torch.tensor([0, 2, 3]), torch.arange(4), torch.arange(4)]
    inner = [torch.cat([torch.arange(8), torch.arange(24, 48)]), torch.arange(48), torch.arange(48)]
    smaller = shrink(model, heads, inner, inputs)
    assert smaller.stack.shape.heads_by_layer == (3, 4, 4)
    assert smaller.stack.shape.inner_by_layer == (32, 48, 48)
    assert parameters(smaller) < parameters(model)
    assert distortion(smaller, outputs(model, inputs), inputs) < 1e-6


def test_the_refit_makes_up_for_part_of_what_was_taken_away() -> None:
    model, inputs = encoder(), batches(40)
    found = importance(model, inputs, torch.Generator().manual_seed(1))
    heads = [torch.arange(4)] * 3
    inner = most_important([one.inner for one in found], 0.5, 8)
    wanted = outputs(model, inputs)
    # With an endless ridge the weights that stay are the old ones.
    plain = distortion(shrink(model, heads, inner, inputs, ridge=1e9), wanted, inputs)
    refitted = distortion(shrink(model, heads, inner, inputs), wanted, inputs)
    assert refitted < 0.8 * plain


def test_a_pruned_model_survives_saving_and_loading(tmp_path: Path) -> None:
    inputs = pairs()
    model = without_layers(cross(), [0, 2])
    smaller = shrink(
        model, [torch.tensor([1, 2]), torch.arange(4)], [torch.arange(16), torch.arange(40)], inputs
    )
    save_model(tmp_path / "small.pt", smaller)
    loaded = load_cross(tmp_path / "small.pt")
    assert loaded.stack.shape.heads_by_layer == (2, 4)
    assert distortion(loaded, outputs(smaller, inputs), inputs) < 1e-10


def test_the_layer_that_does_nothing_is_dropped_first() -> None:
    model = encoder()
    idle = stack_layers(model.stack)[1]
    for part in (idle.mix, idle.narrow):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.zeros_(part.bias)
    assert least_harmful_layers(model, 2, batches()) == [0, 2]
    assert model.stack.shape.layers == len(model.stack.layers) == 3


def test_a_share_is_kept_over_all_layers_and_one_block_in_each() -> None:
    worth = [torch.tensor([1.0, 9.0, 2.0, 8.0]), torch.tensor([0.4, 0.1, 0.3, 0.2])]
    assert [one.tolist() for one in most_important(worth, 0.75, 1)] == [[0, 1, 2, 3], [0, 2]]
    assert [one.tolist() for one in most_important(worth, 0.1, 1)] == [[1], [0]]
    assert [one.tolist() for one in most_important(worth, 0.75, 2)] == [[0, 1, 2, 3], [0, 2]]
    assert [len(one) for one in most_important(worth, 1.0, 3)] == [4, 4]
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        most_important(worth, 0.0, 1)


def test_spread_layers_end_with_the_last() -> None:
    assert spread_layers(6, 3) == [1, 3, 5]
    assert spread_layers(6, 6) == [0, 1, 2, 3, 4, 5]
    assert spread_layers(6, 1) == [5]
