"""What the speed table says of one work fits together, whatever the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.speed import speed

BUNDLE = Path(__file__).resolve().parents[2] / "models/muster-base"


def test_shares_of_the_limit_stand_as_the_times_do() -> None:
    result = speed(BUNDLE, rounds=2, shapes=())
    assert {row["work"] for row in result["rows"]} == {"query", "products"}
    if result["limit_gops"] is None:
        pytest.skip("this processor has none of the instructions that the limit is measured with")
    for work in ("query", "products"):
        rows = [row for row in result["rows"] if row["work"] == work]
        done = [row["share"] * row["ms"] for row in rows]
        # The same work: half the time, twice the share. Shares are told to four digits.
        for row, one in zip(rows, done, strict=True):
            assert one == pytest.approx(done[0], abs=2e-4 * row["ms"])
            assert row["ms_low"] <= row["ms"] <= row["ms_high"]
        assert rows[0]["ratio"] is None
