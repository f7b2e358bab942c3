"""From signals to a bundle that the engine serves and `evaluate` measures."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.bundle import read_bundle
from muster.products import read_judgements, read_products
from muster.v1 import ranking_pb2
from tests.training.conftest import Workplace

rankcore = pytest.importorskip("rankcore._native", reason="the extension is not built: `make build`")

from training.baselines import measure_baselines  # noqa: E402
from training.calibrate import calibrate  # noqa: E402
from training.card import write_final  # noqa: E402
from training.earn import earn  # noqa: E402
from training.engine import ExactSearch, open_catalogue  # noqa: E402
from training.evaluate import evaluate, main  # noqa: E402
from training.export import DRAFT, write_draft  # noqa: E402
from training.measure import best_first  # noqa: E402
from training.rank import load_out_of_fold, train_rankers  # noqa: E402
from training.signals import SETTINGS, CandidateList, load_lists, order_of, pairs_read  # noqa: E402


@pytest.fixture(scope="module")
def finished(workplace: Workplace) -> Path:
    measure_baselines(workplace.recipe, workplace.run)
    train_rankers(workplace.recipe, workplace.run)
    earn(workplace.recipe, workplace.run, note=lambda _: None)
    calibrate(workplace.recipe, workplace.run)
    bundle = workplace.run / "bundle"
    write_final(workplace.recipe, workplace.run, bundle)
    return bundle


@pytest.fixture(scope="module")
def result(workplace: Workplace, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    runs = tmp_path_factory.mktemp("runs")
    found = evaluate(
        finished, workplace.data / "shop", runs=runs, cache=workplace.run / "catalogues", rounds=200
    )
    return found | {"runs": runs}


def test_the_engine_reproduces_the_golden_requests(finished: Path) -> None:
    import rankcore as core

    engine = core.Engine(str(finished), runtime_library=core.runtime_library())
    try:
        assert engine.verify_golden() == []
    finally:
        engine.close()


def test_only_what_earned_its_place_is_in_the_bundle(workplace: Workplace, finished: Path) -> None:
    bundle = read_bundle(finished)
    gate = json.loads((workplace.run / "earn" / "report.json").read_text())["tiers"]
    planned = {plan["tier"] for plan in bundle.plans()}
    assert planned <= {tier for tier, entry in gate.items() if entry["earned"]}
    assert not any(entry.get("admitted") for entry in gate.values())
    for tier in ("cross_small", "cross_large"):
        assert (f"{tier}/model.onnx.gz" in bundle.manifest.files) == (tier in planned)
    for name in bundle.manifest.files:
        if name.startswith("ranker/"):
            assert gate[name.removeprefix("ranker/").removesuffix(".txt")]["ranker"]["earned"]
    assert set(bundle.card()["tiers"]) == {"lexical", "hybrid", "late", "cross_small", "cross_large"}


def test_an_admitted_tier_is_in_the_plans_and_the_card_says_how(
    workplace: Workplace, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(workplace.run, run, ignore=shutil.ignore_patterns("bundle"))
    recipe = replace(
        workplace.recipe, plans=replace(workplace.recipe.plans, admit=["cross_small"], tier_confidence=0.9999)
    )
    gate = earn(recipe, run, note=lambda _: None)["tiers"]["cross_small"]
    assert not gate["earned"] and gate["admitted"] and not gate["ranker"]["earned"]
    calibrate(recipe, run)
    write_final(recipe, run, tmp_path / "bundle")
    bundle = read_bundle(tmp_path / "bundle")
    plans = [plan for plan in bundle.plans() if plan["tier"] == "cross_small"]
    assert [plan["depth"] for plan in plans] == recipe.plans.cross_depths
    cheaper = max(plan["expected_ndcg"] for plan in bundle.plans() if plan["tier"] != "cross_small")
    assert all(plan["expected_ndcg"] > cheaper for plan in plans)
    assert "cross_small/model.onnx.gz" in bundle.manifest.files
    assert "ranker/cross_small.txt" not in bundle.manifest.files
    card = (tmp_path / "bundle" / "card.md").read_text()
    assert "| cross_small | no, admitted without earning it |" in card
    assert "Admitted without earning it, to compare servers: cross_small." in card


def test_each_kept_plan_is_worth_more_than_every_cheaper_one(finished: Path) -> None:
    worth = [plan["expected_ndcg"] for plan in read_bundle(finished).plans()]
    assert worth == sorted(set(worth))


def test_the_card_tells_licences_decisions_and_commands(finished: Path) -> None:
    card = (finished / "card.md").read_text()
    for part in (
        "made up",
        "earned",
        "muster train",
        "95%",
        "| lexical |",
        "| cross_large |",
        "Nested folds",
    ):
        assert part in card


def test_signals_are_read_back_as_they_were_written(workplace: Workplace, finished: Path) -> None:
    names, lists = load_lists(workplace.run / "rank" / "signals.npz")
    assert {one.setting for one in lists} == set(SETTINGS)
    assert all(one.values.shape == (len(one.gains), len(names)) for one in lists)
    rankers = load_out_of_fold(workplace.run / "rank" / "out_of_fold.npz", lists)
    assert len(rankers) == workplace.recipe.plans.partitions
    for tiers in rankers:
        assert set(tiers) == {"lexical", "hybrid", "late", "cross_small", "cross_large"}
        for scores in tiers.values():
            assert [len(one) for one in scores] == [len(one.gains) for one in lists]


def test_a_cross_encoder_has_scored_what_it_would_be_asked_to_order(
    workplace: Workplace, finished: Path
) -> None:
    names, lists = load_lists(workplace.run / "rank" / "signals.npz")
    deepest = max(workplace.recipe.plans.cross_depths)
    for at, one in enumerate(lists):
        head = order_of(names, one, at, "late", len(one.gains), {})[:deepest]
        for tier in ("cross_small", "cross_large"):
            assert np.isfinite(one.crosses[tier][head]).all()
            assert one.own(names, tier) is not one.crosses[tier]


def test_orders_worked_out_here_are_the_engines(workplace: Workplace) -> None:
    judged = read_judgements(workplace.data / "shop", "train")
    products = list(read_products(workplace.data / "shop"))
    with open_catalogue(workplace.run / DRAFT, products, cache=workplace.run / "catalogues") as catalogue:
        for query in list(judged.queries.values())[:5]:
            found = catalogue.signals(query, "late", product_ids=None, width=50)
            one = CandidateList(
                "", "", "", 0, "catalogue", found.values, np.zeros(len(found.values)), np.ones(1)
            )
            for tier, depth in (("lexical", 0), ("hybrid", 0), ("late", 50), ("late", 10)):
                order = order_of(found.names, one, 0, tier, depth, {})
                ours = [found.product_ids[at] for at in order[:10]]
                theirs = [key for key, _ in catalogue.search(query, tier, depth, 50, results=10)]
                assert len(set(ours) & set(theirs)) >= len(theirs) - 1, (query, tier, depth)


def test_the_engine_stops_reading_where_this_room_says_that_the_page_has_settled(
    workplace: Workplace, tmp_path: Path
) -> None:
    plans = replace(workplace.recipe.plans, settled_pairs=3)
    write_draft(replace(workplace.recipe, plans=plans), workplace.run, tmp_path / "settling")
    judged = read_judgements(workplace.data / "shop", "train")
    products = list(read_products(workplace.data / "shop"))
    answers: list[list[tuple[int, list[str]]]] = []
    for chunk_pairs in (1, 7, 50):
        with open_catalogue(
            tmp_path / "settling", products, cache=workplace.run / "catalogues", chunk_pairs=chunk_pairs
        ) as catalogue:
            answers.append([])
            for query in list(judged.queries.values())[:5]:
                request = ranking_pb2.SearchRequest(query=query, page_size=10).SerializeToString()
                answer = ranking_pb2.SearchResponse.FromString(
                    catalogue.engine.execute(request, "cross_small", 40, 50)
                )
                shown = [result.product_id for result in answer.results]
                answers[-1].append((answer.receipt.depth, shown))
                found = catalogue.signals(query, "cross_small", product_ids=None, width=50)
                cross = found.column("cross")
                assert np.isfinite(cross).all()
                one = CandidateList(
                    *("", "", "", 0, "catalogue"),
                    found.values,
                    np.zeros(len(cross)),
                    np.ones(1),
                    {"cross_small": cross},
                )
                below = order_of(found.names, one, 0, "late", len(cross), {})
                assert answer.receipt.depth == pairs_read(cross[below[:40]], plans.settled_pairs)
                order = order_of(found.names, one, 0, "cross_small", 40, {}, plans.settled_pairs)
                assert shown == [found.product_ids[at] for at in order[:10]]
    assert answers[0] == answers[1] == answers[2]
    assert min(depth for depth, _ in answers[0]) < 40


@given(
    scores=st.lists(st.integers(-4, 4) | st.just(math.nan), max_size=40),
    settled_pairs=st.integers(1, 8),
)
def test_what_was_read_last_before_the_page_settled_is_not_on_it(
    scores: list[float], settled_pairs: int
) -> None:
    values = np.array(scores, dtype=np.float64)
    read = pairs_read(values, settled_pairs)
    assert pairs_read(values, 0) == len(values)
    if read < len(values):
        page = best_first(values[:read])[:10]
        assert (page < read - settled_pairs).all()


def test_a_tier_does_not_show_its_ranker_what_it_does_not_compute() -> None:
    names = ["bm25", "dense", "late", "cross"]
    crosses = {"cross_small": np.array([2.0, 3.0]), "cross_large": np.array([4.0, 5.0])}
    one = CandidateList("", "", "", 0, "judged", np.ones((2, 4)), np.ones(2), np.ones(2), crosses)
    assert np.isnan(one.signals(names, "lexical")[0]).tolist() == [False, True, True, True]
    assert np.isnan(one.signals(names, "late")[0]).tolist() == [False, False, False, True]
    assert one.signals(names, "cross_small")[:, 3].tolist() == [2.0, 3.0]
    assert one.signals(names, "cross_large")[:, 3].tolist() == [4.0, 5.0]
    assert not np.isnan(one.values).any()


def test_an_evaluation_names_every_plan_and_baseline(finished: Path, result: Mapping[str, Any]) -> None:
    plans = [(plan["tier"], plan["depth"]) for plan in read_bundle(finished).plans()]
    assert [(row["tier"], row["depth"]) for row in result["tiers"]] == plans
    assert {"random", "bm25"} <= set(result["baselines"])
    for row in (*result["tiers"], *result["baselines"].values()):
        for setting in SETTINGS:
            assert 0.0 <= row[setting]["low"] <= row[setting]["ndcg10"] <= row[setting]["high"] <= 1.0
    assert all(row["cost_ms_p50"] > 0 for row in result["tiers"])


def test_words_find_better_products_than_chance(result: Mapping[str, Any]) -> None:
    baselines = result["baselines"]
    for setting in SETTINGS:
        assert baselines["bm25"][setting]["ndcg10"] > baselines["random"][setting]["ndcg10"]


def test_run_files_score_the_same_in_other_hands(result: Mapping[str, Any]) -> None:
    readers: Any = ir_measures
    judged = list(readers.read_trec_qrels(str(result["runs"] / "qrels.txt")))
    for row in result["tiers"]:
        name = row["tier"] if row["depth"] == 0 else f"{row['tier']}-{row['depth']}"
        for setting in SETTINGS:
            run = list(readers.read_trec_run(str(result["runs"] / f"{name}.{setting}.run")))
            scored = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], judged, run)
            assert scored[ir_measures.nDCG @ 10] == pytest.approx(row[setting]["ndcg10"], abs=1e-3)


def test_the_command_prints_json_alone(
    workplace: Workplace, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(finished), "--data", str(workplace.data / "shop"), "--json"]
    assert main([*arguments, "--cache", str(workplace.run / "catalogues")]) == 0
    assert {"tiers", "baselines"} <= set(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "holdout"}, "holdout"),
        ({"bundle": "absent"}, "not a folder"),
        ({"data": "absent"}, "no such file"),
    ],
)
def test_the_command_refuses_bad_input_with_its_reason(
    workplace: Workplace,
    finished: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    message: str,
) -> None:
    settings = {"bundle": str(finished), "data": str(workplace.data / "shop"), "split": "dev"} | change
    assert main([settings["bundle"], "--data", settings["data"], "--split", settings["split"]]) == 2
    assert message in capsys.readouterr().err


def test_exact_search_finds_the_best_eligible_rows() -> None:
    random = np.random.default_rng(6)
    vectors = random.normal(size=(37, 8)).astype(np.float32)
    query = vectors[5]
    scores = vectors @ query
    rows, found = ExactSearch(vectors)(query, 4, None)
    assert rows.tolist() == np.argsort(-scores)[:4].tolist()
    np.testing.assert_allclose(found, scores[rows], rtol=1e-6)
    allowed = np.zeros(37, dtype=bool)
    allowed[[1, 9, 36]] = True
    bitmap = np.packbits(allowed, bitorder="little")
    rows, _ = ExactSearch(vectors)(query, 4, bitmap)
    assert sorted(rows.tolist()) == [1, 9, 36]
