"""From a file of behaviour to a section under [privacy], by the command lines that people use."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muster.bundle.recommend import read_section
from tests.training.recommend.shop import BESTSELLERS, PAIRS, write_sequences, write_windows
from training.evaluate import main as evaluate
from training.recommend.behaviour import read_behaviour
from training.recommend.evaluate import MIXTURE, POPULARITY
from training.recommend.recipe import load_recommend_recipe
from training.train import main as train

SMALL = """
pretrained = ""
[tables]
neighbours = 20
[sequence]
epochs = 0
width = 16
inner = 16
layers = 1
negatives = 0
"""
PRIVACY = """
[privacy]
epsilon = {epsilon}
delta = 1e-5
contributions_max = 8
batch = 40
steps = 25
learning_rate = 0.03
"""


def _write_shop(folder: Path, *, seed: int = 1, shoppers: int = 160) -> Path:
    """The shop of `write_sequences` with a list of all its items."""
    path = write_sequences(folder, seed=seed, shoppers=shoppers)
    ids = [f"{kind}{n}" for n in range(PAIRS) for kind in "cp"] + [f"best{n}" for n in range(BESTSELLERS)]
    pq.write_table(pa.Table.from_pylist([{"item_id": one} for one in ids]), folder / "shop_items.parquet")
    return path


def _train(folder: Path, data: Path, recipe: str, *, run: str = "run", out: str = "bundle") -> int:
    path = folder / "recipe.toml"
    path.write_text(recipe)
    line = ["--task", "recommend", "--data", str(data), "--out", str(folder / out)]
    return train([*line, "--run", str(folder / run), "--recipe", str(path), "--json"])


def _card(folder: Path, bundle: str = "bundle") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / bundle / "recommend" / "card.json").read_text())
    return found


def _files(folder: Path) -> dict[str, bytes]:
    return {
        one.relative_to(folder).as_posix(): one.read_bytes() for one in folder.rglob("*") if one.is_file()
    }


def test_under_a_large_epsilon_planted_steps_are_found_and_the_card_says_what_was_spent(
    tmp_path: Path, capsys: Any
) -> None:
    data = _write_shop(tmp_path)
    assert _train(tmp_path, data, SMALL + PRIVACY.format(epsilon=60)) == 0
    capsys.readouterr()
    card = _card(tmp_path)
    private = card["privacy"]
    assert 0.95 * 60 < private["epsilon"] <= 60
    assert (private["delta"], private["shoppers"], private["contributions_max"]) == (1e-5, 160, 8)
    assert private["unit"].startswith("shopper")
    assert [one["name"] for one in private["parts"]] == ["popularity", "steps", "weights"]
    assert "the final order" in private["left_out"]
    assert evaluate([str(tmp_path / "bundle"), "--task", "recommend", "--data", str(data), "--json"]) == 0
    rankers = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rankers"]}
    assert rankers[MIXTURE]["low"] > rankers[POPULARITY]["high"]
    assert rankers[MIXTURE]["ndcg10"] > 0.5


def test_the_card_and_the_list_of_items_say_nothing_else_of_what_was_taken(tmp_path: Path) -> None:
    assert _train(tmp_path, _write_shop(tmp_path), SMALL + PRIVACY.format(epsilon=8)) == 0
    card = _card(tmp_path)
    assert set(card) == {"name", "known", "seed", "behaviour", "weights", "order", "privacy"}
    assert set(card["behaviour"]) == {"name", "kind", "items", "shoppers", "texts", "attributes"}
    assert card["order"] == {"earned": False}
    section = read_section(tmp_path / "bundle" / "recommend")
    assert section.candidates == 0
    assert len(section.item_ids()) == 2 * PAIRS + BESTSELLERS


def test_the_sequence_model_is_learnt_by_dp_sgd_and_served_as_any_other(tmp_path: Path, capsys: Any) -> None:
    data = _write_shop(tmp_path, shoppers=80)
    recipe = SMALL.replace("epochs = 0", "epochs = 1") + PRIVACY.format(epsilon=8)
    assert _train(tmp_path, data, recipe) == 0
    part = next(one for one in _card(tmp_path)["privacy"]["parts"] if one["name"] == "sequence")
    assert (part["sample_rate"], part["steps"]) == (0.5, 25)
    assert part["noise"] > 0
    capsys.readouterr()
    assert evaluate([str(tmp_path / "bundle"), "--task", "recommend", "--data", str(data), "--json"]) == 0
    assert "sequence" in {row["name"] for row in json.loads(capsys.readouterr().out)["rankers"]}


def test_the_same_run_folder_gives_the_same_section_and_another_one_other_noise(tmp_path: Path) -> None:
    data, recipe = _write_shop(tmp_path, shoppers=60), SMALL + PRIVACY.format(epsilon=4)
    assert _train(tmp_path, data, recipe) == 0
    assert _train(tmp_path, data, recipe, out="again") == 0
    assert _files(tmp_path / "again") == _files(tmp_path / "bundle")
    assert _train(tmp_path, data, recipe, run="other", out="other-bundle") == 0
    counts = [
        np.fromfile(tmp_path / one / "recommend" / "popularity.bin", dtype="<f4")
        for one in ("bundle", "other-bundle")
    ]
    assert (counts[0] != counts[1]).mean() > 0.5


def test_the_secret_of_the_noise_is_not_in_the_bundle(tmp_path: Path) -> None:
    assert _train(tmp_path, _write_shop(tmp_path, shoppers=40), SMALL + PRIVACY.format(epsilon=4)) == 0
    secret = (tmp_path / "run" / "noise.secret").read_bytes()
    for content in _files(tmp_path / "bundle").values():
        assert secret not in content
        assert secret.hex().encode() not in content


def test_another_shopper_changes_neither_the_items_nor_anybody_elses_sequence(tmp_path: Path) -> None:
    rows = [{"user_id": f"u{n}", "items": ["c0", "p0", "c1", "p1"]} for n in range(4)]
    found = []
    for last in (["only", "c3", "p3", "c1"], ["c0"]):
        folder = tmp_path / last[0]
        folder.mkdir()
        _write_shop(folder, shoppers=4)
        path = folder / "shop_sequences.parquet"
        pq.write_table(pa.Table.from_pylist([*rows, {"user_id": "u9", "items": last}]), path)
        found.append(read_behaviour(path, listed_only=True))
    there, gone = found
    assert there.item_ids == gone.item_ids
    assert "only" not in there.item_ids
    assert there.shoppers == gone.shoppers == 5
    others = [
        [items.tolist() for user, items in zip(one.train_users, one.train, strict=True) if user != "u9"]
        for one in found
    ]
    assert others[0] == others[1]


def test_windows_of_one_shopper_are_one_shopper(tmp_path: Path) -> None:
    behaviour = read_behaviour(write_windows(tmp_path), listed_only=True)
    assert behaviour.shoppers == len(set(behaviour.train_users)) == 120


def test_a_recipe_without_the_section_learns_as_before(tmp_path: Path) -> None:
    data = _write_shop(tmp_path, shoppers=40)
    assert _train(tmp_path, data, SMALL) == 0
    assert "privacy" not in _card(tmp_path)
    assert not (tmp_path / "run" / "noise.secret").exists()


def test_a_run_folder_that_was_begun_before_there_was_such_a_section_goes_on(tmp_path: Path) -> None:
    data = _write_shop(tmp_path, shoppers=40)
    (tmp_path / "recipe.toml").write_text(SMALL)
    recipe = load_recommend_recipe(tmp_path / "recipe.toml")
    behaviour = read_behaviour(data, seed=recipe.seed)
    choices = {key: value for key, value in asdict(recipe).items() if key != "privacy"}
    told = json.dumps([choices, behaviour.item_ids, behaviour.texts, behaviour.attributes])
    digest = hashlib.sha256(told.encode())
    for sequence in (*behaviour.train, *behaviour.validation.histories, behaviour.validation.targets):
        digest.update(sequence.tobytes() + b"|")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "belongs.txt").write_text(digest.hexdigest() + "\n")
    assert _train(tmp_path, data, SMALL) == 0
    (tmp_path / "run" / "belongs.txt").write_text("0" * 64 + "\n")
    assert _train(tmp_path, data, SMALL, out="other") == 2


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("[privacy]\ndelta = 1e-5", "privacy.epsilon is missing"),
        ("[privacy]\nepsilon = 1", "privacy.delta is missing"),
        ("[privacy]\nepsilon = 0\ndelta = 1e-5", "privacy.epsilon must be above 0"),
        ("[privacy]\nepsilon = 1000\ndelta = 1e-5", "leave the section out to train without"),
        ("[privacy]\nepsilon = nan\ndelta = 1e-5", "privacy.epsilon must be above 0"),
        ("[privacy]\nepsilon = 1\ndelta = 0.5", "take well below 1 by the number of shoppers"),
        ("[privacy]\nepsilon = 1\ndelta = 0.009", "privacy.delta is 0.009, and there are 160 shoppers"),
        ("[privacy]\nepsilon = 1\ndelta = 1e-5\nclip = 0", "privacy.clip must be above 0"),
        ("[privacy]\nepsilon = 1\ndelta = 1e-5\ncontributions_max = 1", "privacy.contributions_max must be"),
        ("[privacy]\nepsilon = 1\ndelta = 1e-5\nnoise = 3", "privacy.noise is not a setting"),
        (
            "[privacy]\nepsilon = 1\ndelta = 1e-5\n[privacy.shares]\npopularity = 0",
            "privacy.shares.popularity must be above 0",
        ),
        (
            "[privacy]\nepsilon = 1\ndelta = 1e-5\n[privacy.shares]\nsteps = -1",
            "privacy.shares.steps must be at least 0",
        ),
    ],
)
def test_a_section_that_cannot_be_kept_is_refused_with_what_to_do(
    tmp_path: Path, capsys: Any, section: str, said: str
) -> None:
    assert _train(tmp_path, _write_shop(tmp_path), SMALL + section) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_learning_from_the_validation_too_is_refused_with_privacy(tmp_path: Path, capsys: Any) -> None:
    recipe = 'known = "validation"\n' + SMALL + PRIVACY.format(epsilon=1)
    assert _train(tmp_path, _write_shop(tmp_path), recipe) == 2
    assert "would spend epsilon a second time" in capsys.readouterr().err


def test_behaviour_without_a_list_of_items_is_refused_with_privacy(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "bare_sequences.parquet"
    pq.write_table(pa.Table.from_pylist([{"user_id": "u", "items": ["a", "b", "c", "d"]}]), path)
    assert _train(tmp_path, path, SMALL + PRIVACY.format(epsilon=1)) == 2
    assert "Write bare_items" in capsys.readouterr().err


def test_events_are_refused_with_privacy_since_all_shoppers_decide_where_they_are_split(
    tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "shop_events.parquet"
    rows = [{"user_id": "u", "item_id": "a", "timestamp": at} for at in range(9)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert _train(tmp_path, path, SMALL + PRIVACY.format(epsilon=1)) == 2
    assert "one row of sequences" in capsys.readouterr().err


def test_without_opacus_training_does_not_begin(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    assert _train(tmp_path, _write_shop(tmp_path), SMALL + PRIVACY.format(epsilon=1)) == 2
    assert "pip install 'muster[private]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert _train(tmp_path, _write_shop(tmp_path, shoppers=40), SMALL) == 0


def test_the_shipped_private_recipe_can_be_read() -> None:
    folder = Path(__file__).parents[4] / "training" / "configs"
    recipe = load_recommend_recipe(folder / "recommend_private.toml")
    assert recipe.privacy is not None
