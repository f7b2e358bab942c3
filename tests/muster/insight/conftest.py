"""One simulated shop, looked at once."""

from __future__ import annotations

import pytest

from muster.insight.analysis import Choice, Insight, analyse
from muster.insight.events import Events
from muster.insight.reading import Reader
from muster.insight.simulate import EXPERIMENT, Shop, Simulated, simulate

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
def insight(shop: Simulated, read: Events) -> Insight:
    texts = {row["product_id"]: f"{row['title']} {row['category']}" for row in shop.products.to_pylist()}
    choice = Choice(by_chance=[EXPERIMENT], texts=texts)
    return analyse(read, {}, choice, NOW_US, simulated=True)
