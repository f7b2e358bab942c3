"""A cross-encoder that starts from the encoder's words is stored without them, and scores the same."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from muster.bundle import read_bundle
from muster.v1 import catalogue_pb2
from tests.training.conftest import Workplace
from training.export import cross_models, write_draft
from training.golden import TOLERANCE, Reference, made_up_pairs
from training.models.networks import CrossEncoder, load_encoder
from training.models.sharing import LOCATION, compressed, shared_words
from training.prepare import load_prepared
from training.quantise import export_cross, open_session

FEEDS = {
    "input_ids": np.array([[2, 40, 50, 3, 60, 70, 80, 3]]),
    "attention_mask": np.ones((1, 8), np.int64),
    "token_type_ids": np.array([[0, 0, 0, 0, 1, 1, 1, 1]]),
}


@pytest.fixture(scope="module")
def run(workplace: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose large cross-encoder has the encoder's words; those of the small one were trained on."""
    run = tmp_path_factory.mktemp("sharing") / "run"
    shutil.copytree(workplace.run, run, ignore=shutil.ignore_patterns("draft", "bundle", "catalogues"))
    encoder = load_encoder(run / "encoder.pt")
    cross = CrossEncoder(encoder.stack.shape)
    cross.stack.load_state_dict(encoder.stack.state_dict())
    export_cross(cross.eval(), run / "onnx" / "cross_large.onnx")
    return run


def score(model: bytes, folder: Path) -> float:
    """From ONNX Runtime, which looks for what the model does not hold in the folder."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return float(session.run(["score"], FEEDS)[0][0])


def test_a_table_that_the_encoder_has_is_read_from_the_encoders_file(run: Path, tmp_path: Path) -> None:
    encoder, cross = run / "onnx" / "encoder.onnx", run / "onnx" / "cross_large.onnx"
    model = shared_words(cross, encoder)
    outside = [one for one in onnx.load_from_string(model).graph.initializer if one.external_data]
    table = load_encoder(run / "encoder.pt").stack.words.weight
    assert tuple(table.shape) in {tuple(one.dims) for one in outside}
    assert {entry.value for one in outside for entry in one.external_data if entry.key == "location"} == {
        LOCATION
    }
    assert len(model) < cross.stat().st_size - table.numel() + 2000
    (tmp_path / "encoder").mkdir()
    shutil.copy(encoder, tmp_path / LOCATION)
    expected = open_session(cross).run(["score"], FEEDS)[0][0]
    assert score(model, tmp_path) == expected


def test_a_model_that_shares_nothing_stays_as_it_is(run: Path, tmp_path: Path) -> None:
    cross = CrossEncoder(load_encoder(run / "encoder.pt").stack.shape)
    export_cross(cross.eval(), tmp_path / "other.onnx")
    assert (
        shared_words(tmp_path / "other.onnx", run / "onnx" / "encoder.onnx")
        == (tmp_path / "other.onnx").read_bytes()
    )


def test_a_compressed_model_depends_on_its_content_alone() -> None:
    model = bytes(range(256)) * 100
    assert compressed(model) == compressed(bytes(model))
    assert gzip.decompress(compressed(model)) == model
    # Flags, time: no name, no time.
    assert compressed(model)[3:8] == bytes(5)


def test_two_models_in_a_bundle_are_smaller_than_one_and_the_rest(run: Path, tmp_path: Path) -> None:
    encoder, cross = run / "onnx" / "encoder.onnx", run / "onnx" / "cross_large.onnx"
    table = load_encoder(run / "encoder.pt").stack.words.weight.numel()
    stored = len(compressed(shared_words(cross, encoder)))
    assert encoder.stat().st_size + stored < encoder.stat().st_size + cross.stat().st_size - table
    assert stored < len(compressed(cross.read_bytes()))


def test_the_engine_scores_shared_and_compressed_models_as_python_does(
    workplace: Workplace, run: Path, tmp_path: Path
) -> None:
    rankcore = pytest.importorskip("rankcore", reason="the extension is not built: `make build`")
    recipe = workplace.recipe
    write_draft(recipe, run, tmp_path / "bundle")
    bundle = read_bundle(tmp_path / "bundle")
    assert {plan["tier"] for plan in bundle.plans()} >= {"cross_small", "cross_large"}
    assert {"cross_small/model.onnx.gz", "cross_large/model.onnx.gz"} <= set(bundle.manifest.files)
    assert (bundle.folder / LOCATION).read_bytes() == (run / "onnx" / "encoder.onnx").read_bytes()
    assert all(case["cross_large"] is not None for case in bundle.json("golden.json")["cases"])

    library = rankcore.runtime_library()
    # The runtime that computes the reference too, so that nothing but what was stored can differ.
    models = rankcore.Models(str(bundle.folder), runtime_library=library, kernels="onnxruntime")
    reference = Reference(
        load_prepared(run).tokenizer, recipe.text, run / "onnx" / "encoder.onnx", cross_models(run)
    )
    for query, product in made_up_pairs():
        wanted = reference.scores(query, product)
        (found,) = models.pair_scores(query, [product.SerializeToString()])
        # The same graph on the same ids, one text at a time.
        assert found[2:] == pytest.approx((wanted["cross_small"], wanted["cross_large"]), abs=1e-4)
        assert found[:2] == pytest.approx((wanted["dense"], wanted["late"]), abs=TOLERANCE["late"])
    engine = rankcore.Engine(str(bundle.folder), runtime_library=library)
    try:
        assert engine.verify_golden() == []
    finally:
        engine.close()


def test_a_tier_without_a_model_has_no_score(workplace: Workplace) -> None:
    run = workplace.run
    reference = Reference(
        load_prepared(run).tokenizer,
        workplace.recipe.text,
        run / "onnx" / "encoder.onnx",
        {"cross_small": run / "onnx" / "cross_small.onnx"},
    )
    scores = reference.scores("kettle", catalogue_pb2.Product(title="Steel kettle"))
    assert scores["cross_small"] is not None
    assert scores["cross_large"] is None
