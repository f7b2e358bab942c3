from __future__ import annotations

import pytest

from tests.simulation.mistakes import MISTAKES, Mistake
from tests.simulation.table import SEEDS, steps_until_caught


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_caught(mistake: Mistake) -> None:
    for steps in (3000, 20_000, 60_000):
        for seed in SEEDS:
            caught = steps_until_caught(mistake, seed, steps)
            if caught is not None:
                assert mistake.breach in caught[1]
                return
    pytest.fail("no seed of ten has caught it")
