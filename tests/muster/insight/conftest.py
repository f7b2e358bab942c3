"""One simulated shop, looked at once."""

from __future__ import annotations

import pytest

from muster.insight.analysis import Insight
from muster.insight.events import Events
from muster.insight.reading import Reader
from muster.insight.simulate import Shop, Simulated, simulate
from muster.insight.trial import looked_at

NOW_US = 1_800_000_000_000_000


@pytest.fixture(scope="session")
def shop() -> Simulated:
    return simulate(Shop(), seed=3)


@pytest.fixture(scope="session")
def read(shop: Simulated) -> Events:
    reader = Reader()
    reader.batches(shop.events.to_batches(), "events")
    return reader.events()


@pytest.fixture(scope="session")
def insight(shop: Simulated) -> Insight:
    return looked_at(shop)
