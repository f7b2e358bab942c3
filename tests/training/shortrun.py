"""A training run of a second or two that uses everything the loop can save, to be killed or not.

`python -m tests.training.shortrun FOLDER MOMENT`: trains with a checkpoint in FOLDER and kills itself, with
SIGKILL, at MOMENT: "step N" (in the middle of update N) or "write N" (while its Nth checkpoint is written).
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.data.batches import Specials, pair_batch
from training.loop import LoopSettings, Outcome, ParameterGroup, train
from training.losses import pairwise_logistic
from training.models.networks import CrossEncoder, Shape
from training.tracking import JsonLines, Tracker

SPECIALS = Specials(0, 1, 2)
SETTINGS = LoopSettings(
    epochs=3,
    accumulate=2,
    dropout=0.2,
    precision="off",
    checkpointing=True,
    evaluate_steps=3,
    checkpoint_steps=2,
)
Step = tuple[list[int], list[list[int]], list[float]]


def small_cross() -> CrossEncoder:
    """The same cross-encoder each time, with random weights."""
    torch.manual_seed(11)
    return CrossEncoder(Shape(layers=2, width=16, heads=2, inner=24, vocabulary=40, positions=24))


def small_steps(count: int = 9) -> list[Step]:
    """Queries of three pieces, each with four products."""
    chooser = np.random.default_rng(12)

    def pieces(length: int) -> list[int]:
        return [int(one) for one in chooser.integers(3, 40, size=length)]

    return [(pieces(3), [pieces(5) for _ in range(4)], [1.0, 0.3, 0.0, 0.0]) for _ in range(count)]


def loss_of(model: CrossEncoder, step: Step) -> Tensor:
    """Pairwise; it draws from every generator there is, so that one that is not restored shows."""
    query, products, targets = step
    noise = random.random() + float(np.random.default_rng(np.random.randint(99)).random())
    scores = model(*pair_batch(query, products, SPECIALS))
    return pairwise_logistic(scores, torch.tensor(targets)) * (1.0 + 0.01 * noise)


def run(folder: Path, moment: str = "") -> tuple[CrossEncoder, Outcome, int]:
    """Train, or go on; die at the moment. Returns: model, outcome, batches seen by this call."""
    folder.mkdir(exist_ok=True)
    what, _, number = moment.partition(" ")
    random.seed(1)
    np.random.seed(1)
    model, steps, seen = small_cross(), small_steps(), [0]
    real_sync = os.fsync
    written = [0]

    def die_while_writing(fd: Any) -> None:
        written[0] += 1
        if written[0] == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        real_sync(fd)

    if what == "write":
        os.fsync = die_while_writing

    def of(step: Step) -> Tensor:
        seen[0] += 1
        if what == "step" and seen[0] == 2 * int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return loss_of(model, step)

    def evaluate() -> dict[tuple[str, str], float]:
        random.random()  # an evaluation that draws must not disturb training
        torch.rand(3)
        margin = [model(*pair_batch(query, products, SPECIALS)).tolist() for query, products, _ in steps[:2]]
        return {("dev", "margin"): sum(one[0] - one[-1] for one in margin)}

    heads = [model.head.weight, model.head.bias, model.mix]
    groups = [
        ParameterGroup(list(model.stack.parameters()), 0.01),
        ParameterGroup(heads, 0.02, clipped=False),
    ]
    outcome = train(
        model,
        steps,
        of,
        groups,
        SETTINGS,
        name="short run",
        seed=5,
        checkpoint=folder / "run.checkpoint",
        evaluate=evaluate,
        watch=("dev", "margin"),
        tracker=Tracker([JsonLines(folder / "curves.jsonl", "short")]),
    )
    return model, outcome, seen[0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), sys.argv[2])
