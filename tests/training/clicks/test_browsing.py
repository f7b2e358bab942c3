"""The right model of browsing is chosen, and finds what attracts, on clicks whose truth is known."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from training.clicks import browsing, commands, coverage, propensity, simulate
from training.clicks.answers import Answers, as_answers
from training.clicks.cascade import Cascade, fit_cascade
from training.clicks.impressions import Floats, Impressions, Inconclusive
from training.clicks.judgements import gains
from training.clicks.position import cells_of, fit_position

WORLD = simulate.make_world(queries=30, seed=3)


@pytest.fixture(scope="module")
def logs() -> dict[str, Impressions]:
    """Clicks of both kinds of shoppers on the same world, with the features that attraction follows from."""
    drawn = {
        name: simulate.draw_clicks(WORLD, answers=6_000, swap_share=0.5, cascade=name == "cascade", seed=4)
        for name in ("position", "cascade")
    }
    return {name: with_features(shown) for name, shown in drawn.items()}


def with_features(shown: Impressions) -> Impressions:
    return dataclasses.replace(shown, features=WORLD.features[shown.query, shown.product % 10])


def truth_of(shown: Impressions) -> Floats:
    pair, pairs = shown.pairs()
    truth = np.zeros(pairs)
    truth[pair] = WORLD.attraction[shown.query, shown.product % 10]
    return truth


@pytest.mark.parametrize("kind", ["position", "cascade"])
def test_the_model_that_made_the_clicks_is_chosen(logs: dict[str, Impressions], kind: str) -> None:
    found = browsing.compare(logs[kind], folds=3, rounds=100)
    assert found.chosen == kind and found.gaps == 0
    by_name = {one.name: one for one in found.models}
    assert len(by_name["cascade"].by_place) == 10
    if kind == "cascade":
        assert by_name["cascade"].gain.low > 0
        assert by_name["cascade"].perplexity.mean < by_name["position"].perplexity.mean
    else:
        assert by_name["cascade"].gain.high < 0


@pytest.mark.parametrize("kind", ["position", "cascade"])
def test_only_the_right_model_finds_what_attracts(logs: dict[str, Impressions], kind: str) -> None:
    shown = logs[kind]
    answers, truth = as_answers(shown), truth_of(shown)
    even = np.ones(len(answers))
    wrong = {
        name: float(np.abs(fit(answers, even).attracts - truth).mean())
        for name, fit in browsing.fits().items()
    }
    right = wrong.pop(kind)
    assert right < 0.07 and right < 0.8 * min(wrong.values())


def test_the_cascade_finds_how_shoppers_go_on_with_bounds(logs: dict[str, Impressions]) -> None:
    shown = logs["cascade"].of_answers(np.arange(6_000) < 2_000)
    found = browsing.estimate_cascade(shown, rounds=10, seed=1)
    assert found.continues.mean == pytest.approx(WORLD.continues, abs=0.03)
    assert found.continues.low < found.continues.mean < found.continues.high < found.continues.low + 0.1
    assert found.satisfied.low < found.satisfied.mean < found.satisfied.high
    assert (np.diff(found.propensities.examined) < 0).all() and found.propensities.examined[0] == 1


def test_gains_of_the_right_model_follow_the_truth_and_others_do_not(logs: dict[str, Impressions]) -> None:
    shown = logs["cascade"]
    answers = as_answers(shown)
    even, truth = np.ones(len(answers)), truth_of(shown)
    by_cascade = fit_cascade(answers, even).attracts
    cells = cells_of(answers, even)
    by_position = gains(shown, fit_position(cells, propensity.by_interventions(cells)).examined)
    assert np.corrcoef(by_cascade, truth)[0, 1] > np.corrcoef(by_position, truth)[0, 1] + 0.03


def test_features_tell_bias_where_nothing_was_swapped() -> None:
    still = with_features(simulate.draw_clicks(WORLD, answers=6_000, swap_share=0.0, seed=5))
    with pytest.raises(Inconclusive, match="Swap neighbours"):
        browsing.compare(still)
    features = still.pair_features()
    assert features is not None
    answers = as_answers(still)
    found = browsing.fit_regression(answers, np.ones(len(answers)), features)
    assert np.abs(found.examined - WORLD.examined).max() < 0.12


def test_the_chance_of_a_click_is_that_of_all_ways_to_it() -> None:
    rng = np.random.default_rng(6)
    attracts, satisfies, continues = rng.uniform(0.1, 0.9, 3), rng.uniform(0.1, 0.9, 3), 0.7
    chances: dict[tuple[bool, ...], float] = {}
    for liked, content, on in itertools.product(itertools.product([False, True], repeat=3), repeat=3):
        chance, looks, clicks = 1.0, True, []
        for at in range(3):
            chance *= attracts[at] if liked[at] else 1 - attracts[at]
            chance *= satisfies[at] if content[at] else 1 - satisfies[at]
            chance *= continues if on[at] else 1 - continues
            clicks.append(looks and liked[at])
            looks = looks and on[at] and not (clicks[-1] and content[at])
        chances[tuple(clicks)] = chances.get(tuple(clicks), 0.0) + chance
    clicked = np.array(list(chances))
    answers = Answers(np.tile(np.arange(3), (len(clicked), 1)), clicked, 3, 0)
    expected = Cascade(attracts, satisfies, continues).expected(answers)
    likely = np.prod(np.where(clicked, expected, 1 - expected), axis=1)
    assert likely == pytest.approx(list(chances.values()))


def test_fitting_makes_the_clicks_likelier_round_by_round(logs: dict[str, Impressions]) -> None:
    answers = as_answers(logs["cascade"])
    even = np.ones(len(answers))
    bits, model = [], None
    for _ in range(8):
        model = fit_cascade(answers, even, start=model, rounds=1)
        expected = np.clip(model.expected(answers), 1e-9, 1 - 1e-9)
        bits.append(-np.log2(np.where(answers.clicked, expected, 1 - expected)).sum())
    assert (np.diff(bits) < 0).all()


def test_answers_with_a_gap_are_left_out_and_counted() -> None:
    zeros = np.zeros(3, dtype=np.int64)
    whole = Impressions(np.array([0, 0, 1]), zeros, np.array([0, 1, 1]), np.array([1, 2, 2]), zeros)
    found = as_answers(whole)
    assert len(found) == 1 and found.gaps == 1 and found.pair.tolist() == [[0, 1]]
    gap = Impressions(zeros[:1], zeros[:1], zeros[:1], np.array([2]), zeros[:1])
    with pytest.raises(Inconclusive, match="from the first on"):
        as_answers(gap)


def written(path: Path, shown: Impressions) -> str:
    assert shown.features is not None
    columns = [shown.answer, shown.query, shown.product, shown.position, shown.clicked]
    rows = ["answer,query,product_id,position,clicked,price"]
    for *row, price in zip(*(one.tolist() for one in columns), shown.features[:, 1].tolist(), strict=True):
        rows.append(",".join(map(str, [*row, f"{price:.4f}" if row[0] else ""])))
    path.write_text("\n".join(rows))
    return str(path)


def test_the_command_says_which_model_was_chosen_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], logs: dict[str, Impressions]
) -> None:
    file = written(tmp_path / "clicks.csv", logs["cascade"].of_answers(np.arange(6_000) < 1_000))
    assert commands.main(["bias", file, "--rounds", "10", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chosen"] == found["method"] == "cascade"
    assert {one["name"] for one in found["models"]} == {"position", "cascade"}
    assert found["cascade"]["looks_on"]["low"] < found["cascade"]["looks_on"]["high"]
    assert commands.main(["judgements", file, "--out", str(tmp_path / "labels.parquet"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "cascade"
    assert commands.main(["judgements", file, "--out", str(tmp_path / "l.parquet"), "--method", "em"]) == 0
    capsys.readouterr()
    assert commands.main(["bias", file, "--method", "regression"]) == 2
    assert "--features" in capsys.readouterr().err
    for wrong in ("clicked", "colour", "price,price"):
        assert commands.main(["bias", file, "--features", wrong]) == 2
        assert wrong.split(",", maxsplit=1)[0] in capsys.readouterr().err


@pytest.mark.parametrize("method", coverage.METHODS)
def test_the_coverage_of_intervals_is_counted_by_world(method: str) -> None:
    found = coverage.covered(method, worlds=2, answers=1_000, rounds=10, seed=1)
    assert found.of == 2 and len(found.held) >= 9
    assert all(0 <= held <= 2 for held in found.held.values())
