from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from drills import traffic_surge


def test_noon_asks_as_many_times_as_much_as_night() -> None:
    day_s, quiet_per_s = 60.0, 20.0
    moments = list(
        itertools.takewhile(lambda s: s < day_s, traffic_surge.day_of(quiet_per_s, 10.0, day_s, seed=1))
    )

    def rate(from_s: float, until_s: float) -> float:
        return sum(from_s <= one < until_s for one in moments) / (until_s - from_s)

    assert rate(0.0, 3.0) == pytest.approx(quiet_per_s, rel=0.4)
    assert rate(57.0, 60.0) == pytest.approx(quiet_per_s, rel=0.4)
    assert rate(27.0, 33.0) == pytest.approx(10 * quiet_per_s, rel=0.15)
    # The mean is halfway between the two.
    assert len(moments) / day_s == pytest.approx(5.5 * quiet_per_s, rel=0.1)


def test_a_missing_bundle_is_inconclusive_with_every_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--json", "--bundle", str(tmp_path / "none"), "--journal", str(tmp_path / "journal")]
    assert traffic_surge.main(arguments) == 20
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"drill", "verdict", "reason", *traffic_surge.EMPTY}


def test_a_whole_core_needs_no_group() -> None:
    assert traffic_surge.limit_core(1, 1.0) is None
