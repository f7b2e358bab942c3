"""Our stack is the pretrained one, and its int8 ONNX form agrees with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.training.conftest import Workplace
from training.cross import new_cross
from training.data.batches import Specials, pair_batch, pieces_of, text_batch
from training.models.networks import load_cross, load_encoder, load_stack, pretrained_folder
from training.prepare import load_prepared
from training.quantise import export_cross, open_session

TEXTS = ["steel kettle", "blue running shoes for women, size 40", "x"]


def test_the_stack_computes_what_torch_computes_from_the_same_weights(workplace: Workplace) -> None:
    folder = pretrained_folder(workplace.recipe.pretrained)
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    width = config["hidden_size"]
    words = weights["embeddings.word_embeddings.weight"]
    stack = load_stack(folder, kept_tokens=range(len(words)), layers=None, positions=32).eval()
    ids = torch.tensor([[2, 40, 50, 60, 3], [2, 70, 3, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])

    states = words[ids] + weights["embeddings.position_embeddings.weight"][:5]
    states = states + weights["embeddings.token_type_embeddings.weight"][0]
    states = nn.functional.layer_norm(
        states, (width,), weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"], 1e-12
    )
    for number in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{number}"
        # torch's own layer, with the three projections of attention stacked as it wants them.
        layer = nn.TransformerEncoderLayer(
            width,
            config["num_attention_heads"],
            config["intermediate_size"],
            dropout=0.0,
            activation="gelu",
            layer_norm_eps=1e-12,
            batch_first=True,
        )
        parts = [f"{at}.attention.self.{name}" for name in ("query", "key", "value")]
        layer.load_state_dict(
            {
                "self_attn.in_proj_weight": torch.cat([weights[f"{part}.weight"] for part in parts]),
                "self_attn.in_proj_bias": torch.cat([weights[f"{part}.bias"] for part in parts]),
                "self_attn.out_proj.weight": weights[f"{at}.attention.output.dense.weight"],
                "self_attn.out_proj.bias": weights[f"{at}.attention.output.dense.bias"],
                "norm1.weight": weights[f"{at}.attention.output.LayerNorm.weight"],
                "norm1.bias": weights[f"{at}.attention.output.LayerNorm.bias"],
                "linear1.weight": weights[f"{at}.intermediate.dense.weight"],
                "linear1.bias": weights[f"{at}.intermediate.dense.bias"],
                "linear2.weight": weights[f"{at}.output.dense.weight"],
                "linear2.bias": weights[f"{at}.output.dense.bias"],
                "norm2.weight": weights[f"{at}.output.LayerNorm.weight"],
                "norm2.bias": weights[f"{at}.output.LayerNorm.bias"],
            }
        )
        layer.train()  # evaluation mode would take a fused path that leaves padded places at 0
        states = layer(states, src_key_padding_mask=mask == 0)
    with torch.inference_mode():
        found = stack(ids, mask)
    real = mask.bool()
    torch.testing.assert_close(found[real], states[real].detach(), rtol=1e-4, atol=1e-4)


def test_padding_changes_neither_vectors_nor_scores(workplace: Workplace) -> None:
    prepared = load_prepared(workplace.run)
    specials = Specials.of(prepared.tokenizer)
    encoder, cross = load_encoder(workplace.run / "encoder.pt"), load_cross(workplace.run / "cross_small.pt")
    rows = pieces_of(prepared.tokenizer, TEXTS, 12)
    with torch.inference_mode():
        together, _ = encoder(*text_batch(rows, specials))
        scores = cross(*pair_batch(rows[0], rows, specials))
        for at, row in enumerate(rows):
            alone, tokens = encoder(*text_batch([row], specials))
            torch.testing.assert_close(together[at], alone[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(1, len(row) + 2))
            one = cross(*pair_batch(rows[0], [row], specials))
            torch.testing.assert_close(scores[at], one[0], rtol=1e-4, atol=1e-4)


def test_the_cross_encoder_survives_an_empty_product_and_an_empty_query(workplace: Workplace) -> None:
    prepared = load_prepared(workplace.run)
    specials = Specials.of(prepared.tokenizer)
    cross = load_cross(workplace.run / "cross_small.pt")
    row = pieces_of(prepared.tokenizer, TEXTS[:1], 12)[0]
    with torch.inference_mode():
        assert torch.isfinite(cross(*pair_batch(row, [row, []], specials))).all()
        assert torch.isfinite(cross(*pair_batch([], [row, []], specials))).all()


def test_layers_that_read_apart_keep_a_product_from_its_query(workplace: Workplace, tmp_path: Path) -> None:
    prepared = load_prepared(workplace.run)
    specials = Specials.of(prepared.tokenizer)
    settings = workplace.recipe.students()["cross_large"]
    rows = pieces_of(prepared.tokenizer, TEXTS, 12)
    product, queries = rows[0], [rows[1][:2], rows[2][:4]]

    def states(apart: int, query: list[int]) -> torch.Tensor:
        cross = new_cross(workplace.recipe, replace(settings, apart=1), prepared)
        cross.stack.shape = replace(cross.stack.shape, apart=apart)
        ids, mask, kinds = pair_batch(query, [product], specials)
        with torch.inference_mode():
            found: torch.Tensor = cross.stack(ids, mask, texts=kinds)[0, len(query) + 2 :]
            return found

    alone = [states(2, query) for query in queries]
    torch.testing.assert_close(alone[0], alone[1], rtol=1e-4, atol=1e-5)
    met = [states(1, query) for query in queries]
    assert (met[0] - met[1]).abs().max() > 1e-3
    cross = new_cross(workplace.recipe, replace(settings, apart=1), prepared).eval()
    export_cross(cross, tmp_path / "apart.onnx", int8=False)
    session = open_session(tmp_path / "apart.onnx")
    for query in queries:
        batch = pair_batch(query, rows, specials)
        names = ("input_ids", "attention_mask", "token_type_ids")
        found = session.run(None, {name: one.numpy() for name, one in zip(names, batch, strict=True)})[0]
        with torch.inference_mode():
            np.testing.assert_allclose(found, cross(*batch).numpy(), atol=1e-3)


def test_int8_onnx_agrees_with_float32(workplace: Workplace) -> None:
    report = json.loads((workplace.run / "onnx" / "report.json").read_text())
    assert report["encoder"]["dense_cosine"] > 0.99
    assert report["encoder"]["token_cosine"] > 0.99
    assert report["cross_small"]["correlation"] > 0.95


@pytest.mark.parametrize("name", ["encoder", "cross_small"])
def test_the_onnx_models_take_any_batch_and_length(workplace: Workplace, name: str) -> None:
    session = open_session(workplace.run / "onnx" / f"{name}.onnx")
    names = {one.name for one in session.get_inputs()}
    kinds = {"token_type_ids"} if name == "cross_small" else set()
    assert names == {"input_ids", "attention_mask"} | kinds
    for batch, length in ((1, 3), (3, 9)):
        inputs = {one: np.ones((batch, length), dtype=np.int64) for one in names}
        outputs = dict(
            zip((one.name for one in session.get_outputs()), session.run(None, inputs), strict=True)
        )
        if name == "encoder":
            assert outputs["dense"].shape == (batch, 64)
            assert outputs["tokens"].shape == (batch, length, 64)
        else:
            assert outputs["score"].shape == (batch,)


def test_an_unknown_pretrained_model_says_how_to_name_one() -> None:
    with pytest.raises(FileNotFoundError, match=r"name a folder that holds config\.json"):
        pretrained_folder("no-such-model")
