"""Any server that reads a plain BERT classifier gets the student's own scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models

from benchmarks.peers.student import TOLERANCE, largest_gap, write_classifier
from training.cross import by_head_alone
from training.models.networks import CrossEncoder, Shape


@pytest.fixture
def cross() -> CrossEncoder:
    torch.manual_seed(4)
    model = CrossEncoder(Shape(layers=2, width=32, heads=4, inner=64, vocabulary=60, positions=40))
    torch.nn.init.normal_(model.head.weight)
    return by_head_alone(model).eval()


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(55))]
    vocabulary = {word: number for number, word in enumerate(words)}
    path = tmp_path / "tokenizer.json"
    Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]")).save(str(path))
    return path


def test_the_classifier_says_what_the_student_says(
    tmp_path: Path, cross: CrossEncoder, tokenizer: Path
) -> None:
    write_classifier(cross, tokenizer, tmp_path / "model")
    assert largest_gap(cross, tmp_path / "model") < TOLERANCE


def test_another_model_is_told_apart(tmp_path: Path, cross: CrossEncoder, tokenizer: Path) -> None:
    write_classifier(cross, tokenizer, tmp_path / "model")
    with torch.no_grad():
        cross.stack.layers[1].narrow.weight.add_(torch.randn_like(cross.stack.layers[1].narrow.weight))
    assert largest_gap(cross, tmp_path / "model") > TOLERANCE
