"""The compression table: every model, in every form, counted alike."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.conftest import Workplace
from training.compression import compression
from training.data.batches import Specials
from training.models.networks import load_encoder
from training.models.pruning import parameters
from training.prepare import load_prepared
from training.prune import prune
from training.quality import judged_lists, judged_products, product_vectors, share_kept, torch_encoder
from training.recipe import PruneRecipe, PruneVariant, RecoveryRecipe

SETTINGS = PruneRecipe(
    variants=[PruneVariant("half", layers=0.5), PruneVariant("unmade", layers=0.5)],
    sample=16,
    recovery=RecoveryRecipe(steps=2, batch=4),
)


@pytest.fixture(scope="module")
def finished(workplace: Workplace, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("compression") / "run"
    shutil.copytree(workplace.run, run, ignore=shutil.ignore_patterns("draft", "bundle", "catalogues"))
    prune(replace(workplace.recipe, prune=replace(SETTINGS, variants=SETTINGS.variants[:1])), run)
    return compression(replace(workplace.recipe, prune=SETTINGS), run, rounds=5), run


def test_every_model_is_in_the_table_in_every_form(finished: tuple[dict[str, Any], Path]) -> None:
    rows = [(row["model"], row["form"], row["score"]) for row in finished[0]["rows"]]
    assert rows == [
        ("teacher", "float32", "cross"),
        *(("encoder", form, score) for form in ("float32", "int8") for score in ("late", "dense")),
        ("cross_small", "float32", "cross"),
        ("cross_small", "int8", "cross"),
        ("cross_large", "float32", "cross"),
        ("cross_large", "int8", "cross"),
        *(("half", form, score) for form in ("float32", "int8") for score in ("late", "dense")),
    ]
    assert finished[0]["missing"] == ["unmade: `python -m training.prune` has not made it"]


def test_sizes_are_those_of_the_models(finished: tuple[dict[str, Any], Path]) -> None:
    report, run = finished
    rows = {(row["model"], row["form"]): row for row in report["rows"]}
    assert rows["encoder", "int8"]["mib"] == round((run / "onnx" / "encoder.onnx").stat().st_size / 2**20, 2)
    assert rows["encoder", "int8"]["mib"] < rows["encoder", "float32"]["mib"]
    assert rows["half", "int8"]["mib"] < rows["encoder", "int8"]["mib"]
    assert rows["half", "int8"]["parameters"] == parameters(load_encoder(run / "prune" / "half.pt"))


def test_quality_is_a_share_of_the_teachers(finished: tuple[dict[str, Any], Path]) -> None:
    rows = finished[0]["rows"]
    teacher = rows[0]
    assert teacher["share_of_teacher"] == teacher["cost_of_teacher"] == 1.0
    for row in rows:
        assert row["share_of_teacher"] == pytest.approx(
            row["ndcg10"]["shop"] / teacher["ndcg10"]["shop"], abs=2e-4
        )
        assert row["difference"]["low"] <= row["difference"]["ndcg10"] <= row["difference"]["high"]
        assert 0.0 < row["ms_low"] <= row["ms"] <= row["ms_high"]


def test_the_text_is_aligned_and_says_how_each_cost_was_counted(
    finished: tuple[dict[str, Any], Path],
) -> None:
    report, run = finished
    assert json.loads((run / "compression" / "report.json").read_text()) == report
    lines = (run / "compression" / "table.txt").read_text().splitlines()
    rows = lines[: 1 + len(report["rows"])]
    assert {
        line.index("form" if at == 0 else row["form"])
        for at, (line, row) in enumerate(zip(rows, [{}, *report["rows"]], strict=True))
    } == {rows[0].index("form")}
    for score in ("cross", "late", "dense"):
        assert any(line.startswith(f"ms of {score}: ") for line in lines)
    assert lines[-1].startswith("Left out: unmade")


def test_without_a_teacher_the_table_says_that_no_share_is_known(
    workplace: Workplace, tmp_path: Path
) -> None:
    shutil.copytree(workplace.run / "prepared", tmp_path / "prepared")
    shutil.copy2(workplace.run / "encoder.pt", tmp_path / "encoder.pt")
    report = compression(workplace.recipe, tmp_path, rounds=1)
    assert [row["model"] for row in report["rows"]] == ["encoder"] * 4
    assert all("share_of_teacher" not in row for row in report["rows"])
    assert [one.split(":")[0] for one in report["missing"]] == ["teacher", "cross_small", "cross_large"]
    (tmp_path / "encoder.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"run `python -m training\.encoder` first"):
        compression(workplace.recipe, tmp_path, rounds=1)


def test_a_share_weighs_sets_alike() -> None:
    before = {"big": {str(at): 0.5 for at in range(90)}, "small": {"a": 1.0}}
    after = {"big": {str(at): 0.4 for at in range(90)}, "small": {"a": 0.9}}
    assert share_kept(after, before) == pytest.approx((0.8 + 0.9) / 2)


def test_judged_products_are_encoded_as_the_index_holds_them(workplace: Workplace) -> None:
    prepared = load_prepared(workplace.run)
    lists = judged_lists(workplace.recipe, prepared)
    products = judged_products(workplace.recipe, prepared, lists)
    encoder = load_encoder(workplace.run / "encoder.pt")
    encode = torch_encoder(encoder, Specials.of(prepared.tokenizer))
    vectors = product_vectors(workplace.recipe, lists, products, [encode])[0]
    assert set(vectors.dense) == {(one.set, key) for one in lists for key in one.product_ids}
    for key, row in products.dense.items():
        assert len(vectors.tokens[key]) == min(len(row), workplace.recipe.text.late_tokens_max)
        assert np.linalg.norm(vectors.dense[key]) == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(ValueError, match="no query of the split 'nosuch'"):
        judged_lists(workplace.recipe, prepared, "nosuch")
