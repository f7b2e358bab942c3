"""Queries and catalogues are spoilt as stated, and every plan is compared with its own clean figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muster.bundle import read_bundle
from tests.training.conftest import Workplace

rankcore = pytest.importorskip("rankcore._native", reason="the extension is not built: `make build`")

from training.baselines import measure_baselines  # noqa: E402
from training.calibrate import calibrate  # noqa: E402
from training.card import write_final  # noqa: E402
from training.earn import earn  # noqa: E402
from training.evaluate import SETTINGS, evaluate  # noqa: E402
from training.rank import train_rankers  # noqa: E402
from training.robustness import (  # noqa: E402
    CONDITIONS,
    FIELDS,
    Task,
    choose_stuffed,
    main,
    mistyped_queries,
    plan_name,
    read_task,
    robustness,
    shuffled_queries,
    stuffed,
    without_field,
)


@pytest.fixture(scope="module")
def bundle(workplace: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("robustness") / "bundle"
    if not (workplace.run / "calibration.json").is_file():
        measure_baselines(workplace.recipe, workplace.run)
        train_rankers(workplace.recipe, workplace.run)
        earn(workplace.recipe, workplace.run, note=lambda _: None)
        calibrate(workplace.recipe, workplace.run)
    write_final(workplace.recipe, workplace.run, folder)
    return folder


@pytest.fixture(scope="module")
def task(workplace: Workplace) -> Task:
    return read_task(workplace.data / "shop", None)


@pytest.fixture(scope="module")
def result(workplace: Workplace, bundle: Path) -> dict[str, Any]:
    return robustness(
        bundle,
        workplace.data / "shop",
        split=None,
        against=bundle,
        cache=workplace.run / "catalogues",
        rounds=200,
        draws=2,
    )


def test_the_clean_figures_are_those_of_evaluate(
    workplace: Workplace, bundle: Path, result: dict[str, Any]
) -> None:
    found = evaluate(
        bundle, workplace.data / "shop", split=None, cache=workplace.run / "catalogues", rounds=200
    )
    assert result["queries"] == found["queries"]
    assert len(result["plans"]) == len(found["tiers"]) == len(read_bundle(bundle).plans())
    for mine, theirs in zip(result["plans"], found["tiers"], strict=True):
        assert (mine["tier"], mine["depth"]) == (theirs["tier"], theirs["depth"])
        assert mine["clean"] == {setting: theirs[setting] for setting in SETTINGS}


def test_every_plan_is_measured_under_every_condition(result: dict[str, Any]) -> None:
    assert set(result["conditions"]) == set(CONDITIONS)
    for plan in result["plans"]:
        assert tuple(plan["conditions"]) == CONDITIONS
        for condition in plan["conditions"].values():
            for setting in SETTINGS:
                row, clean = condition[setting], plan["clean"][setting]
                assert row["ndcg10"] - clean["ndcg10"] == pytest.approx(row["difference"], abs=2e-4)
                assert row["low"] <= row["difference"] <= row["high"]
                assert row["inside_noise"] is (row["low"] <= 0.0 <= row["high"])


def test_a_bundle_does_not_differ_from_itself(result: dict[str, Any]) -> None:
    assert result["against"] == result["bundle"]
    for plan in result["plans"]:
        for row in plan["against"].values():
            assert all(row[setting]["difference"] == 0.0 for setting in SETTINGS)


def test_a_word_order_means_nothing_to_words_alone(result: dict[str, Any]) -> None:
    lexical = next(plan for plan in result["plans"] if plan["tier"] == "lexical")
    assert lexical["conditions"]["shuffled"]["judged"]["difference"] == pytest.approx(0.0, abs=0.01)
    assert lexical["conditions"]["typos"]["judged"]["difference"] < 0.0


def test_stuffing_the_words_of_a_query_lifts_worthless_products(result: dict[str, Any]) -> None:
    lexical = next(plan for plan in result["plans"] if plan["tier"] == "lexical")
    assert lexical["conditions"]["stuffed"]["catalogue"]["difference"] < 0.0
    assert result["conditions"]["stuffed"]["products"] > 0


def test_each_mistyped_query_has_one_slip(task: Task) -> None:
    made = mistyped_queries(task, np.random.default_rng(1))
    assert made.keys() == task.judged.keys()
    assert any(made[query] != task.judgements.queries[query] for query in made)
    for query, text in made.items():
        before, after = task.judgements.queries[query].split(), text.split()
        assert sum(one != other for one, other in zip(before, after, strict=True)) <= 1


def test_shuffling_keeps_the_words_and_changes_the_order(task: Task) -> None:
    made = shuffled_queries(task, np.random.default_rng(1))
    for query, text in made.items():
        before = task.judgements.queries[query]
        assert sorted(text.split()) == sorted(before.split())
        assert (text != before) is (len(set(before.split())) > 1)


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_missing_everywhere_and_nothing_else_is(task: Task, field: str) -> None:
    made = without_field(task.products, field)
    assert any(getattr(product, field) for product in task.products)
    for product, source in zip(made, task.products, strict=True):
        assert not getattr(product, field)
        before = {name.name for name, _ in source.ListFields()} - {field}
        assert {name.name for name, _ in product.ListFields()} == before
        assert product.product_id == source.product_id


def test_only_worthless_products_are_stuffed_each_for_one_query(task: Task) -> None:
    chosen = choose_stuffed(task, 3, np.random.default_rng(1))
    worth = {key for gains in task.judgements.gains.values() for key, gain in gains.items() if gain > 0}
    assert chosen and not worth & chosen.keys()
    assert all(list(chosen.values()).count(query) <= 3 for query in task.judged)
    made = {product.product_id: product for product in stuffed(task, chosen)}
    for source in task.products:
        copy = made[source.product_id]
        if source.product_id not in chosen:
            assert copy == source
            continue
        query = task.judgements.queries[chosen[source.product_id]]
        assert copy.description == f"{query} {query} {query}. {source.description}"
        assert copy.title == source.title


def test_plans_are_named_as_run_files_are() -> None:
    assert plan_name({"tier": "late", "depth": 50}) == "late-50"
    assert plan_name({"tier": "hybrid", "depth": 0}) == "hybrid"


def test_the_command_says_what_is_wrong(
    workplace: Workplace, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(workplace.data / "shop")
    assert main([str(tmp_path), "--data", data]) == 2
    assert capsys.readouterr().err.startswith("python -m training.robustness: ")
    assert main([str(bundle), "--data", data, "--split", "absent"]) == 2
    assert "'absent'" in capsys.readouterr().err
    assert main([str(bundle), "--data", data, "--draws", "0"]) == 2
    assert "draws" in capsys.readouterr().err


def test_the_command_prints_a_table_or_json(
    workplace: Workplace, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(bundle), "--data", str(workplace.data / "shop"), "--draws", "1"]
    arguments += ["--cache", str(workplace.run / "catalogues")]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["split"] == "dev"
    assert main(arguments) == 0
    # The table is as wide as the terminal: lines may be broken anywhere between words.
    text = " ".join(capsys.readouterr().out.split())
    assert "inside the noise" in text and f"{found['queries']} queries" in text
