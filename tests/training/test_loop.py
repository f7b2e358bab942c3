"""Training goes on where it was killed, stops where it cannot go on, and says why."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training import shortrun
from training.data.batches import pair_batch
from training.loop import (
    CheckpointError,
    DeviceMemoryError,
    Drawn,
    LoopSettings,
    Outcome,
    ParameterGroup,
    chosen_device,
    chosen_precision,
    learning_share,
    train,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Line(nn.Module):
    """y = w x, from w = 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))


def fit(model: Line, settings: LoopSettings, batches: Any = (1.0, 2.0, 3.0, 4.0), **more: Any) -> Outcome:
    """Towards w = 2."""
    return train(
        model,
        batches,
        lambda x: (model.weight * x - 2.0 * x) ** 2,
        [ParameterGroup([model.weight], more.pop("rate", 0.1))],
        replace(settings, precision="off", device="cpu"),
        name="line",
        seed=3,
        **more,
    )


# -- killed and started again ------------------------------------------------------


@pytest.mark.parametrize("moment", ["step 1", "step 13", "write 3"])
def test_a_run_killed_at_any_step_ends_with_the_same_weights(tmp_path: Path, moment: str) -> None:
    whole, wanted, batches = shortrun.run(tmp_path / "whole")
    cut = tmp_path / "cut"
    died = subprocess.run(
        [sys.executable, "-m", "tests.training.shortrun", str(cut), moment],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()[-500:]
    assert (cut / "run.checkpoint").is_file() == (moment != "step 1")
    again, found, left = shortrun.run(cut)
    # Updates 1 to 12, or 1 to 4, of two batches each were not made again.
    assert batches - left == {"step 1": 0, "step 13": 24, "write 3": 8}[moment]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert found.curves == wanted.curves
    assert (found.best, found.best_step) == (wanted.best, wanted.best_step)
    assert (cut / "curves.jsonl").read_text() == (tmp_path / "whole" / "curves.jsonl").read_text()


def test_time_spent_before_a_kill_counts(tmp_path: Path) -> None:
    settings = LoopSettings(epochs=4, minutes_max=50.0, checkpoint_steps=4)
    path = tmp_path / "line.checkpoint"
    fit(Line(), settings, checkpoint=path)
    saved = torch.load(path, weights_only=True)
    torch.save(saved | {"minutes": 49.0, "step": 4}, path)
    model = Line()
    assert fit(model, settings, checkpoint=path).minutes >= 49.0
    torch.save(saved | {"minutes": 51.0, "step": 4}, path)
    assert fit(Line(), settings, checkpoint=path).stopped == "time"


def test_a_checkpoint_of_another_run_is_not_gone_on_from(tmp_path: Path) -> None:
    path = tmp_path / "line.checkpoint"
    fit(Line(), LoopSettings(checkpoint_steps=2), checkpoint=path)
    with pytest.raises(CheckpointError, match=r"setting weight_decay changed\): remove it"):
        fit(Line(), LoopSettings(checkpoint_steps=2, weight_decay=0.5), checkpoint=path)
    with pytest.raises(CheckpointError, match="recipe"):
        fit(Line(), LoopSettings(checkpoint_steps=2), checkpoint=path, about={"recipe": "other"})


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a zip"])
def test_a_broken_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "line.checkpoint"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"line\.checkpoint is not a checkpoint .*remove it"):
        fit(Line(), LoopSettings(), checkpoint=path)


def test_a_checkpoint_that_carries_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "line.checkpoint"
    torch.save({"format": 1, "about": Line()}, path)
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        fit(Line(), LoopSettings(), checkpoint=path)


# -- what goes wrong on the way ----------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_checkpoint(
    tmp_path: Path, value: float
) -> None:
    path, model, seen = tmp_path / "line.checkpoint", Line(), [0]

    def loss_of(x: float) -> Tensor:
        seen[0] += 1
        return (model.weight - x) ** 2 * (value if seen[0] == 6 else 1.0)

    with pytest.raises(FloatingPointError, match=f"teacher, fold 1: the loss is {value} at step 6"):
        train(
            model,
            [1.0, 2.0],
            loss_of,
            [ParameterGroup([model.weight], 0.1)],
            LoopSettings(epochs=5, precision="off", checkpoint_steps=2),
            name="teacher, fold 1",
            seed=3,
            checkpoint=path,
        )
    saved = torch.load(path, weights_only=True)
    assert saved["step"] == 4
    assert torch.isfinite(saved["weights"]["weight"])


def test_a_gradient_that_is_not_finite_never_reaches_the_weights() -> None:
    model = Line()
    with pytest.raises(FloatingPointError, match="a gradient is not finite at step 1"):
        train(
            model,
            [0.0],
            lambda x: torch.sqrt(model.weight * 1.0 + x),
            [ParameterGroup([model.weight], 0.1)],
            LoopSettings(precision="off"),
            name="root",
            seed=3,
        )
    assert model.weight.item() == 0.0


def test_a_full_disk_is_told_and_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, calls, real = tmp_path / "line.checkpoint", [0], os.fsync

    def full(handle: int) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    settings = LoopSettings(epochs=3, checkpoint_steps=2)
    whole = Line()
    fit(whole, settings)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match=r"step 4 cannot be written: the disk is full, 1 MiB are"):
            fit(Line(), settings, checkpoint=path)
    assert torch.load(path, weights_only=True)["step"] == 2
    assert list(tmp_path.iterdir()) == [path]
    model = Line()
    fit(model, settings, checkpoint=path)
    assert model.weight.item() == whole.weight.item()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_names_the_settings_to_lower(error: RuntimeError) -> None:
    model = Line()

    def loss_of(x: float) -> Tensor:
        raise error

    with pytest.raises(
        DeviceMemoryError, match=r"at step 1 .*group, random_products.*accumulate.*checkpointing"
    ):
        train(
            model,
            [1.0],
            loss_of,
            [ParameterGroup([model.weight], 0.1)],
            LoopSettings(precision="off"),
            name="line",
            seed=3,
        )


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes do not"):
        model = Line()
        train(
            model,
            [1.0],
            lambda _: (_ for _ in ()).throw(RuntimeError("shapes do not fit")),
            [ParameterGroup([model.weight], 0.1)],
            LoopSettings(precision="off"),
            name="line",
            seed=3,
        )


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(ValueError, match="line: there is nothing to train on"):
        fit(Line(), LoopSettings(), batches=[])


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("epochs", 0, "epochs must be at least 1"),
        ("accumulate", 0, "accumulate"),
        ("steps", -1, "steps"),
        ("dropout", 1.0, "dropout must be at least 0 and below 1"),
        ("warm_up", math.nan, "warm_up"),
        ("weight_decay", math.inf, "weight_decay"),
        ("precision", "fp8", "precision must be one of off, auto, bf16, fp16"),
        ("device", "tpu", "device must be one of"),
    ],
)
def test_a_setting_out_of_range_is_named(setting: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoopSettings(**{setting: value})


# -- what training does ------------------------------------------------------------


def test_a_line_is_found() -> None:
    model = Line()
    outcome = fit(model, LoopSettings(epochs=60, weight_decay=0.0))
    assert model.weight.item() == pytest.approx(2.0, abs=0.02)
    assert (outcome.steps, outcome.stopped, outcome.parameters) == (240, "finished", 1)
    assert not model.training


def test_gradients_of_accumulated_batches_are_averaged() -> None:
    # d/dw (w x - 2 x)^2 at w = 0 is -4 x^2.
    model = Line()
    outcome = fit(model, LoopSettings(accumulate=2, warm_up=0.0, clip_norm=0.0), batches=[1.0, 3.0])
    assert outcome.steps == 1
    assert model.weight.grad is not None
    assert model.weight.grad.item() == pytest.approx(-4 * (1.0 + 9.0) / 2)


def test_the_last_update_has_the_batches_that_are_left_at_their_own_mean() -> None:
    model = Line()
    settings = LoopSettings(accumulate=2, warm_up=0.0, clip_norm=0.0)
    outcome = fit(model, settings, batches=[1.0, 1.0, 1.0], rate=0.0)
    assert outcome.steps == 2
    assert model.weight.grad is not None
    assert model.weight.grad.item() == pytest.approx(-4.0)


def test_the_gradient_is_cut_to_the_clip_norm() -> None:
    model = Line()
    fit(model, LoopSettings(clip_norm=0.5, warm_up=0.0), batches=[3.0])
    assert model.weight.grad is not None
    assert model.weight.grad.item() == pytest.approx(-0.5, rel=1e-4)


def test_the_learning_rate_rises_and_falls() -> None:
    shares = [learning_share(at / 100, 0.1) for at in range(101)]
    assert shares[0] == 0.0 and shares[5] == pytest.approx(0.5)
    assert max(shares) == shares[10] == 1.0
    assert shares[55] == pytest.approx(0.5) and shares[100] == pytest.approx(0.0)
    assert learning_share(0.0, 0.0) == 1.0


def test_weight_decay_pulls_weights_towards_0() -> None:
    ends = []
    for decay in (0.0, 5.0):
        model = Line()
        fit(model, LoopSettings(epochs=60, weight_decay=decay))
        ends.append(abs(model.weight.item()))
    assert ends[1] < ends[0]


def test_steps_go_round_the_batches_as_often_as_needed() -> None:
    seen: list[float] = []
    model = Line()

    def loss_of(x: float) -> Tensor:
        seen.append(x)
        return (model.weight - x) ** 2

    train(
        model,
        [1.0, 2.0, 3.0],
        loss_of,
        [ParameterGroup([model.weight], 0.1)],
        LoopSettings(steps=7, precision="off"),
        name="line",
        seed=3,
    )
    assert len(seen) == 7
    assert sorted(seen[:3]) == sorted(seen[3:6]) == [1.0, 2.0, 3.0]


def test_drawn_batches_do_not_depend_on_the_ones_before() -> None:
    drawn = Drawn(5, lambda chooser: torch.rand(2, generator=chooser), seed=4)
    forwards = [drawn[at] for at in range(5)]
    assert all(torch.equal(forwards[at], drawn[at]) for at in (3, 0, 4))
    assert len({one[0].item() for one in forwards}) == 5
    with pytest.raises(IndexError):
        drawn[5]


def test_training_stops_when_dev_no_longer_gets_better_and_keeps_the_best() -> None:
    figures = iter([0.1, 0.5, 0.4, 0.3, 0.9])
    weights: list[float] = []
    model = Line()

    def evaluate() -> dict[tuple[str, str], float]:
        weights.append(model.weight.item())
        return {("dev", "ndcg10"): next(figures)}

    outcome = fit(
        model,
        LoopSettings(epochs=20, evaluate_steps=2, patience=2),
        evaluate=evaluate,
        watch=("dev", "ndcg10"),
    )
    assert (outcome.stopped, outcome.steps, outcome.best, outcome.best_step) == ("early", 6, 0.5, 2)
    assert model.weight.item() == weights[1] != weights[-1]
    assert [value for _, split, _, value in outcome.curves if split == "dev"] == [0.1, 0.5, 0.4, 0.3]


def test_patience_without_a_figure_is_refused() -> None:
    with pytest.raises(ValueError, match="patience needs a figure"):
        fit(Line(), LoopSettings(patience=1))


def test_dropout_is_on_in_training_alone_and_taken_back_afterwards() -> None:
    model = nn.Sequential(nn.Linear(2, 1), nn.Dropout(0.0))
    rates: list[float] = []

    def loss_of(x: float) -> Tensor:
        rates.append(model[1].p)  # type: ignore[arg-type]
        return model(torch.tensor([x, x])).sum()  # type: ignore[no-any-return]

    train(
        model,
        [1.0],
        loss_of,
        [ParameterGroup(list(model.parameters()), 0.1)],
        LoopSettings(dropout=0.4, precision="off"),
        name="line",
        seed=3,
    )
    assert rates == [0.4] and model[1].p == 0.0


def test_recomputing_layers_changes_no_gradient() -> None:
    found = []
    query, products, _ = shortrun.small_steps(1)[0]
    for recompute in (False, True):
        model = shortrun.small_cross().train()
        model.stack.checkpointing = recompute
        model(*pair_batch(query, products, shortrun.SPECIALS)).sum().backward()
        found.append([one.grad for one in model.parameters() if one.grad is not None])
    assert len(found[0]) == len(found[1])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_a_model_that_cannot_recompute_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot recompute its layers"):
        fit(Line(), LoopSettings(checkpointing=True))


def test_half_precision_trains_too() -> None:
    model = shortrun.small_cross()
    before = model.head.weight.clone()
    outcome = train(
        model,
        shortrun.small_steps(3),
        lambda step: shortrun.loss_of(model, step),
        [ParameterGroup(list(model.parameters()), 0.01)],
        LoopSettings(precision="bf16", device="cpu"),
        name="half",
        seed=3,
    )
    assert outcome.precision == "bf16"
    assert model.head.weight.dtype == torch.float32
    assert not torch.equal(before, model.head.weight)


def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chosen_device("auto").type == "cuda" and chosen_device("cpu").type == "cpu"
    for supported, wanted in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported, **_: supported)
        assert chosen_precision("auto", torch.device("cuda")) == wanted
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device("auto").type == "cpu"
    with pytest.raises(ValueError, match="no CUDA GPU"):
        chosen_device("cuda")


def test_a_cpu_takes_bf16_by_itself_only_where_it_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for supported, wanted in ((True, "bf16"), (False, "off")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda supported=supported: supported)
        assert chosen_precision("auto", torch.device("cpu")) == wanted
    with pytest.raises(ValueError, match="needs a CUDA GPU"):
        chosen_precision("fp16", torch.device("cpu"))


def test_curves_of_a_run_are_written_as_it_goes(tmp_path: Path) -> None:
    shortrun.run(tmp_path)
    points = [json.loads(line) for line in (tmp_path / "curves.jsonl").read_text().splitlines()]
    assert {(one["split"], one["name"]) for one in points} == {
        ("train", "short/loss"),
        ("dev", "short/margin"),
    }
    assert [one["step"] for one in points if one["split"] == "dev"] == [0, 3, 6, 9, 12, 14]
