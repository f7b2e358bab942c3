"""Groups are told where there are some, and only there."""

from __future__ import annotations

import numpy as np

from muster.insight.events import Events, with_sessions
from muster.insight.segments import segments
from muster.insight.simulate import Simulated
from tests.muster.insight.event_rows import AT_US, events, row


def _touched(theme_of: np.ndarray, rng: np.random.Generator) -> Events:
    rows = [
        row("click", person, product_id=f"{theme}-{int(rng.integers(6))}", at_unix_us=AT_US + at)
        for person, theme in enumerate(theme_of)
        for at in range(6)
    ]
    return with_sessions(events(rows))


def test_shoppers_who_all_do_the_same_are_one_group() -> None:
    rng = np.random.default_rng(5)
    found = segments(_touched(np.zeros(150, dtype=int), rng), {}, 10, seed=1)
    assert not found.rows
    assert "No groups can be told apart" in found.note


def test_without_words_the_products_name_the_groups() -> None:
    rng = np.random.default_rng(6)
    found = segments(_touched(np.arange(200) % 2, rng), {}, 10, seed=1)
    assert len(found.rows) == 2
    assert [one["count"] for one in found.rows] == [100, 100]
    assert {one["words"][0] for one in found.rows} == {"0", "1"}


def test_few_shoppers_are_not_grouped(shop: Simulated) -> None:
    found = segments(_touched(np.arange(40) % 2, np.random.default_rng(7)), {}, 10, seed=1)
    assert not found.rows
    assert "it takes 100" in found.note
