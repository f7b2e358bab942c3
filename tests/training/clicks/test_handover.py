"""What `muster clicks judgements` writes is what training reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from muster.products import read_judgements
from tests.training.tiny import write_workplace
from training.augment import augment
from training.clicks import commands
from training.data.tables import TRAIN
from training.measure import ndcg_by_query
from training.prepare import load_prepared, prepare
from training.recipe import Recipe, load_recipe


def clicked(path: Path, queries: dict[str, list[tuple[str, float]]]) -> None:
    """Made-up impressions: products in a fixed order with swaps of neighbours, clicked the likelier the
    better and the higher. queries: query to products and what attracts in each.
    """
    rng = np.random.default_rng(1)
    lines, answer = ["answer,query,product_id,position,clicked"], 0
    for query, products in queries.items():
        for _ in range(150):
            order = list(products)
            start = int(rng.integers(2))
            for at in range(start, len(order) - 1, 2):
                if rng.random() < 0.5:
                    order[at], order[at + 1] = order[at + 1], order[at]
            for place, (product, attracts) in enumerate(order, start=1):
                liked = int(rng.random() < attracts / place)
                lines.append(f"{answer},{query},{product},{place},{liked}")
            answer += 1
    path.write_text("\n".join(lines))


@pytest.fixture
def workplace(tmp_path: Path) -> Recipe:
    return write_workplace(tmp_path, products=120, queries=24)


def test_judgements_of_clicks_take_the_place_of_those_of_people(
    workplace: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = tmp_path / "data" / "shop"
    truth = read_judgements(shop, split=None)
    queries = {
        query: [(product, 0.05 + 0.3 * gain) for product, gain in list(judged.items())[:5]]
        for query, judged in truth.gains.items()
    }
    clicked(tmp_path / "clicks.csv", queries)
    labels = shop / "labels.parquet"
    line = ["judgements", str(tmp_path / "clicks.csv"), "--out", str(labels), "--method", "interventions"]
    assert commands.main([*line, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)

    # The gains are measured as any others, and follow the truth.
    found = read_judgements(shop, split=None)
    assert set(found.gains) == set(truth.gains)
    rankings = {query: sorted(gains, key=gains.__getitem__)[::-1] for query, gains in found.gains.items()}
    shown = {query: {key: truth.gains[query][key] for key in gains} for query, gains in found.gains.items()}
    assert np.mean(list(ndcg_by_query(shown, rankings).values())) > 0.95
    ndcg_by_query(found.gains, rankings)

    # With the lines that the command prints, the stages that need a target for each gain find one.
    recipe_file = tmp_path / "recipe.toml"
    targets = ", ".join(f'"{name}" = {value}' for name, value in told["targets"].items())
    lines = recipe_file.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("grades")]
    recipe_file.write_text(
        "\n".join(f"targets = {{ {targets} }}" if line.startswith("targets") else line for line in kept)
    )
    recipe = load_recipe(recipe_file)
    prepare(recipe, tmp_path / "data", tmp_path / "run")
    augment(recipe, tmp_path / "run")
    prepared = load_prepared(tmp_path / "run")
    learnt = {query.query_id: dict(query.gains) for query in prepared.of("shop", TRAIN)}
    assert learnt and all(found.gains[query] == gains for query, gains in learnt.items())
    assert {str(float(gain)) for gains in learnt.values() for gain in gains.values()} <= set(told["targets"])


def test_the_steps_of_gains_are_few_and_bounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clicked(tmp_path / "clicks.csv", {"q": [(f"p{at}", 0.1 * at) for at in range(1, 6)]})
    line = ["judgements", str(tmp_path / "clicks.csv"), "--out", str(tmp_path / "labels.parquet")]
    line += ["--method", "interventions"]
    assert commands.main([*line, "--steps", "4"]) == 0
    text = capsys.readouterr().out
    assert "targets = {" in text and text.count(" = ") <= 6
    assert commands.main([*line, "--steps", "1"]) == 2
