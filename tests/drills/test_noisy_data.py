from __future__ import annotations

from pathlib import Path

import pytest

from drills import noisy_data
from drills.faults.feed import GOOD, MALFORMED, SUSPICIOUS, Row
from drills.noisy_data import _compared

ROWS = [Row(1, "A", GOOD), Row(2, "B", MALFORMED, "no_id"), Row(3, "C", SUSPICIOUS, "stuffed")]


def test_rows_that_the_loader_named_are_not_missed() -> None:
    told = [{"row": 2, "kind": "malformed"}, {"row": 3, "kind": "suspicious"}]
    compared = _compared(ROWS, told, 0, "")
    assert (compared["malformed_rows"], compared["suspicious_rows"]) == (1, 1)
    assert compared["missed"] == [] and compared["good_left_out"] == 0


def test_rows_named_as_something_else_and_good_ones_left_out_are_seen() -> None:
    compared = _compared(ROWS, [{"row": 2, "kind": "suspicious"}, {"row": 1, "kind": "malformed"}], 1, "why")
    assert (compared["malformed_missed"], compared["suspicious_missed"]) == (1, 1)
    assert compared["missed"] == ["2 (no_id)", "3 (stuffed)"]
    assert (compared["good_left_out"], compared["exit"], compared["complaint"]) == (1, 1, "why")


def test_a_feed_that_leaves_nothing_to_write_is_bad_usage(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        noisy_data.main(["--rows", "100", "--products", "100", "--journal", str(tmp_path)])
    assert ended.value.code == 2
