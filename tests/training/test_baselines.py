"""What libraries reach: scores of any product and query, fused by rank, measured over known labels."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.training.conftest import Workplace
from training.baselines import RANKINGS, RRF_K, TOKENS_MAX, Vectors, Words, fused, measure_baselines
from training.signals import SETTINGS


def test_a_text_with_the_words_of_the_query_scores_above_one_without() -> None:
    words = Words(["red leather shoe", "blue cotton shirt", "red shirt"])
    scores = words.scores("the red shirt")
    assert scores[2] > max(scores[0], scores[1]) > 0
    assert not words.scores("sofa").any() and not words.scores("").any()


def test_fusion_adds_reciprocal_ranks_of_what_was_retrieved() -> None:
    first, second = np.array([3.0, 2.0, 0.0]), np.array([0.1, 0.2, 0.3])
    np.testing.assert_allclose(
        fused([first, second], 2),
        [1 / (RRF_K + 1), 1 / (RRF_K + 2) + 1 / (RRF_K + 2), 1 / (RRF_K + 1)],
    )
    # Not retrieved by one: its rank there says nothing.
    assert fused([first, second], 3)[2] == pytest.approx(1 / (RRF_K + 1))


def test_vectors_have_length_one_and_do_not_depend_on_their_neighbours(workplace: Workplace) -> None:
    vectors = Vectors(workplace.recipe.pretrained)
    texts = ["a", "a much longer text " * TOKENS_MAX, "red shoe"]
    together = vectors.of(texts, "texts")
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, rtol=1e-5)
    for at, text in enumerate(texts):
        np.testing.assert_allclose(vectors.of([text], "one")[0], together[at], atol=1e-5)


def test_every_ranking_is_measured_in_both_settings_and_the_fusion_query_by_query(
    workplace: Workplace,
) -> None:
    report = measure_baselines(workplace.recipe, workplace.run)
    folder = workplace.run / "baselines"
    assert json.loads((folder / "report.json").read_text()) == report
    fusion = json.loads((folder / "fusion.json").read_text())
    for ranking in RANKINGS:
        for setting in SETTINGS:
            found = report["rankings"][ranking][setting]["shop"]
            assert 0 < found["low"] <= found["ndcg10"] <= found["high"] <= 1
    for setting in SETTINGS:
        mean = np.mean(list(fusion[setting]["shop"].values()))
        assert mean == pytest.approx(report["rankings"]["fusion"][setting]["shop"]["ndcg10"], abs=1e-4)
    assert report["rankings"]["bm25"]["judged"]["shop"]["ndcg10"] > report["random_judged"]["shop"]
