"""What the exporter writes is what the core's own kernels read, and the gate on nDCG over both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import rankcore
from tests.training.conftest import Workplace
from training.kernels import compare, main
from training.models.networks import CrossEncoder, Encoder, Shape
from training.models.rounding import rounded, weight_levels
from training.quantise import export_cross, export_encoder

pytestmark = pytest.mark.skipif(
    "avx2" not in rankcore.cpu_features(),
    reason="this processor has no AVX2, so ONNX Runtime runs all models",
)

WORDS, POSITIONS = 120, 40
WHOLE = {"layers": 2, "width": 64, "heads": 2, "inner": 128, "vocabulary": WORDS, "positions": POSITIONS}
SHAPES = {
    "whole": Shape(**WHOLE),  # type: ignore[arg-type]
    "narrowed": Shape(**WHOLE, heads_by_layer=(2, 1), inner_by_layer=(90, 33)),  # type: ignore[arg-type]
    "half apart": Shape(**WHOLE, apart=1),  # type: ignore[arg-type]
    "all apart": Shape(**WHOLE, apart=2),  # type: ignore[arg-type]
}


def random_model(model: Encoder | CrossEncoder, seed: int) -> None:
    """Weights as large as trained ones, and no bias or gain that could hide a mistake by being 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, values in model.state_dict().items():
        noise = torch.randn(values.shape, generator=generator)
        if name == "mix":
            continue
        gain = "norm" in name and name.endswith("weight")
        values.copy_(1.0 + 0.2 * noise if gain else 0.1 * noise)
    model.eval()


def rows(pairs: bool) -> list[tuple[list[int], int]]:
    random = np.random.default_rng(3)
    lengths = [5, 9, 16, 17, 31, 33, 38]
    return [
        (random.integers(WORDS, size=length).tolist(), 2 + at % 3 if pairs else length)
        for at, length in enumerate(lengths)
    ]


def network(path: Path, *, cross: bool, kernels: str = "own") -> rankcore.Network:
    return rankcore.Network(
        str(path), cross=cross, runtime_library=rankcore.runtime_library(), kernels=kernels
    )


def cosines(found: list[NDArray[np.float32]], expected: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    return np.array([float(one @ other) for one, other in zip(found, expected, strict=True)])


@pytest.mark.parametrize("shape", ["whole", "narrowed"])
@pytest.mark.parametrize("weight_bits", [7, 8])
def test_an_exported_encoder_gives_the_vectors_of_the_model_it_was_made_from(
    tmp_path: Path, shape: str, weight_bits: int
) -> None:
    model = Encoder(SHAPES[shape], 32)
    random_model(model, 1)
    path = tmp_path / "encoder.onnx"
    export_encoder(model, path, weight_bits=weight_bits)
    own = network(path, cross=False)
    assert own.runner.startswith("own ")
    found = own.run(rows(False))
    with (
        rounded(model, levels=weight_levels(weight_bits), activations="none"),
        torch.inference_mode(),
    ):
        expected = [model(torch.tensor([ids]), torch.ones(1, len(ids))) for ids, _ in rows(False)]
    # The same int8 weights; what is left is the rounding of activations, 256 steps a token.
    dense = cosines([one for one, _ in found], [one[0].numpy() for one, _ in expected])
    assert dense.min() > 0.999
    for (_, tokens), (_, wanted) in zip(found, expected, strict=True):
        gaps = cosines(list(tokens.reshape(-1, 32)), list(wanted[0].numpy()))
        assert gaps.min() > 0.995


@pytest.mark.parametrize("shape", SHAPES)
def test_an_exported_cross_encoder_gives_the_scores_of_the_model_it_was_made_from(
    tmp_path: Path, shape: str
) -> None:
    model = CrossEncoder(SHAPES[shape])
    random_model(model, 2)
    path = tmp_path / "cross.onnx"
    export_cross(model, path)
    own = network(path, cross=True)
    assert own.runner.startswith("own ")
    found = np.array([float(score[0]) for (score,) in own.run(rows(True))])
    with rounded(model, levels=weight_levels(7), activations="none"), torch.inference_mode():
        expected = np.array(
            [
                float(
                    model(
                        torch.tensor([ids]),
                        torch.ones(1, len(ids)),
                        torch.tensor([[0] * second + [1] * (len(ids) - second)]),
                    )
                )
                for ids, second in rows(True)
            ]
        )
    # Scores lie between -15 and 15: the mix of late interaction and means is 10 and 5.
    np.testing.assert_allclose(found, expected, atol=0.1)
    reference = network(path, cross=True, kernels="onnxruntime")
    theirs = np.array([float(score[0]) for (score,) in reference.run(rows(True))])
    np.testing.assert_allclose(found, theirs, atol=0.5)


def test_float_models_are_left_to_onnx_runtime(tmp_path: Path) -> None:
    model = CrossEncoder(SHAPES["whole"])
    random_model(model, 2)
    path = tmp_path / "cross.onnx"
    export_cross(model, path, int8=False)
    assert network(path, cross=True, kernels="auto").runner.startswith("onnxruntime (")
    with pytest.raises(rankcore.BundleError, match="our own kernels cannot run it"):
        network(path, cross=True)


def test_a_text_longer_than_the_positions_is_an_error_not_a_crash(tmp_path: Path) -> None:
    model = Encoder(SHAPES["whole"], 32)
    export_encoder(model, tmp_path / "encoder.onnx")
    own = network(tmp_path / "encoder.onnx", cross=False)
    with pytest.raises(rankcore.RankError, match="40 positions"):
        own.run([([1] * (POSITIONS + 1), POSITIONS + 1)])
    with pytest.raises(rankcore.RankError, match="120 words"):
        own.run([([WORDS], 1)])


def test_the_gate_measures_every_plan_with_both_kernels(workplace: Workplace) -> None:
    result = compare(
        workplace.run / "draft",
        workplace.data / "shop",
        cache=workplace.run / "catalogues",
        rounds=200,
    )
    assert {runner.split()[0] for _, runner, _ in result["models"]["own"]} == {"own"}
    assert {runner for _, runner, _ in result["models"]["onnxruntime"]} == {"onnxruntime"}
    rankings = {ranking["name"]: ranking for ranking in result["rankings"]}
    assert {"lexical", "hybrid", "(dense)", "(late)"} <= set(rankings)
    assert any(name.startswith("cross_small @ ") for name in rankings)
    assert "catalogue" not in rankings["(late)"]
    for setting in ("catalogue", "judged"):
        # Words alone need no model.
        assert rankings["lexical"][setting]["difference"] == {"ndcg10": 0.0, "low": 0.0, "high": 0.0}
        assert rankings["lexical"][setting]["changed"] == 0.0
    for ranking in rankings.values():
        for setting in {"catalogue", "judged"} & set(ranking):
            gap = ranking[setting]["difference"]
            assert gap["low"] <= gap["ndcg10"] <= gap["high"]


def test_the_gates_command_says_what_is_wrong(
    workplace: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(workplace.data / "shop")]
    assert main([str(tmp_path), *data]) == 2
    assert capsys.readouterr().err.startswith("python -m training.kernels: ")
    assert main([str(workplace.run / "draft"), *data, "--kernels", "fastest"]) == 2
    assert "accepted: auto, own, onnxruntime" in capsys.readouterr().err
