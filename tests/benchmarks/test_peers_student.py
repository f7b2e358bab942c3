"""Any server that reads a plain BERT classifier gets the student's own scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models

from benchmarks.peers.student import (
    RECIPE,
    TOLERANCE,
    clear_outdated,
    fingerprint,
    largest_gap,
    write_classifier,
)
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


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Files in the folders that the recipe names; what is in them is of no interest here."""
    for name in ("esci", "chorus", "esci_pairs", "wands"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "queries.parquet").write_bytes(name.encode())
    return tmp_path / "data"


def test_another_recipe_or_other_data_make_another_student(tmp_path: Path, data: Path) -> None:
    recipe = tmp_path / "student.toml"
    recipe.write_bytes(RECIPE.read_bytes())
    first = fingerprint(recipe, data)
    assert fingerprint(recipe, data) == first == fingerprint(RECIPE, data)
    recipe.write_text(recipe.read_text() + "\n# Another one.\n")
    assert fingerprint(recipe, data) != first
    (data / "chorus" / "queries.parquet").write_bytes(b"others")
    assert fingerprint(RECIPE, data) != first


def test_what_another_recipe_made_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("run", "bundle", "model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "training.log").touch()
    assert clear_outdated(tmp_path, "of this recipe")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made-of", "training.log"]


def test_a_run_that_was_interrupted_is_gone_on_with(tmp_path: Path) -> None:
    assert not clear_outdated(tmp_path, "of this recipe")
    (tmp_path / "run").mkdir()
    assert not clear_outdated(tmp_path, "of this recipe") and (tmp_path / "run").is_dir()
    assert clear_outdated(tmp_path, "of that recipe") and not (tmp_path / "run").exists()
