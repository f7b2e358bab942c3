"""The budget that is left of a call, as the front tells it."""

from __future__ import annotations

from typing import Any

import pytest

from server.admission import DEADLINE_KEY, Budget

NOW_US = 1_700_000_000
DEFAULT_US = 200_000
MAX_US = 10_000_000


class Context:
    def __init__(self, deadline_us: int | None) -> None:
        self._metadata = (("other", "x"),) if deadline_us is None else ((DEADLINE_KEY, str(deadline_us)),)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata


@pytest.mark.parametrize(
    ("deadline_us", "default_us", "expected_us"),
    [
        (None, None, DEFAULT_US),
        (None, 5_000_000, 5_000_000),
        (None, 3_600_000_000, MAX_US),
        (NOW_US + 50_000, None, 50_000),
        (NOW_US + 50_000, 5_000_000, 50_000),
        (NOW_US, None, 0),
        (NOW_US - 100_000, None, -100_000),
        (NOW_US + 3_600_000_000, None, MAX_US),
    ],
)
def test_what_the_front_tells_counts_and_else_the_default(
    deadline_us: int | None, default_us: int | None, expected_us: int
) -> None:
    budget = Budget(default_us=DEFAULT_US, max_us=MAX_US, now_monotonic_us=lambda: NOW_US)
    context: Any = Context(deadline_us)
    assert budget.remaining_us(context, default_us) == expected_us
