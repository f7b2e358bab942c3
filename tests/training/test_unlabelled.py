"""The adapted encoder learns, keeps folds apart, and is never mistaken for that of another recipe."""

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
from training.data.folds import fold_of
from training.data.mining import Pool
from training.data.tables import ClassText
from training.encoder import train_encoder
from training.models.networks import Encoder, load_encoder
from training.prepare import load_prepared
from training.recipe import PartRecipe, Recipe, RecipeError, UnlabelledRecipe
from training.unlabelled import (
    Examples,
    Learner,
    Step,
    ablation,
    adapted_stack,
    compared,
    ensemble,
    learn_unlabelled,
    loose_texts,
    start_stack,
)
from training.vectors import encode

PARTS = ("structure", "synthetic", "pseudo", "masked", "dropout", "labels")


def with_parts(recipe: Recipe, *names: str, steps: int = 2, **settings: Any) -> Recipe:
    """The tiny recipe with parts switched on; its queries also count as an unlabelled set."""
    parts = {name: PartRecipe(steps) for name in names}
    # A limit in minutes lets the clock have a say in the learning rate: no two runs would be alike.
    chosen = UnlabelledRecipe(
        **parts,  # type: ignore[arg-type]
        batch=4,
        learning_rate=1e-3,
        keep_share=0.25,
        minutes_max=0.0,
        precision="off",
    )
    shop = recipe.data[0]
    texts = replace(shop, name="texts", role="queries", targets={})
    return replace(
        recipe,
        data=[shop, texts],
        unlabelled=replace(chosen, **settings),
    )


@pytest.fixture
def run(workplace: Workplace, tmp_path: Path) -> Path:
    """A prepared run folder of its own, with the judged queries once more as texts without labels."""
    folder = tmp_path / "run"
    shutil.copytree(workplace.run / "prepared", folder / "prepared")
    path = folder / "prepared" / "judgements.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps(rows + [row | {"set": "texts", "gains": {}} for row in rows]))
    torch.set_num_threads(1)
    return folder


def no_note(_: str) -> None:
    pass


def examples_of(recipe: Recipe, run: Path, fold: int | None) -> Examples:
    prepared = load_prepared(run)
    pool = Pool(recipe, prepared, held_out=0.2)
    return Examples(recipe, prepared, pool, fold, loose_texts(recipe, prepared, run), {})


def test_with_every_part_off_nothing_is_written_and_the_encoder_is_the_pretrained_one(
    workplace: Workplace, run: Path
) -> None:
    assert learn_unlabelled(workplace.recipe, run, no_note) == []
    assert adapted_stack(workplace.recipe, load_prepared(run), run, None) is None
    assert not list(run.glob("*.pt"))


def test_all_parts_together_write_an_encoder_for_each_fold_and_one_that_ships(
    workplace: Workplace, run: Path
) -> None:
    recipe = with_parts(workplace.recipe, *PARTS)
    files = learn_unlabelled(recipe, run, no_note)
    assert [path.name for path in files] == ["adapted-fold0.pt", "adapted-fold1.pt", "adapted.pt"]
    report = json.loads((run / "unlabelled" / "report.json").read_text())
    for name in ("fold 0", "fold 1", "all"):
        curves = report["encoders"][name]["curves"]
        assert {step for step, split, _, _ in curves if split == "dev"} >= {0, 2 * len(PARTS)}
        for split in ("train", "dev"):
            assert {part for _, of, part, _ in curves if of == split} >= set(PARTS)
    for score in ("dense", "late"):
        told = report["judged_out_of_fold"][score]["shop"]
        assert told["low"] <= told["difference"] <= told["high"]
        assert told["after"]["ndcg10"] - told["before"]["ndcg10"] == pytest.approx(
            told["difference"], abs=2e-4
        )
    # The encoder stage takes the adapted stacks, fold by fold.
    train_encoder(recipe, run)
    for fold in (0, 1, None):
        name = "encoder.pt" if fold is None else f"encoder-fold{fold}.pt"
        stack = adapted_stack(recipe, load_prepared(run), run, fold)
        assert stack is not None
        written = load_encoder(run / name).stack.state_dict()
        for key, value in stack.state_dict().items():
            assert torch.equal(written[key], value), (name, key)


def test_what_is_written_is_the_average_with_the_pretrained_weights(workplace: Workplace, run: Path) -> None:
    def moved(keep_share: float) -> torch.Tensor:
        recipe = with_parts(workplace.recipe, "synthetic", keep_share=keep_share)
        learn_unlabelled(recipe, run, no_note)
        prepared = load_prepared(run)
        stack = adapted_stack(recipe, prepared, run, None)
        assert stack is not None
        start = start_stack(recipe, prepared).state_dict()
        return torch.cat([(value - start[key]).flatten() for key, value in stack.state_dict().items()])

    whole, kept = moved(0.0), moved(0.75)
    assert whole.abs().max() > 1e-4
    torch.testing.assert_close(kept, 0.25 * whole, atol=1e-6, rtol=1e-3)


def test_a_fold_never_meets_the_labels_of_its_own_queries(workplace: Workplace, run: Path) -> None:
    recipe = with_parts(workplace.recipe, "labels")
    prepared = load_prepared(run)
    for fold in (0, 1):
        examples = examples_of(recipe, run, fold)
        own = {
            tuple(examples.pool.asked(query.text)): fold_of("shop", query.query_id, recipe.folds, recipe.seed)
            for query in prepared.of("shop", "train")
        }
        for held_out in (False, True):
            chooser = np.random.default_rng(1)
            batches = [examples.batch("labels", chooser, held_out=held_out) for _ in range(30)]
            seen = {tuple(one.query) for batch in batches for one in batch}
            assert seen
            assert {own[query] == fold for query in seen} == {held_out}


def test_without_labels_no_judged_query_text_is_read(workplace: Workplace, run: Path) -> None:
    recipe = replace(with_parts(workplace.recipe, "dropout"), data=workplace.recipe.data)
    path = run / "prepared" / "judgements.json"
    rows = [row for row in json.loads(path.read_text()) if row["set"] == "shop"]
    path.write_text(json.dumps([row | {"text": "zzzzz"} for row in rows]))
    examples = examples_of(recipe, run, None)
    hidden = examples.pool.asked("zzzzz")
    chooser = np.random.default_rng(1)
    for _ in range(20):
        assert hidden not in examples.texts(chooser, held_out=False)


@pytest.mark.parametrize("part", ["structure", "synthetic", "labels", "masked"])
def test_each_loss_falls_on_examples_that_it_is_shown_again(
    workplace: Workplace, run: Path, part: str
) -> None:
    recipe = with_parts(workplace.recipe, part)
    examples = examples_of(recipe, run, None)
    stack = start_stack(recipe, examples.prepared)
    encoder = Encoder(stack.shape, 4)
    encoder.stack = stack
    learner = Learner(recipe, encoder, examples)
    optimiser = torch.optim.AdamW([*learner.body, *learner.head], lr=1e-3)
    losses = []
    for _ in range(12):
        loss = learner.loss(Step(part, 3), held_out=False)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_only_the_chosen_layers_learn_and_the_words_never_do(workplace: Workplace, run: Path) -> None:
    recipe = with_parts(workplace.recipe, "synthetic", layers=1, keep_share=0.0)
    learn_unlabelled(recipe, run, no_note)
    prepared = load_prepared(run)
    stack = adapted_stack(recipe, prepared, run, None)
    assert stack is not None
    start = start_stack(recipe, prepared).state_dict()
    changed = {key for key, value in stack.state_dict().items() if not torch.equal(value, start[key])}
    assert changed
    assert all(key.startswith("layers.1.") for key in changed)


def test_what_was_made_with_these_settings_is_not_made_again_and_with_others_is(
    workplace: Workplace, run: Path
) -> None:
    recipe = with_parts(workplace.recipe, "synthetic")
    path = learn_unlabelled(recipe, run, no_note)[0]
    first = path.stat().st_mtime_ns
    learn_unlabelled(recipe, run, no_note)
    assert path.stat().st_mtime_ns == first
    other = with_parts(workplace.recipe, "synthetic", temperature=0.1)
    with pytest.raises(RecipeError, match=r"made with another recipe.*training\.unlabelled"):
        adapted_stack(other, load_prepared(run), run, None)
    learn_unlabelled(other, run, no_note)
    assert path.stat().st_mtime_ns > first
    assert adapted_stack(other, load_prepared(run), run, None) is not None


def test_the_encoder_names_the_stage_that_it_misses(workplace: Workplace, run: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"python -m training\.unlabelled"):
        train_encoder(with_parts(workplace.recipe, "synthetic"), run)


def test_the_same_seed_gives_the_same_encoder(workplace: Workplace, run: Path, tmp_path: Path) -> None:
    recipe = with_parts(workplace.recipe, "synthetic", "masked", "dropout")
    found = []
    for name in ("a", "b"):
        shutil.copytree(run / "prepared", tmp_path / name / "prepared")
        learn_unlabelled(recipe, tmp_path / name, no_note)
        found.append(torch.load(tmp_path / name / "adapted.pt", weights_only=True)["state"])
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_an_ablation_measures_each_part_and_all_and_writes_no_encoder(
    workplace: Workplace, run: Path
) -> None:
    told = ablation(with_parts(workplace.recipe, "synthetic", "labels", steps=1), run, no_note)
    assert list(told) == ["synthetic", "labels", "all"]
    assert told == json.loads((run / "unlabelled" / "ablation.json").read_text())
    assert len(told["synthetic"]["curves"]) == 1 and len(told["labels"]["curves"]) == 2
    assert not list(run.glob("adapted*.pt"))


def test_a_difference_inside_the_noise_is_marked(workplace: Workplace) -> None:
    before = {score: {"shop": {str(q): 0.5 for q in range(9)}} for score in ("dense", "late")}
    better = {score: {"shop": {str(q): 0.6 for q in range(9)}} for score in ("dense", "late")}
    assert compared(workplace.recipe, before, before)["dense"]["shop"]["inside_noise"] is True
    told = compared(workplace.recipe, before, better)["late"]["shop"]
    assert told["inside_noise"] is False
    assert told["difference"] == pytest.approx(0.1)


def test_the_ensemble_weighs_rankers_alike_whatever_their_scale() -> None:
    first = np.array([3.0, 2.0, 1.0], dtype=np.float32)
    np.testing.assert_allclose(ensemble([first, 1000 * first]), ensemble([first]), rtol=1e-5)
    level = np.array([5.0, 5.0, 5.0], dtype=np.float32)
    np.testing.assert_allclose(ensemble([first, level]), 0.5 * ensemble([first]), rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep_share": 1.0}, r"unlabelled\.keep_share must be at least 0 and below 1, not 1\.0"),
        ({"temperature": 0.0}, r"unlabelled\.temperature must be above 0"),
        ({"batch": 1}, r"unlabelled\.batch must be at least 2"),
        ({"precision": "int8"}, r"unlabelled\.precision must be one of off, auto"),
    ],
)
def test_settings_that_cannot_be_learnt_with_are_named(
    workplace: Workplace, run: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        learn_unlabelled(with_parts(workplace.recipe, "synthetic", **settings), run, no_note)


def test_a_loss_that_is_no_number_stops_the_run(workplace: Workplace, run: Path) -> None:
    recipe = with_parts(workplace.recipe, "synthetic", learning_rate=1e30, warm_up=0.0, steps=4)
    with pytest.raises(FloatingPointError, match="adapting: the loss is nan at step"):
        learn_unlabelled(recipe, run, no_note)
    assert not (run / "adapted.pt").exists()


def test_a_killed_run_goes_on_and_ends_with_the_same_encoder(
    workplace: Workplace, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = with_parts(workplace.recipe, "synthetic", "masked", steps=4, checkpoint_steps=3)
    shutil.copytree(run / "prepared", tmp_path / "whole" / "prepared")
    learn_unlabelled(recipe, tmp_path / "whole", no_note)
    step, made = Learner.step, 0

    def killed(learner: Learner, one: Step) -> torch.Tensor:
        nonlocal made
        made += 1
        if made == 6:
            raise KeyboardInterrupt
        return step(learner, one)

    monkeypatch.setattr(Learner, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        learn_unlabelled(recipe, run, no_note)
    assert not (run / "adapted.pt").exists()
    learn_unlabelled(recipe, run, no_note)
    # Eight steps, five before the kill, three of which the checkpoint holds.
    assert made == 6 + 5
    found = [torch.load(one / "adapted.pt", weights_only=True)["state"] for one in (tmp_path / "whole", run)]
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_the_word_table_learns_only_where_it_is_asked_to(workplace: Workplace, run: Path) -> None:
    recipe = with_parts(workplace.recipe, "masked", train_words=True, keep_share=0.0)
    learn_unlabelled(recipe, run, no_note)
    prepared = load_prepared(run)
    stack = adapted_stack(recipe, prepared, run, None)
    assert stack is not None
    assert not torch.equal(stack.words.weight, start_stack(recipe, prepared).words.weight)


def test_classed_texts_are_read_without_their_class_and_only_those_of_training(
    workplace: Workplace, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [
        ClassText("news", str(number), split, text, label)
        for number, (split, text, label) in enumerate(
            [("train", "one", "a"), ("unlabelled", "two", None), ("dev", "three", "a"), ("test", "four", "b")]
        )
    ]
    monkeypatch.setattr("training.unlabelled.load_classes", lambda _: texts)
    found = loose_texts(workplace.recipe, load_prepared(run), run)
    assert {"one", "two"} <= set(found)
    assert not {"three", "four"} & set(found)


def test_dense_vectors_stay_where_they_were_while_late_interaction_learns(
    workplace: Workplace, run: Path
) -> None:
    def moved(stay_weight: float) -> float:
        settings: dict[str, Any] = {"keep_share": 0.0, "dense_weight": 0.0, "stay_weight": stay_weight}
        recipe = with_parts(workplace.recipe, "labels", steps=8, **settings)
        learn_unlabelled(recipe, run, no_note)
        examples = examples_of(recipe, run, None)
        found = []
        for stack in (adapted_stack(recipe, examples.prepared, run, None), None):
            encoder = Encoder(start_stack(recipe, examples.prepared).shape, 1)
            encoder.stack = stack or start_stack(recipe, examples.prepared)
            rows = dict(list(examples.pool.rows.items())[:50])
            found.append(encode(encoder, rows, examples.pool.specials, projected=False, tokens=False).dense)
        return float((1.0 - (found[0] * found[1]).sum(1)).mean())

    free, held = moved(0.0), moved(50.0)
    assert free > 1e-4
    assert held < 0.5 * free
