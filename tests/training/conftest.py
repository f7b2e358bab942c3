"""One small training run that all tests of this folder look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.training.tiny import write_workplace
from training.distil import distil
from training.encoder import train_encoder
from training.export import write_draft
from training.prepare import prepare
from training.quantise import quantise
from training.recipe import Recipe
from training.teacher import train_teachers


@dataclass(frozen=True)
class Workplace:
    """A recipe, its data and the run folder after the draft was exported."""

    recipe: Recipe
    data: Path
    run: Path


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    folder = tmp_path_factory.mktemp("training")
    recipe = write_workplace(folder)
    data, run = folder / "data", folder / "run"
    torch.set_num_threads(1)
    prepare(recipe, data, run)
    train_encoder(recipe, run)
    train_teachers(recipe, run)
    distil(recipe, run)
    quantise(recipe, run)
    write_draft(recipe, run)
    return Workplace(recipe, data, run)
