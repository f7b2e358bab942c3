"""Scores straight from an encoder are those that the encoder and late interaction give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.training.conftest import Workplace
from training.data.batches import Specials, pieces_of, text_batch
from training.encoder import late_scores
from training.models.networks import load_encoder
from training.prepare import load_prepared
from training.vectors import Vectors, encode


@pytest.mark.parametrize("projected", [True, False])
def test_scores_are_the_encoders_own(workplace: Workplace, projected: bool) -> None:
    prepared = load_prepared(workplace.run)
    encoder = load_encoder(workplace.run / "encoder.pt")
    specials = Specials.of(prepared.tokenizer)
    titles = {key: one.title for key, one in list(prepared.products["shop"].items())[:70]}
    rows = dict(zip(titles, pieces_of(prepared.tokenizer, list(titles.values()), 12), strict=True))
    asked = pieces_of(prepared.tokenizer, ["red shoes"], 8)[0]
    vectors = encode(encoder, rows, specials, projected=projected)
    query = encode(encoder, {"q": asked}, specials, projected=projected)
    with torch.inference_mode():
        ids, mask = text_batch(list(rows.values()), specials)
        dense, tokens = encoder(ids, mask)
        query_dense, query_tokens = encoder(*text_batch([asked], specials))
        if not projected:
            tokens = torch.nn.functional.normalize(encoder.stack(ids, mask), dim=2)
            query_tokens = torch.nn.functional.normalize(encoder.stack(*text_batch([asked], specials)), dim=2)
        words = (mask > 0) & (ids != specials.start) & (ids != specials.end)
        own = torch.ones(1, len(asked), dtype=torch.bool)
        late = late_scores(query_tokens[:, 1:-1], own, tokens, words)[0]
    np.testing.assert_allclose(
        vectors.dense_scores(query.dense[0]), (dense @ query_dense[0]).numpy(), atol=1e-5
    )
    np.testing.assert_allclose(vectors.late_scores(query.tokens[0], list(rows)), late.numpy(), atol=3e-3)
    some = list(rows)[5:9]
    np.testing.assert_array_equal(
        vectors.dense_scores(query.dense[0], some), vectors.dense_scores(query.dense[0])[5:9]
    )


def test_a_text_without_words_matches_nothing() -> None:
    tokens = [torch.zeros(0, 2, dtype=torch.float16), torch.tensor([[1.0, 0.0]], dtype=torch.float16)]
    vectors = Vectors(["a", "b"], {"a": 0, "b": 1}, np.eye(2, dtype=np.float32), tokens)
    assert vectors.late_scores(torch.tensor([[0.6, 0.8]]), ["a", "b"]).tolist() == pytest.approx([-1.0, 0.6])
    assert vectors.late_scores(torch.zeros(0, 2), ["b"]).tolist() == [-1.0]
