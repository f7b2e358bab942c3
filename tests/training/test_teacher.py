"""Teachers never saw what they are asked, go on where they stopped, and say what they are worth."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import training.teacher
from tests.training.conftest import Workplace
from tests.training.tiny import RECIPE
from training.augment import augment
from training.data.folds import fold_of
from training.data.text import product_text
from training.losses import weighted_loss
from training.models.hub import PretrainedError, about_scorer
from training.prepare import JudgedQuery, load_prepared
from training.recipe import Recipe, RecipeError, load_recipe
from training.teacher import (
    Scored,
    Teachers,
    ensemble,
    fold_queries,
    member_folder,
    train_teachers,
    training_queries,
)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def run(workplace: Workplace, tmp_path: Path) -> Path:
    shutil.copytree(workplace.run / "prepared", tmp_path / "run" / "prepared")
    return tmp_path / "run"


def with_teacher(recipe: Recipe, **changes: Any) -> Recipe:
    quiet: dict[str, Any] = {"minutes_max": 1e6, "evaluate_steps": 0}
    return replace(recipe, teacher=replace(recipe.teacher, **(quiet | changes)))


def weights(run: Path, fold: int, seed: int = 0) -> dict[str, Tensor]:
    folder = member_folder(run, fold, seed)
    return load_file(folder / "model.safetensors") | load_file(folder / "score.safetensors")


def texts(workplace: Workplace, keys: Sequence[str]) -> list[str]:
    products = load_prepared(workplace.run).products["shop"]
    return [product_text(products[key], workplace.recipe.text.cross_fields) for key in keys]


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int, change: Callable[[Tensor], Tensor]) -> None:
    """Change the loss of one call of the whole stage."""
    seen = [0]

    def of(*given: Any) -> Tensor:
        seen[0] += 1
        loss = weighted_loss(*given)
        return change(loss) if seen[0] == at else loss

    monkeypatch.setattr(training.teacher, "weighted_loss", of)


# -- folds -------------------------------------------------------------------------


def test_folds_share_no_query_and_leave_none_out(workplace: Workplace) -> None:
    prepared = load_prepared(workplace.run)
    everything = {query.query_id for query in training_queries(workplace.recipe, prepared, None)}
    parts = [{query.query_id for query in fold_queries(workplace.recipe, prepared, fold)} for fold in (0, 1)]
    assert parts[0] | parts[1] == everything and not parts[0] & parts[1]
    for fold in (0, 1):
        taught = {query.query_id for query in training_queries(workplace.recipe, prepared, fold)}
        assert taught == everything - parts[fold]


def test_every_out_of_fold_score_is_of_a_teacher_that_never_saw_the_query(workplace: Workplace) -> None:
    whole = Scored.read(workplace.run / "teacher" / "out_of_fold.parquet")
    recipe, prepared = workplace.recipe, load_prepared(workplace.run)
    teachers = Teachers(recipe, workplace.run)
    queries = {query.query_id: query for query in training_queries(recipe, prepared, None)}
    assert set(whole.queries) == set(queries)
    for query in list(queries.values())[:6]:
        here = [at for at, key in enumerate(whole.queries) if key == query.query_id]
        fold = teachers.fold_for(query)
        assert fold == fold_of("shop", query.query_id, recipe.folds, recipe.seed)
        assert fold is not None
        about = about_scorer(member_folder(workplace.run, fold, 0)).about
        assert about["fold"] == fold
        offered = texts(workplace, [whole.products[at] for at in here])
        own = teachers.score(query.text, offered, fold=fold)
        np.testing.assert_allclose(own, whole.scores[here], atol=1e-4)
        assert np.abs(np.array(teachers.score(query.text, offered, fold=1 - fold)) - own).max() > 1e-3


def test_labels_of_a_fold_do_not_reach_its_teacher(workplace: Workplace, run: Path, tmp_path: Path) -> None:
    recipe, before = with_teacher(workplace.recipe), tmp_path / "before"
    shutil.copytree(run, before)
    train_teachers(recipe, before)
    path = run / "prepared" / "judgements.json"
    rows = json.loads(path.read_text())
    fold_0 = {query.query_id for query in fold_queries(workplace.recipe, load_prepared(run), 0)}
    for row in rows:
        if row["query_id"] in fold_0:
            row["gains"] = {key: 3.0 - gain for key, gain in row["gains"].items()}
    path.write_text(json.dumps(rows))
    train_teachers(recipe, run)
    for name, value in weights(before, 0).items():
        assert torch.equal(value, weights(run, 0)[name]), name
    assert any(not torch.equal(one, weights(run, 1)[name]) for name, one in weights(before, 1).items())


def test_queries_that_no_teacher_saw_are_answered_by_all(workplace: Workplace) -> None:
    teachers = Teachers(workplace.recipe, workplace.run)
    unlabelled = JudgedQuery("shop", "new", "train", "steel kettle", {})
    dev = JudgedQuery("shop", "dev", "dev", "steel kettle", {"1": 1.0})
    assert teachers.fold_for(unlabelled) is None and teachers.fold_for(dev) is None
    offered = ["red kettle", "blue shoes", ""]
    each = [np.array(teachers.score("steel kettle", offered, fold=fold)) for fold in (0, 1)]
    about = [about_scorer(member_folder(workplace.run, fold, 0)).about for fold in (0, 1)]
    found = teachers.score("steel kettle", offered, fold=None)
    np.testing.assert_allclose(found, ensemble(each, about), atol=1e-6)
    assert teachers.score("steel kettle", [], fold=None) == []


def test_an_ensemble_is_the_mean_of_standardised_scores_on_the_members_scale() -> None:
    scores = [np.array([1.0, 3.0]), np.array([10.0, 40.0])]
    about = [{"score_mean": 2.0, "score_deviation": 1.0}, {"score_mean": 30.0, "score_deviation": 10.0}]
    # Standardised: (-1, 1) and (-2, 1); means (-1.5, 1); scale 5.5 round 16.
    np.testing.assert_allclose(ensemble(scores, about), [16 - 1.5 * 5.5, 16 + 5.5])
    np.testing.assert_allclose(ensemble(scores[:1], about[:1]), scores[0])


# -- the report --------------------------------------------------------------------


def test_the_report_says_what_the_teachers_are_worth(workplace: Workplace) -> None:
    report = json.loads((workplace.run / "teacher" / "report.json").read_text())
    assert [one["fold"] for one in report["members"]] == [0, 1]
    for one in report["members"]:
        assert {"train ndcg10", "unseen ndcg10"} <= set(one["curves"])
        assert one["curves"]["unseen ndcg10"][0][0] == 0
        assert one["parameters_trained"] > 0 and one["memory_mib_max"] > 0
    shop = report["out_of_fold"]["shop"]
    for name in ("teacher", "untrained"):
        assert 0 < shop[name]["low"] <= shop[name]["ndcg10"] <= shop[name]["high"] <= 1
    gained = shop["teacher"]["ndcg10"] - shop["untrained"]["ndcg10"]
    assert shop["over_untrained"]["difference"] == pytest.approx(gained, abs=2e-4)
    assert report["tuning"] == "full"
    assert set(report["classes"]["shop"]["grades"]) == {"wrong", "poor", "fair", "right"}
    assert (workplace.run / "teacher" / "confusion-shop.png").is_file()


def test_curves_of_every_member_are_in_the_run_folder(workplace: Workplace) -> None:
    names = {json.loads(line)["name"] for line in (workplace.run / "curves.jsonl").read_text().splitlines()}
    assert {f"teacher/fold{fold}-seed0/ndcg10" for fold in (0, 1)} <= names
    assert "distil/cross_small.fold0/loss" in names


def test_a_teacher_that_is_there_is_not_trained_again(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(training.teacher, "_train_member", refuse)
    wanted = [member_folder(workplace.run, fold, 0) for fold in (0, 1, None)]
    assert train_teachers(workplace.recipe, workplace.run) == wanted
    assert "other settings" not in capsys.readouterr().out
    train_teachers(with_teacher(workplace.recipe, weight_decay=0.5), workplace.run)
    assert "was trained with other settings: remove it" in capsys.readouterr().out


# -- kinds, losses, tuning ---------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "bi", "losses": {"listwise": 1.0}},
        {"tuning": "lora", "rank": 2, "losses": {"pairwise": 1.0, "listwise": 0.5, "graded": 0.3}},
        {"tuning": "adapter", "precision": "bf16", "accumulate": 2, "dropout": 0.1},
        {"layers": [], "checkpointing": True, "freeze_words": False},
    ],
    ids=["bi", "lora", "adapter", "full"],
)
def test_every_way_of_training_gives_a_teacher(
    workplace: Workplace, run: Path, changes: dict[str, Any]
) -> None:
    recipe = with_teacher(workplace.recipe, **changes)
    train_teachers(recipe, run)
    config = json.loads((member_folder(run, 0, 0) / "config.json").read_text())
    assert config["model_type"] == "bert"
    assert not [name for name in weights(run, 0) if "lora" in name or "ia3" in name]
    before = load_file(Path(recipe.pretrained) / "model.safetensors")
    after = weights(run, 0)
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert any(name.startswith("encoder.layer") for name in changed)
    assert ("embeddings.word_embeddings.weight" in changed) == (changes.get("freeze_words") is False)
    scores = Teachers(recipe, run).score("steel kettle", ["kettle", "shoes"], fold=0)
    assert np.isfinite(scores).all()


def test_recomputing_layers_ends_with_the_same_teacher(
    workplace: Workplace, run: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    train_teachers(with_teacher(workplace.recipe), run)
    train_teachers(with_teacher(workplace.recipe, checkpointing=True), other)
    for name, value in weights(run, 0).items():
        torch.testing.assert_close(value, weights(other, 0)[name], rtol=1e-4, atol=1e-5)


def test_several_seeds_make_an_ensemble(workplace: Workplace, run: Path) -> None:
    recipe = with_teacher(workplace.recipe, seeds=2)
    assert [one.name for one in train_teachers(recipe, run)] == [
        "fold0-seed0",
        "fold0-seed1",
        "fold1-seed0",
        "fold1-seed1",
        "whole-seed0",
        "whole-seed1",
    ]
    assert any(not torch.equal(one, weights(run, 0, 1)[name]) for name, one in weights(run, 0).items())
    report = json.loads((run / "teacher" / "report.json").read_text())
    assert len(report["each_seed"]) == 2 and len(report["members"]) == 4


def test_edited_pairs_are_learnt_from_where_the_recipe_says(workplace: Workplace, run: Path) -> None:
    recipe = with_teacher(workplace.recipe, augmented=True)
    with pytest.raises(FileNotFoundError, match=r"training\.augment"):
        train_teachers(recipe, run)
    recipe = replace(recipe, augment=replace(recipe.augment, typo=0.5))
    augment(recipe, run, note=lambda _: None)
    train_teachers(recipe, run)
    steps = [about_scorer(member_folder(one, 0, 0)).about["steps"] for one in (workplace.run, run)]
    assert steps[0] < steps[1]


def test_training_stops_early_on_queries_set_aside(workplace: Workplace, run: Path) -> None:
    recipe = with_teacher(workplace.recipe, epochs=30, dev_share=0.4, patience=2, evaluate_steps=3)
    train_teachers(recipe, run)
    members = json.loads((run / "teacher" / "report.json").read_text())["members"]
    for one in members:
        curve = dict(one["curves"]["dev ndcg10"])
        assert one["stopped"] == "early"
        assert curve[one["kept_step"]] == max(curve.values())
        # Two evaluations without a better one, three updates apart.
        assert one["steps"] == one["kept_step"] + 6


# -- interrupted, and what goes wrong ----------------------------------------------


@pytest.mark.parametrize("tuning", ["full", "adalora"])
def test_a_stage_that_was_cut_short_ends_with_the_same_teachers(
    workplace: Workplace, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuning: str
) -> None:
    recipe = with_teacher(workplace.recipe, tuning=tuning, rank=2, dropout=0.1, checkpoint_steps=4)
    whole = tmp_path / "whole"
    shutil.copytree(run, whole)
    train_teachers(recipe, whole)

    def cut(_: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        interrupt(patch, 11, cut)
        with pytest.raises(KeyboardInterrupt):
            train_teachers(recipe, run)
    assert torch.load(run / "teacher" / "fold0-seed0.checkpoint", weights_only=True)["step"] == 8
    train_teachers(recipe, run)
    for fold in (0, 1):
        for name, value in weights(whole, fold).items():
            assert torch.equal(value, weights(run, fold)[name]), name
    assert not list((run / "teacher").glob("*.checkpoint"))
    assert (run / "curves.jsonl").read_text() == (whole / "curves.jsonl").read_text()


def test_a_loss_that_is_not_finite_names_the_member_and_the_step(
    workplace: Workplace, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, 7, lambda loss: loss * math.nan)
    with pytest.raises(FloatingPointError, match="teacher/fold0-seed0: the loss is nan at step 7"):
        train_teachers(with_teacher(workplace.recipe, checkpoint_steps=4), run)
    saved = torch.load(run / "teacher" / "fold0-seed0.checkpoint", weights_only=True)
    assert saved["step"] == 4
    assert all(torch.isfinite(value.float()).all() for value in saved["weights"].values())


def test_an_encoder_that_cannot_be_had_says_how_to_give_a_folder(workplace: Workplace, run: Path) -> None:
    with pytest.raises(PretrainedError, match="Give the path of a local folder"):
        train_teachers(with_teacher(workplace.recipe, pretrained="no-such/encoder"), run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": [7]}, r"teacher\.layers: .* has layers 0 to 1, and no 7"),
        ({"product_tokens_max": 500}, r"teacher\.product_tokens_max: 500 tokens .*: at most 52"),
        ({"precision": "fp8"}, "teacher: precision must be one of"),
        ({"losses": {"pairwize": 1.0}}, "pairwize"),
        ({"tuning": "lora", "target_modules": ["nowhere"]}, "teacher: .*nowhere"),
    ],
)
def test_a_setting_that_cannot_be_done_is_named(
    workplace: Workplace, run: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((RecipeError, ValueError), match=message):
        train_teachers(with_teacher(workplace.recipe, **changes), run)


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ('kind = "both"', r"teacher\.kind must be one of cross, bi"),
        ('tuning = "prefix"', r"teacher\.tuning must be one of full, lora, adalora, adapter"),
        ("seeds = 0", r"teacher\.seeds must be at least 1"),
        ("patience = 2", r"teacher\.patience needs dev_share and evaluate_steps"),
        ("dev_share = 1.0", r"teacher\.dev_share"),
        ("losses = { pairwize = 1.0 }", r"teacher\.losses: no loss is called 'pairwize'"),
        ("losses = { graded = 0.0 }", r"teacher\.losses"),
    ],
)
def test_a_wrong_teacher_setting_is_refused_on_reading(tmp_path: Path, new: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(pretrained="x").replace('precision = "off"', new, 1))
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


def test_a_missing_member_is_named(workplace: Workplace, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"fold0-seed0 is missing: run `python -m training\.teacher`"):
        Teachers(workplace.recipe, tmp_path)
