"""The core's own int8 kernels against ONNX Runtime, on the committed bundle and on one that they cannot run.

Both multiply the same int8 weights exactly. They differ in how activations are rounded to 8 bits: the core
with a scale a token, ONNX Runtime with one a text, which is coarser. Held against the same weights without
any rounding of activations, dense vectors of 100 products have a cosine of .9994 (core) and .9940 (ONNX
Runtime) on average; so the two are within NEAR of each other, and the golden requests, which were made with
ONNX Runtime, hold for both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rankcore
from muster.v1.catalogue_pb2 import Product
from tests.fixtures import tiny_bundle

BUNDLE = Path(__file__).parents[2] / "models" / "muster-base"

NEAR = 0.98
LATE = 0.03

QUERIES = ["red running shoes", "usb c cable 2m", "mug", "waterproof jacket for hiking in winter, women"]
PRODUCTS = [
    Product(product_id="1", title="Red running shoes for men", brand="Acme"),
    Product(product_id="2", title="USB-C charger cable 2m, black, braided, fast charging"),
    Product(product_id="3", title="Bowl"),
    Product(product_id="4", title="Waterproof winter coat with hood " * 12),
]

needs_own = pytest.mark.skipif(
    "avx2" not in rankcore.cpu_features(),
    reason="this processor has no AVX2, so ONNX Runtime runs all models",
)


def models(kernels: str, folder: Path = BUNDLE) -> Any:
    return rankcore.Models(str(folder), runtime_library=rankcore.runtime_library(), kernels=kernels)


def serialised() -> list[bytes]:
    return [product.SerializeToString() for product in PRODUCTS]


@needs_own
def test_the_committed_bundle_is_run_by_our_own_kernels_unless_told_otherwise() -> None:
    (encoder,) = models("auto").models
    assert encoder[0] == "encoder"
    assert encoder[1].startswith("own ")
    assert encoder[2] is None
    assert models("onnxruntime").models == [("encoder", "onnxruntime", None)]


@needs_own
def test_vectors_and_scores_are_near_those_of_onnx_runtime() -> None:
    own, reference = models("own"), models("onnxruntime")
    products = serialised()
    cosines = (own.products(products) * reference.products(products)).sum(axis=1)
    assert cosines.min() > NEAR
    for query in QUERIES:
        mine, theirs = own.query(query), reference.query(query)
        assert mine[:2] == theirs[:2]
        assert float(mine[2] @ theirs[2]) > NEAR
        for ours, expected in zip(
            own.pair_scores(query, products), reference.pair_scores(query, products), strict=True
        ):
            assert ours[0] == pytest.approx(expected[0], abs=1.0 - NEAR + 0.02)
            assert ours[1] == pytest.approx(expected[1], abs=LATE)


@pytest.mark.parametrize("kernels", ["auto", "onnxruntime"])
def test_the_golden_requests_of_the_committed_bundle_reproduce(kernels: str) -> None:
    engine = rankcore.Engine(str(BUNDLE), runtime_library=rankcore.runtime_library(), kernels=kernels)
    try:
        assert engine.verify_golden() == []
    finally:
        engine.close()


@needs_own
def test_all_instructions_of_this_machine_give_the_same_bits() -> None:
    expected = models("own")
    names = ["avx2", "portable"] + (["avx512vnni"] if "avx512vnni" in rankcore.cpu_features() else [])
    for name in names:
        found = models(name)
        assert found.models[0][1] == f"own {name}"
        np.testing.assert_array_equal(found.query(QUERIES[1])[2], expected.query(QUERIES[1])[2])
        np.testing.assert_array_equal(found.products(serialised()[:2]), expected.products(serialised()[:2]))


@needs_own
def test_a_products_vectors_do_not_depend_on_what_is_encoded_beside_it() -> None:
    own = models("own")
    together = own.products(serialised())
    for row, product in zip(together, serialised(), strict=True):
        np.testing.assert_array_equal(row, own.products([product])[0])


def test_a_model_that_is_not_recognised_is_run_by_onnx_runtime_and_says_why(tmp_path: Path) -> None:
    tiny_bundle.build(tmp_path / "tiny")
    found = models("auto", tmp_path / "tiny").models
    assert [(name, runner) for name, runner, _ in found] == [
        ("encoder", "onnxruntime"),
        ("cross_small", "onnxruntime"),
        ("cross_large", "onnxruntime"),
    ]
    assert all(reason for _, _, reason in found)
    with pytest.raises(rankcore.BundleError, match="set the kernels to auto or onnxruntime"):
        models("own", tmp_path / "tiny")


def test_unknown_kernels_are_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="accepted: auto, own, onnxruntime"):
        models("fastest")
