"""Clicks another order would get, against the truth; and the command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from training.clicks import commands, offpolicy, simulate
from training.clicks.impressions import Impressions, Inconclusive, Ints
from training.clicks.trial import trial

PLACES = 10


def target_of(world: simulate.World, shown: Impressions) -> tuple[Ints, float]:
    """An order that swaps the neighbours of the first four places where that helps, and its true clicks."""
    order = world.order.copy()
    for query in range(len(order)):
        for at in (0, 2):
            one, other = order[query, at], order[query, at + 1]
            if world.attraction[query, other] > world.attraction[query, one]:
                order[query, at], order[query, at + 1] = other, one
    place = np.argsort(order, axis=1) + 1
    worth = np.take_along_axis(world.attraction, order, axis=1) * world.examined
    return place[shown.query, shown.product % PLACES], float(worth.sum(axis=1).mean())


def test_the_true_value_of_a_near_order_lies_within_the_bounds() -> None:
    world = simulate.make_world(queries=30, seed=7)
    shown = simulate.draw_clicks(world, answers=6_000, swap_share=0.6, seed=8)
    target, truth = target_of(world, shown)
    found = offpolicy.estimate(shown, target, rounds=200)
    for name, value in found.estimates.items():
        # Queries are drawn, so their mix differs a little from the even one of the truth.
        assert value.low - 0.02 <= truth <= value.high + 0.02, (name, value, truth)
    assert found.supported == 1 and found.sample > 500
    widths = {name: value.high - value.low for name, value in found.estimates.items()}
    assert widths["dr"] < widths["ips"]


def test_a_log_that_cannot_say_it_is_inconclusive() -> None:
    world = simulate.make_world(queries=30, seed=7)
    still = simulate.draw_clicks(world, answers=500, swap_share=0.0, seed=8)
    with pytest.raises(Inconclusive, match="no randomness"):
        offpolicy.estimate(still, still.position)
    with pytest.raises(Inconclusive, match="propensity"):
        offpolicy.estimate(dataclasses.replace(still, propensity=None), still.position)
    few = simulate.draw_clicks(world, answers=600, swap_share=0.5, seed=8)
    turned = PLACES + 1 - target_of(world, few)[0]
    with pytest.raises(Inconclusive, match="too far away"):
        offpolicy.estimate(few, turned)
    with pytest.raises(Inconclusive, match="effective sample"):
        small = simulate.draw_clicks(simulate.make_world(queries=1, seed=7), answers=60, seed=8)
        offpolicy.estimate(small, target_of(simulate.make_world(queries=1, seed=7), small)[0])


def test_unbiased_clicks_teach_more_than_naive_ones() -> None:
    found = trial(answers=20_000, seed=1)
    assert found["low"] > 0, found


def written(path: Path, shown: Impressions) -> Path:
    assert shown.propensity is not None
    rows = zip(
        shown.answer.tolist(),
        shown.query.tolist(),
        shown.product.tolist(),
        shown.position.tolist(),
        shown.clicked.tolist(),
        shown.propensity.tolist(),
        strict=True,
    )
    names = ("answer", "query", "product_id", "position", "clicked", "propensity")
    path.write_text("\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)]))
    return path


def test_the_commands_read_files_and_end_as_they_should(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = simulate.make_world(queries=10, seed=7)
    shown = simulate.draw_clicks(world, answers=3_000, swap_share=0.6, seed=8)
    file = written(tmp_path / "clicks.csv", shown)
    assert commands.main(["bias", str(file), "--rounds", "10", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["positions"]) == PLACES
    assert commands.main(["judgements", str(file), "--out", str(tmp_path / "labels.parquet")]) == 0
    run = tmp_path / "order.run"
    run.write_text(
        "\n".join(
            f"{query} Q0 {query * PLACES + product} {at} {-at} now"
            for query in range(10)
            for at, product in enumerate(world.order[query], start=1)
        )
    )
    capsys.readouterr()
    assert commands.main(["off-policy", str(file), "--run", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["estimates"]["dr"]["value"] == pytest.approx(found["logged"]["value"], abs=0.15)
    still = written(tmp_path / "still.csv", simulate.draw_clicks(world, answers=300, swap_share=0.0, seed=8))
    assert commands.main(["off-policy", str(still), "--run", str(run)]) == 20
    assert commands.main(["bias", str(still), "--rounds", "10"]) == 20


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("answer,query\n1,2\n", "lacks the column"),
        ("answer,query,product_id,position,clicked\n1,q,p,0,1\n", "row 1: position"),
        ("answer,query,product_id,position,clicked\n1,q,p,1,2\n", "row 1: clicked"),
        ("answer,query,product_id,position,clicked\n1,q,p,1,1\n1,q,r,1,0\n", "row 2: position"),
        ("answer,query,product_id,position,clicked\n1,q,p,one,1\n", "numbers alone"),
        ("answer,query,product_id,position,clicked\n", "no impressions"),
    ],
)
def test_files_that_are_no_impressions_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text(text)
    assert commands.main(["bias", str(path)]) == 2
    assert told in capsys.readouterr().err
