"""Golden requests: a few (query, product) pairs with the scores every server must reproduce.

The reference here is plain Python over ONNX Runtime, written apart from the engine, so that the two check
each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict
from numpy.typing import NDArray
from tokenizers import Tokenizer

from muster.bundle.content import CROSS_TIERS
from muster.v1 import catalogue_pb2
from training.data.batches import Specials, pair_batch, pieces_of, text_batch
from training.data.text import product_text
from training.quantise import open_session
from training.recipe import Text

# Dynamic int8 scales depend on what else is in a batch, and kernels differ by processor. "cross" holds for
# both cross-encoder tiers.
TOLERANCE = {"dense": 0.03, "late": 0.03, "cross": 0.25}
# A score that moves by more than this with what else is in the batch says nothing of another implementation.
# In two students of three layers every score that our kernels and ONNX Runtime disagreed on by more than the
# tolerance moved by .25 or more beside one or other product; of those that moved by less than .1 none was off
# by more than .06.
STEADY = TOLERANCE["cross"] / 2


class Reference:
    """The models of a bundle, driven from Python one text at a time."""

    def __init__(self, tokenizer: Tokenizer, text: Text, encoder: Path, crosses: Mapping[str, Path]) -> None:
        """crosses: plain ONNX file of each cross-encoder tier that the bundle has."""
        self._tokenizer = tokenizer
        self._text = text
        self._specials = Specials.of(tokenizer)
        self._encoder = open_session(encoder)
        self._crosses = {tier: open_session(path) for tier, path in crosses.items()}

    def encode(self, text: str, tokens_max: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Dense vector [D] and token vectors [tokens, 64], special tokens excluded."""
        rows = pieces_of(self._tokenizer, [text], tokens_max)
        ids, mask = text_batch(rows, self._specials)
        dense, tokens = self._encoder.run(
            ["dense", "tokens"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        )
        return dense[0], tokens[0, 1 : 1 + len(rows[0])]

    def scores(self, query: str, product: catalogue_pb2.Product) -> dict[str, float | None]:
        """dense, late, cross_small and cross_large of one pair; None for a tier without a model."""
        asked, asked_tokens = self.encode(query, self._text.query_tokens_max)
        dense, tokens = self.encode(
            product_text(product, self._text.dense_fields), self._text.dense_tokens_max
        )
        tokens = tokens[: self._text.late_tokens_max]
        late = float((asked_tokens @ tokens.T).max(axis=1).mean()) if len(tokens) else 0.0
        found: dict[str, float | None] = {"dense": float(asked @ dense), "late": late}
        for tier in CROSS_TIERS:
            found[tier] = self.cross(tier, query, [product]) if tier in self._crosses else None
        return found

    def cross(self, tier: str, query: str, products: Sequence[catalogue_pb2.Product]) -> float:
        """Score of the first product, computed in one batch with the others."""
        batch = pair_batch(
            pieces_of(self._tokenizer, [query], self._text.query_tokens_max)[0],
            pieces_of(
                self._tokenizer,
                [product_text(product, self._text.cross_fields) for product in products],
                self._text.cross_tokens_max,
            ),
            self._specials,
        )
        names = ("input_ids", "attention_mask", "token_type_ids")
        inputs = {name: one.numpy() for name, one in zip(names, batch, strict=True)}
        return float(self._crosses[tier].run(["score"], inputs)[0][0])


def golden_cases(reference: Reference, pairs: Sequence[tuple[str, catalogue_pb2.Product]]) -> dict[str, Any]:
    """What golden.json says about these pairs; of a cross-encoder only what is steady."""
    cases: list[Mapping[str, Any]] = []
    products = [product for _, product in pairs]
    companies = [products, *([other] for other in products)]
    for query, product in pairs:
        scores = reference.scores(query, product)
        for tier in CROSS_TIERS:
            alone = scores[tier]
            if alone is not None:
                beside = [reference.cross(tier, query, [product, *others]) for others in companies]
                scores[tier] = alone if all(abs(alone - one) <= STEADY for one in beside) else None
        cases.append(
            {
                "query": query,
                "product": MessageToDict(product, preserving_proto_field_name=True),
                **{name: None if value is None else round(value, 5) for name, value in scores.items()},
            }
        )
    return {"tolerance": TOLERANCE, "cases": cases}


def made_up_pairs() -> list[tuple[str, catalogue_pb2.Product]]:
    """Pairs of our own making: a bundle must not carry extracts of the data it was trained on.

    They cover an exact match, a near miss, a mismatch, a long text that is cut, a product with a title alone,
    accents and digits, and a query of one letter.
    """

    def product(key: str, title: str, brand: str = "", **more: Any) -> catalogue_pb2.Product:
        return catalogue_pb2.Product(product_id=key, title=title, brand=brand, **more)

    kettle = product(
        "golden-1",
        "Steel electric kettle 1.7 litre, cordless",
        "Norhaven",
        category=["Home & Kitchen", "Kettles"],
        description="Boils quickly and switches itself off.",
        price=34.9,
    )
    cartridge = product(
        "golden-2", "Ink cartridge 304 black", "Inkwell", description="Original cartridge for inkjet printers"
    )
    cable = product(
        "golden-3",
        "USB-C to USB-A cable 2 m braided",
        "Corda",
        category=["Electronics", "Cables"],
        attributes={"length": "2 m"},
    )
    shoes = product(
        "golden-4", "Women's trail running shoes", "Fjellstien", category=["Shoes", "Running"], rating=4.4
    )
    long = product(
        "golden-5",
        "Office chair with adjustable lumbar support, breathable mesh back, padded armrests and headrest, "
        "360 degree swivel, gas lift, 5 smooth casters, for desks at home or at work, carries 150 kg, grey",
        "Sitwell",
        category=["Furniture", "Office", "Chairs"],
        description="Easy to assemble. All tools are in the box. Two years of warranty.",
    )
    bare = product("golden-6", "Notebook")
    return [
        ("electric kettle", kettle),
        ("kettle descaler", kettle),
        ("black ink cartridge for printer", cartridge),
        ("usb c cable 2m", cable),
        ("running shoes", shoes),
        ("running shoes", cable),
        ("ergonomic desk chair without wheels", long),
        ("a5 notebook", bare),
        ('café crème 12" laptop', bare),
        ("x", cartridge),
    ]
