"""Quantise: models to ONNX, int8 per output channel, the embedding table int8 per row.

Weights use 7 of the 8 bits (reduce_range): processors with AVX2 but without VNNI add pairs of 8-bit products
in 16 bits, which would saturate. Writes `onnx/encoder.onnx` and, where trained, `onnx/cross_small.onnx`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from training.data.batches import Specials, pair_batch, pieces_of, text_batch
from training.data.text import product_text
from training.models.networks import CrossEncoder, Encoder, load_cross, load_encoder
from training.prepare import load_prepared
from training.recipe import Recipe, stage_arguments


def export_encoder(encoder: Encoder, path: Path) -> None:
    """Write an encoder as int8 ONNX with the outputs "dense" and "tokens"."""
    ids = torch.ones(2, 7, dtype=torch.long)
    _export(
        encoder,
        {"input_ids": ids, "attention_mask": ids},
        ["dense", "tokens"],
        path,
    )


def export_cross(cross: CrossEncoder, path: Path) -> None:
    """Write a cross-encoder as int8 ONNX with the output "score"."""
    ids = torch.ones(2, 7, dtype=torch.long)
    kinds = torch.tensor([[0, 0, 0, 1, 1, 1, 1]] * 2)
    _export(cross, {"input_ids": ids, "attention_mask": ids, "token_type_ids": kinds}, ["score"], path)


def open_session(path: Path, *, threads: int = 1) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the processor with a fixed number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _export(
    model: Encoder | CrossEncoder, inputs: Mapping[str, Tensor], outputs: list[str], path: Path
) -> None:
    model.eval()
    model.stack.freeze_words()
    axes: dict[str, dict[int, str]] = {name: {0: "batch", 1: "length"} for name in inputs}
    axes |= {name: {0: "batch"} | ({1: "length"} if name == "tokens" else {}) for name in outputs}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        plain, ready = Path(folder) / "plain.onnx", Path(folder) / "ready.onnx"
        with warnings.catch_warnings():
            # The tracing exporter is marked for removal; its graph is the unfused one that runs fastest.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Unrecorded(model),
                tuple(inputs.values()),
                str(plain),
                input_names=list(inputs),
                output_names=outputs,
                dynamic_axes=axes,
                opset_version=17,
                dynamo=False,
            )
        onnx.save(onnx.shape_inference.infer_shapes(onnx.load(plain)), ready)
        quantize_dynamic(
            ready,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            # Attention's own products (activation by activation) stay in float32.
            extra_options={"MatMulConstBOnly": True},
        )
    _drop_notes(path)
    model.stack.words_int8 = model.stack.words_scale = None


class _Unrecorded(nn.Module):
    """The same forward pass without gradients."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Any:
        with torch.no_grad():
            return self.model(*inputs)


def _drop_notes(path: Path) -> None:
    # Names of source files and shapes of every step are of no use to a reader and a tenth of the size.
    model = onnx.load(path)
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    del model.graph.value_info[:]
    onnx.save(model, path)


def quantise(recipe: Recipe, run: Path) -> dict[str, Any]:
    """Run the stage. Returns sizes in bytes and the agreement with float32, per model."""
    prepared = load_prepared(run)
    specials = Specials.of(prepared.tokenizer)
    judged = [query for query in prepared.queries if query.split == "train" and len(query.gains) > 3][:24]
    report: dict[str, Any] = {}

    def pieces(query: Any, fields: list[str], tokens_max: int) -> list[list[int]]:
        texts = [product_text(prepared.products[query.set][key], fields) for key in list(query.gains)[:16]]
        return pieces_of(prepared.tokenizer, texts, tokens_max)

    encoder = load_encoder(run / "encoder.pt")
    path = run / "onnx" / "encoder.onnx"
    export_encoder(encoder, path)
    session = open_session(path)
    dense_gaps, token_gaps = [], []
    for query in judged:
        ids, mask = text_batch(
            pieces(query, recipe.text.dense_fields, recipe.text.dense_tokens_max), specials
        )
        with torch.inference_mode():
            dense, tokens = encoder(ids, mask)
        got = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        dense_gaps.append(1.0 - (dense.numpy() * got[0]).sum(-1))
        token_gaps.append(1.0 - (tokens.numpy() * got[1]).sum(-1)[mask.bool().numpy()])
    report["encoder"] = {
        "bytes": path.stat().st_size,
        "dense_cosine": 1.0 - float(np.concatenate(dense_gaps).mean()),
        "token_cosine": 1.0 - float(np.concatenate(token_gaps).mean()),
    }
    if (run / "cross_small.pt").is_file():
        cross = load_cross(run / "cross_small.pt")
        path = run / "onnx" / "cross_small.onnx"
        export_cross(cross, path)
        session = open_session(path)
        wanted, found = [], []
        for query in judged:
            asked = pieces_of(prepared.tokenizer, [query.text], recipe.text.query_tokens_max)[0]
            batch = pair_batch(
                asked, pieces(query, recipe.text.cross_fields, recipe.text.cross_tokens_max), specials
            )
            with torch.inference_mode():
                wanted.append(cross(*batch).numpy())
            names = ("input_ids", "attention_mask", "token_type_ids")
            found.append(
                session.run(None, {name: one.numpy() for name, one in zip(names, batch, strict=True)})[0]
            )
        before, after = np.concatenate(wanted), np.concatenate(found)
        report["cross_small"] = {
            "bytes": path.stat().st_size,
            "correlation": float(np.corrcoef(before, after)[0, 1]),
            "mean_gap": float(np.abs(before - after).mean()),
        }
    (run / "onnx" / "report.json").write_text(json.dumps(report, indent=2))
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage."""
    arguments = stage_arguments("Models to int8 ONNX.", argv)
    print(json.dumps(quantise(arguments.recipe, arguments.run), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
