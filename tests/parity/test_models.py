"""Tokeniser, encoder and cross-encoder: the core against tokenizers and ONNX Runtime from Python."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

import rankcore
from muster.v1.catalogue_pb2 import Product
from tests.fixtures import tiny_bundle

# Both sides run the same graph in the same runtime on the same ids, in f32; late interaction is quantised.
EXACT = 1e-5
QUANTISED = 0.02

QUERIES = ["red running shoes", "USB-C cable, 2m!", "Crème brûlée bowl", "waterproof " * 60, "漢字"]
PRODUCTS = [
    Product(product_id="1", title="Red running shoes for men", brand="Acme", category=["Sport", "Shoes"]),
    Product(product_id="2", title="USB-C charger cable 2m, black", bullets=["Light", "Fast & durable"]),
    Product(product_id="3", title="Bowl"),
    Product(product_id="4", title="Coat " * 120, description="not part of the text", attributes={"a": "b"}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "tiny"
    tiny_bundle.build(out)
    return out


@pytest.fixture(scope="module")
def models(folder: Path) -> Any:
    return rankcore.Models(str(folder), runtime_library=rankcore.runtime_library())


@pytest.fixture(scope="module")
def reference(folder: Path) -> Iterator[tiny_bundle.Reference]:
    yield tiny_bundle.Reference(folder, Tokenizer.from_file(str(folder / "tokenizer.json")))


def product_text(product: Product) -> str:
    parts = [product.title, product.brand, " > ".join(product.category), ". ".join(product.bullets)]
    return " ".join(part for part in parts if part)


@pytest.mark.parametrize("text", [*QUERIES, *map(product_text, PRODUCTS)])
def test_token_ids_are_those_of_the_tokenizers_library(
    models: Any, reference: tiny_bundle.Reference, text: str
) -> None:
    assert models.pieces(text) == reference.ids(text)


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.product_id)
def test_product_text_follows_the_rule_of_the_bundle(product: Product) -> None:
    assert rankcore.product_text(product.SerializeToString(), tiny_bundle.PRODUCT_FIELDS) == product_text(
        product
    )


def test_attributes_are_sorted_by_name_and_empty_fields_leave_nothing() -> None:
    product = Product(title="Mug", attributes={"size": "L", "colour": "red"}).SerializeToString()
    text = rankcore.product_text(product, ["brand", "attributes", "description", "title"])
    assert text == "colour red, size L Mug"


@pytest.mark.parametrize("query", QUERIES)
def test_query_vectors_are_those_of_onnx_runtime(
    models: Any, reference: tiny_bundle.Reference, query: str
) -> None:
    pieces, truncated, dense = models.query(query)
    ids = reference.ids(query)
    assert truncated == (len(ids) > tiny_bundle.QUERY_TOKENS_MAX)
    assert pieces == ids[: tiny_bundle.QUERY_TOKENS_MAX]
    np.testing.assert_allclose(dense, reference.encode(pieces)[0], atol=EXACT)


def test_product_vectors_are_those_of_onnx_runtime(models: Any, reference: tiny_bundle.Reference) -> None:
    dense = models.products([product.SerializeToString() for product in PRODUCTS])
    assert dense.shape == (len(PRODUCTS), tiny_bundle.DIMENSION)
    for row, product in zip(dense, PRODUCTS, strict=True):
        ids = reference.ids(product_text(product))[: tiny_bundle.DENSE_TOKENS_MAX]
        np.testing.assert_allclose(row, reference.encode(ids)[0], atol=EXACT)


@pytest.mark.parametrize("query", QUERIES)
def test_pair_scores_are_those_of_onnx_runtime_and_numpy(
    models: Any, reference: tiny_bundle.Reference, query: str
) -> None:
    scores = models.pair_scores(query, [product.SerializeToString() for product in PRODUCTS])
    for (dense, late, small, large), product in zip(scores, PRODUCTS, strict=True):
        expected = reference.pair(query, product_text(product))
        assert dense == pytest.approx(expected.dense, abs=EXACT)
        assert late == pytest.approx(expected.late, abs=QUANTISED)
        assert small == pytest.approx(expected.cross_small, abs=10 * EXACT)
        assert large == pytest.approx(expected.cross_large, abs=10 * EXACT)


def test_bytes_that_are_no_product_are_refused(models: Any) -> None:
    with pytest.raises(rankcore.InvalidRequest, match="not a serialised Product"):
        models.products([b"\xff\xff"])


def test_a_folder_that_is_no_bundle_is_refused_with_the_name_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(rankcore.BundleError, match=r"manifest\.json"):
        rankcore.Models(str(tmp_path), runtime_library=rankcore.runtime_library())
