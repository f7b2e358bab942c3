"""From a file of behaviour to a bundle and back: what was planted is found, by the command lines that
people use.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muster.bundle import BundleError, read_bundle
from muster.bundle.recommend import read_section
from tests.training.recommend.shop import PAIRS, write_sequences, write_windows
from training.evaluate import main as evaluate
from training.recommend import fit as fitting
from training.recommend.behaviour import Behaviour, read_behaviour
from training.recommend.evaluate import COUNTS_NAME, MIXTURE, POPULARITY
from training.recommend.recipe import DEFAULT_RECIPE, RecommendRecipe, load_recommend_recipe
from training.train import main as train

SMALL = """
[tables]
neighbours = 20
l2 = 5.0
[sequence]
epochs = 6
width = 16
inner = 16
batch = 32
learning_rate = 0.02
dropout = 0.1
evaluate_steps = 10
[order]
candidates = 12
trees = 8
rows_min = 5
folds = 2
"""


@dataclass(frozen=True)
class Trained:
    """A bundle and its file of behaviour, the recipe and what training said."""

    bundle: Path
    data: Path
    recipe: Path
    run: Path
    said: dict[str, Any]


def _train(folder: Path, data: Path, recipe: str, capsys: Any, *more: str) -> Trained:
    path = folder / "recipe.toml"
    path.write_text(recipe)
    bundle, run = folder / "bundle", folder / "run"
    line = ["--task", "recommend", "--data", str(data), "--out", str(bundle), "--run", str(run)]
    assert train([*line, "--recipe", str(path), "--json", *more]) == 0
    return Trained(bundle, data, path, run, json.loads(capsys.readouterr().out))


def _measured(trained: Trained, capsys: Any) -> dict[str, Any]:
    assert evaluate([str(trained.bundle), "--task", "recommend", "--data", str(trained.data), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def _rankers(measured: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {row["name"]: row for row in measured["rankers"]}


def test_planted_steps_are_recovered_and_popularity_loses(tmp_path: Path, capsys: Any) -> None:
    trained = _train(tmp_path, write_sequences(tmp_path), SMALL, capsys)
    measured = _measured(trained, capsys)
    rankers = _rankers(measured)
    assert (measured["users"], measured["items"]) == (160, 2 * PAIRS + 4)
    assert rankers[MIXTURE]["ndcg10"] > 0.9
    assert rankers[COUNTS_NAME]["ndcg10"] > 0.9
    assert rankers[POPULARITY]["high"] < rankers[MIXTURE]["low"]
    assert all(row["low"] <= row["ndcg10"] <= row["high"] for row in rankers.values())
    assert trained.said["sequence"]["int8_kept"] > 0.95
    assert sum(trained.said["weights"].values()) == pytest.approx(1.0, abs=0.01)
    tiers = trained.said["tiers"]
    assert set(tiers) == {"popularity", "mixture", "sequence"} | (
        {"ordered"} if trained.said["order"]["earned"] else set()
    )
    assert tiers["popularity"]["high"] < tiers["mixture"]["low"] <= tiers["mixture"]["ndcg10"]
    # The steps themselves carry the mixture.
    assert trained.said["weights"]["next"] + trained.said["weights"]["later"] > 0.3


def test_a_second_run_makes_the_same_section_and_reads_what_the_first_left(
    tmp_path: Path, capsys: Any
) -> None:
    trained = _train(tmp_path, write_sequences(tmp_path), SMALL, capsys)
    again = tmp_path / "again"
    line = ["--task", "recommend", "--data", str(trained.data), "--recipe", str(trained.recipe)]
    before = (trained.run / "sequence.safetensors").stat().st_mtime_ns
    assert train([*line, "--out", str(again), "--run", str(trained.run), "--json"]) == 0
    assert (trained.run / "sequence.safetensors").stat().st_mtime_ns == before
    assert (again / "recommend/section.json").read_bytes() == (
        trained.bundle / "recommend/section.json"
    ).read_bytes()


def test_new_items_are_found_by_their_text_where_counts_know_nothing(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "text_vectors", _bags_of_words)
    trained = _train(tmp_path, write_windows(tmp_path), SMALL, capsys)
    measured = _measured(trained, capsys)
    assert trained.said["tiers"]["similar"]["ndcg10"] > trained.said["tiers"]["popularity"]["ndcg10"]
    cold = _rankers(measured["cold"])
    assert measured["cold"]["users"] == 20
    assert cold["texts"]["hr10"] > 0.9
    assert cold[MIXTURE]["hr10"] > cold[COUNTS_NAME]["hr10"] == 0.0
    assert cold[MIXTURE]["hr10"] > 0.5


def _bags_of_words(recipe: RecommendRecipe, behaviour: Behaviour, run: Path) -> Any:
    """Texts as unit vectors of their words, in place of an encoder."""
    words = sorted({word for text in behaviour.texts for word in text.split()})
    vectors = np.array([[float(word in text.split()) for word in words] for text in behaviour.texts])
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-9)).astype(np.float32)


def test_vectors_of_texts_that_were_made_before_an_interruption_are_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour = read_behaviour(write_windows(tmp_path))
    asked: list[str] = []

    class Encoder:
        """Fails at its third call."""

        def __init__(self, name: str) -> None:
            self.calls = 0

        def of(self, texts: Sequence[str], title: str) -> Any:
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            asked.extend(texts)
            return np.array([[len(one), 1.0] for one in texts], dtype=np.float32)

    monkeypatch.setattr("training.baselines.Vectors", Encoder)
    monkeypatch.setattr(fitting, "_TEXTS_KEPT", 10)
    recipe = RecommendRecipe(text_characters_max=12)
    with pytest.raises(KeyboardInterrupt):
        fitting.text_vectors(recipe, behaviour, tmp_path)
    assert asked == [text[:12] for text in behaviour.texts[:20]]
    # 36 texts in four parts: two were made before the interruption, two are left.
    found = fitting.text_vectors(recipe, behaviour, tmp_path)
    assert asked == [text[:12] for text in behaviour.texts]
    assert found is not None
    assert found[:, 0].tolist() == [float(len(text[:12])) for text in behaviour.texts]
    assert sorted(one.name for one in tmp_path.glob("texts*")) == ["texts.npy"]


def test_what_is_known_before_the_test_can_be_learnt_from_too(tmp_path: Path, capsys: Any) -> None:
    data = write_sequences(tmp_path, shoppers=60)
    trained = _train(tmp_path, data, 'known = "validation"\n' + SMALL, capsys)
    measured = _measured(trained, capsys)
    assert measured["known"] == "validation"
    assert _rankers(measured)[MIXTURE]["ndcg10"] > 0.9


def test_a_section_can_be_added_to_a_bundle_that_searches(tmp_path: Path, capsys: Any) -> None:
    base = Path(__file__).parents[3] / "models" / "muster-base"
    without = SMALL.replace("epochs = 6", "epochs = 0")
    trained = _train(tmp_path, write_sequences(tmp_path, shoppers=40), without, capsys, "--base", str(base))
    whole = read_bundle(trained.bundle)
    assert "recommend/section.json" in whole.manifest.files
    assert set(read_bundle(base).manifest.files) < set(whole.manifest.files)
    assert [one.name for one in read_section(trained.bundle / "recommend").sources][-1] == "popularity"


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ('known = "test"', "known must be one of"),
        ("[tables]\nneighbours = 0", "tables.neighbours must be at least 1"),
        ("[sequence]\nwidth = 15", "multiple of sequence.heads"),
        ("[order]\nfold = 2", "order.fold is not a setting"),
        ("[tables]\nrecencies = []", "tables.recencies"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: Any, recipe: str, said: str
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe)
    line = ["--task", "recommend", "--data", str(write_sequences(tmp_path)), "--recipe", str(path)]
    assert train([*line, "--out", str(tmp_path / "b"), "--run", str(tmp_path / "r")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_run_folder_of_other_data_is_refused(tmp_path: Path, capsys: Any) -> None:
    without = SMALL.replace("epochs = 6", "epochs = 0")
    trained = _train(tmp_path, write_sequences(tmp_path, shoppers=40), without, capsys)
    write_sequences(tmp_path, shoppers=41)
    line = ["--task", "recommend", "--data", str(trained.data), "--recipe", str(trained.recipe)]
    assert train([*line, "--out", str(tmp_path / "b"), "--run", str(trained.run)]) == 2
    assert "begun with another recipe or other data" in capsys.readouterr().err


def test_a_bundle_without_a_section_cannot_be_evaluated(tmp_path: Path, capsys: Any) -> None:
    data = write_sequences(tmp_path)
    assert evaluate([str(tmp_path), "--task", "recommend", "--data", str(data)]) == 2
    assert "section.json" in capsys.readouterr().err


def test_the_shipped_recipes_can_be_read() -> None:
    assert load_recommend_recipe().sequence.epochs > 0
    assert load_recommend_recipe(DEFAULT_RECIPE.with_name("recommend_counts.toml")).sequence.epochs == 0
    assert load_recommend_recipe(DEFAULT_RECIPE.with_name("recommend_attributes.toml")).sequence.epochs > 0


def test_an_unknown_task_is_a_usage_error(capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        train(["--task", "guess"])
    assert caught.value.code == 2
    assert issubclass(BundleError, Exception)
