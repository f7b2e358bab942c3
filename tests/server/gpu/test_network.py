"""A cross-encoder read from ONNX and run by torch gives what ONNX Runtime gives.

Torch runs on the processor here. In float32 the two differ by the order of their sums only; where the model
is int8, ONNX Runtime rounds activations as well, which torch does not.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (the extra `gpu` or `train`)")

from server.gpu.graph import (  # noqa: E402 (needs torch)
    Graph,
    UnreadableModel,
    model_file,
    read_cross,
    read_graph,
)
from server.gpu.network import Network  # noqa: E402
from training.models.networks import CrossEncoder, Shape  # noqa: E402
from training.quantise import export_cross  # noqa: E402

SUMS = 2e-5
"""Of float32 sums in another order; scores are a few units."""
ROUNDED = 0.15
"""Of int8 activations on random weights, with which a trained model is far more at ease."""
BF16 = 0.1
"""Of products with 8 bits of fraction."""

VOCABULARY = 100
LENGTH = 24


def network(graph: Graph, dtype: torch.dtype = torch.float32) -> Network:
    return Network(graph, torch.device("cpu"), dtype).eval()


def exported(path: Path, *, int8: bool, apart: int = 0) -> bytes:
    """A cross-encoder as training exports it, with random weights of a size that makes scores differ."""
    torch.manual_seed(5)
    pruned = Shape(
        2, 64, 4, 128, VOCABULARY, 40, apart=apart, heads_by_layer=(3, 2), inner_by_layer=(128, 96)
    )
    model = CrossEncoder(pruned)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5)
            elif name != "mix":
                parameter.normal_(0.0, 0.15)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_cross(model, path, int8=int8)
    return path.read_bytes()


def ragged(pairs: int) -> tuple[list[npt.NDArray[np.int64]], list[int]]:
    """Ids, mask and types [pairs, LENGTH] of pairs of many lengths, padded; and the lengths."""
    rng = np.random.default_rng(3)
    arrays = [np.zeros((pairs, LENGTH), np.int64) for _ in range(3)]
    lengths = []
    for row in range(pairs):
        length = int(rng.integers(5, LENGTH + 1))
        arrays[0][row, :length] = rng.integers(0, VOCABULARY, length)
        arrays[1][row, :length] = 1
        arrays[2][row, int(rng.integers(3, length - 1)) : length] = 1
        lengths.append(length)
    return arrays, lengths


def one_by_one(
    session: onnxruntime.InferenceSession, arrays: list[npt.NDArray[np.int64]], lengths: list[int]
) -> npt.NDArray[np.float32]:
    """Scores as the service gives them: each pair alone, without padding."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    scores = []
    for row, length in enumerate(lengths):
        inputs = {name: one[row : row + 1, :length] for name, one in zip(names, arrays, strict=True)}
        scores.append(float(np.asarray(session.run(["score"], inputs)[0])[0]))
    return np.array(scores, np.float32)


def run(net: Network, arrays: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.float32]:
    return net(*(torch.from_numpy(one) for one in arrays)).numpy()


def session_of(model: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("apart", [0, 1], ids=["joint", "apart"])
@pytest.mark.parametrize("int8", [False, True], ids=["float32", "int8"])
def test_a_padded_batch_scores_as_onnx_runtime_scores_each_pair(
    int8: bool, apart: int, tmp_path: Path
) -> None:
    model = exported(tmp_path / "cross.onnx", int8=int8, apart=apart)
    arrays, lengths = ragged(40)
    wanted = one_by_one(session_of(model), arrays, lengths)
    assert wanted.std() > 0.3
    found = run(network(read_graph(model, b"")), arrays)
    np.testing.assert_allclose(found, wanted, atol=ROUNDED if int8 else SUMS)


def test_bf16_stays_near(tmp_path: Path) -> None:
    graph = read_graph(exported(tmp_path / "cross.onnx", int8=True), b"")
    arrays, _ = ragged(40)
    gaps = np.abs(run(network(graph, torch.bfloat16), arrays) - run(network(graph), arrays))
    assert 0.0 < gaps.max() < BF16


def test_int8_weights_are_the_floats_that_they_stand_for(tmp_path: Path) -> None:
    floats = read_graph(exported(tmp_path / "float.onnx", int8=False), b"")
    rounded = read_graph(exported(tmp_path / "int8.onnx", int8=True), b"")

    def linear_weights(graph: Graph) -> list[npt.NDArray[np.float32]]:
        return [graph.constants[step.inputs[1]] for step in graph.steps if step.kind == "Linear"]

    pairs = list(zip(linear_weights(floats), linear_weights(rounded), strict=True))
    # Six a layer, and the head.
    assert len(pairs) == 13
    for whole, back in pairs:
        # 7 bits for each output; half a step off at most, and a little for the range's own rounding.
        step = np.abs(whole).max(axis=0) / 63.0
        assert (np.abs(whole - back) <= 0.51 * step + 1e-6).all()


def test_groups_that_libraries_have_one_kernel_for_are_found(tmp_path: Path) -> None:
    for int8 in (False, True):
        kinds = read_graph(exported(tmp_path / "cross.onnx", int8=int8), b"").kinds()
        assert (kinds["Attention"], kinds["Gelu"], kinds["Linear"]) == (2, 2, 13)
        assert not {"Erf", "Softmax", "MatMulInteger", "DynamicQuantizeLinear"} & kinds.keys()


def test_without_those_groups_the_same_steps_give_the_same_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = exported(tmp_path / "cross.onnx", int8=True)
    arrays, _ = ragged(12)
    wanted = run(network(read_graph(model, b"")), arrays)
    for group in ("_with_bias", "_with_gelu", "_with_attention"):
        monkeypatch.setattr(f"server.gpu.graph.{group}", lambda steps, constants: steps)
    plain = read_graph(model, b"")
    assert {"Erf", "Softmax"} <= plain.kinds().keys()
    np.testing.assert_allclose(run(network(plain), arrays), wanted, atol=SUMS)


@pytest.mark.parametrize("tier", ["cross_small", "cross_large"])
def test_the_models_of_a_bundle_are_read_plain_or_compressed_with_words_of_the_encoder(
    tier: str, bundle: Path
) -> None:
    graph = read_cross(bundle, tier)
    arrays, lengths = ragged(20)
    path = model_file(bundle, tier)
    assert path is not None
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(bundle))
    import gzip

    content = path.read_bytes()
    model = gzip.decompress(content) if path.suffix == ".gz" else content
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(run(network(graph), arrays), one_by_one(session, arrays, lengths), atol=SUMS)
    assert graph.vocabulary() > VOCABULARY


def small_model(nodes: list[onnx.NodeProto], constants: dict[str, npt.NDArray[np.float32]]) -> bytes:
    names = ("input_ids", "attention_mask", "token_type_ids")
    graph = onnx.helper.make_graph(
        nodes,
        "small",
        [onnx.helper.make_tensor_value_info(one, onnx.TensorProto.INT64, ["B", "T"]) for one in names],
        [onnx.helper.make_tensor_value_info("score", onnx.TensorProto.FLOAT, ["B"])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return bytes(onnx.helper.make_model(graph).SerializeToString())


def test_a_step_without_a_kernel_is_named() -> None:
    graph = read_graph(small_model([onnx.helper.make_node("Einsum", ["input_ids"], ["score"])], {}), b"")
    with pytest.raises(UnreadableModel, match="no kernel for the steps Einsum"):
        network(graph)


def test_a_rounded_value_in_an_unknown_place_is_refused() -> None:
    nodes = [
        onnx.helper.make_node("Cast", ["input_ids"], ["x"], to=1),
        onnx.helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        onnx.helper.make_node("Neg", ["scale"], ["score"]),
    ]
    with pytest.raises(UnreadableModel, match="step Neg reads a rounded value"):
        read_graph(small_model(nodes, {}), b"")


def test_words_are_read_from_the_encoders_file_and_nowhere_else() -> None:
    table = np.arange(12, dtype=np.float32).reshape(6, 2)
    model = onnx.load_model_from_string(
        small_model([onnx.helper.make_node("Gather", ["table", "input_ids"], ["score"])], {"table": table})
    )
    tensor = model.graph.initializer[0]
    content = tensor.raw_data
    tensor.ClearField("raw_data")

    def stored(location: str, offset: int) -> bytes:
        tensor.ClearField("external_data")
        onnx.external_data_helper.set_external_data(
            _with_raw(tensor), location, offset=offset, length=len(content)
        )
        return bytes(model.SerializeToString())

    found = read_graph(stored("encoder/model.onnx", 3), b"abc" + content)
    np.testing.assert_array_equal(found.constants["table"], table)
    assert found.vocabulary() == 6
    for location, offset in (("/etc/passwd", 0), ("encoder/model.onnx", 4)):
        with pytest.raises(UnreadableModel, match=r"stored outside encoder/model\.onnx"):
            read_graph(stored(location, offset), b"abc" + content)


def _with_raw(tensor: onnx.TensorProto) -> onnx.TensorProto:
    # ONNX marks a tensor as external only while it holds bytes.
    tensor.raw_data = b""
    return tensor
