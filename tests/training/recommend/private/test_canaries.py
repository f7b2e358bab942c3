"""Who was learnt from can be told without privacy, and no better than epsilon allows with it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.recommend.shop import write_sequences
from training.recommend.behaviour import Behaviour, read_behaviour
from training.recommend.fit import fit
from training.recommend.private.canaries import Guessed, epsilon_low, guessed, main, plant
from training.recommend.private.fit import private_fit
from training.recommend.private.noise import Noise
from training.recommend.recipe import (
    OrderRecipe,
    PrivacyRecipe,
    PrivacyShares,
    RecommendRecipe,
    SequenceRecipe,
    TableRecipe,
)

COUNT = 240
BARE = RecommendRecipe(
    pretrained="",
    tables=TableRecipe(neighbours=20, l2=0.0, recencies=[1.0]),
    sequence=SequenceRecipe(epochs=0, width=8, inner=8, layers=1, negatives=0),
    order=OrderRecipe(candidates=0),
)
PRIVATE = replace(BARE, privacy=PrivacyRecipe(epsilon=1.0, delta=1e-5, batch=100, steps=20))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Behaviour:
    """The small shop, read as for private training."""
    return read_behaviour(write_sequences(tmp_path_factory.mktemp("shop")), listed_only=True)


def _guessed(recipe: RecommendRecipe, shop: Behaviour, run: Path) -> dict[str, Guessed]:
    planted, canaries = plant(shop, COUNT, seed=3)
    run.mkdir()
    # The noise of this test is the same each time.
    (run / "noise.secret").write_bytes(b"canary" + bytes(26))
    contents = (fit if recipe.privacy is None else private_fit)(recipe, planted, run)
    return {one.source: one for one in guessed(contents.sources, canaries, repeats=recipe.repeats)}


def test_without_privacy_the_counts_give_every_canary_away(shop: Behaviour, tmp_path: Path) -> None:
    found = _guessed(BARE, shop, tmp_path / "run")
    for source in ("popularity", "next", "later"):
        assert found[source].right == found[source].guesses, source
        assert found[source].epsilon_low > 3.0


def test_with_privacy_no_source_gives_them_away_better_than_epsilon_allows(
    shop: Behaviour, tmp_path: Path
) -> None:
    recipe = replace(PRIVATE, sequence=replace(BARE.sequence, epochs=1))
    found = _guessed(recipe, shop, tmp_path / "run")
    assert {"popularity", "later", "sequence", "attributes"} <= set(found)
    most = math.exp(1.0) / (1.0 + math.exp(1.0))
    for source, one in found.items():
        assert one.right / one.guesses < most, source
        assert one.epsilon_low <= 1.0, source


@pytest.mark.parametrize(("part", "source"), [("popularity", "popularity"), ("steps", "later")])
def test_the_check_fails_where_a_part_forgets_its_noise(
    shop: Behaviour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, source: str
) -> None:
    before = Noise.gaussian

    def forgetful(noise: Noise, label: str, count: int, deviation: float) -> Any:
        found = before(noise, label, count, deviation)
        # No noise, and nothing hidden below its deviation either.
        return np.full_like(found, 6.0 * deviation) if label.startswith(part) else found

    monkeypatch.setattr(Noise, "gaussian", forgetful)
    shares = PrivacyShares(popularity=1.0, steps=1.0, sequence=0.0, weights=0.0)
    recipe = replace(PRIVATE, privacy=PrivacyRecipe(epsilon=1.0, delta=1e-5, shares=shares))
    # Tables as wide as the shop: with the same noise everywhere the last digits are what tells.
    recipe = replace(recipe, tables=replace(BARE.tables, neighbours=2000))
    found = _guessed(recipe, shop, tmp_path / "run")
    assert found[source].right == found[source].guesses
    assert found[source].epsilon_low > 1.0


def test_about_half_of_the_canaries_are_learnt_from_and_all_have_items(shop: Behaviour) -> None:
    planted, canaries = plant(shop, COUNT, seed=3)
    assert planted.items == shop.items + 2 * COUNT
    assert 0.4 < canaries.inside.mean() < 0.6
    assert len(planted.train) - len(shop.train) == int(canaries.inside.sum())
    assert planted.shoppers == shop.shoppers + COUNT
    assert len(planted.attributes) == planted.items


@pytest.mark.parametrize(
    ("right", "guesses", "low", "high"), [(50, 100, 0.0, 0.0), (100, 100, 3.4, 3.6), (73, 100, 0.5, 1.0)]
)
def test_the_bound_on_epsilon_grows_with_right_guesses(
    right: int, guesses: int, low: float, high: float
) -> None:
    assert low <= epsilon_low(right, guesses) <= high


def test_the_command_compares_both(tmp_path: Path, capsys: Any) -> None:
    data = write_sequences(tmp_path, shoppers=40)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'pretrained = ""\n[tables]\nl2 = 0.0\nneighbours = 20\n[sequence]\nepochs = 0\n'
        "[order]\ncandidates = 0\n[privacy]\nepsilon = 1\ndelta = 1e-5\n"
    )
    line = ["--data", str(data), "--recipe", str(recipe), "--canaries", "60"]
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"without privacy", "epsilon 1"}
    without = {one["source"]: one for one in found["without privacy"]}
    assert without["later"]["right"] == without["later"]["guesses"] == 40
    assert main(line) == 0
    assert "guessed right" in capsys.readouterr().out


def test_a_recipe_without_privacy_has_nothing_to_compare(tmp_path: Path, capsys: Any) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[sequence]\nepochs = 0\n")
    assert main(["--data", str(write_sequences(tmp_path)), "--recipe", str(recipe)]) == 2
    assert "no section [privacy]" in capsys.readouterr().err
