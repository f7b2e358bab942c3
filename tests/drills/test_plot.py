from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colors, image

from drills.journal import History
from drills.plot import ERROR_COLOUR, FAULT_COLOUR, TIER_COLOURS, timeline
from muster.v1 import ranking_pb2


def read(moment_s: float, tier: str, status: str = "OK") -> dict[str, Any]:
    fields = {"tier": tier} if status == "OK" else {}
    done_s = moment_s + 0.01
    return {"kind": "read", "intended_s": moment_s, "done_s": done_s, "status": status, **fields}


def drawn(picture: Path, colour: str) -> int:
    """How many pixels of the picture have exactly this colour."""
    pixels = (image.imread(picture)[..., :3] * 255).round().astype(int)
    wanted = (np.array(colors.to_rgb(colour)) * 255).round().astype(int)
    return int((np.abs(pixels - wanted).max(axis=-1) <= 1).sum())


def test_every_tier_of_the_contract_has_a_colour_of_its_own() -> None:
    names = {name.removeprefix("TIER_").lower() for name, _ in ranking_pb2.Tier.items()} - {"unspecified"}
    assert set(TIER_COLOURS) == names
    assert len({*TIER_COLOURS.values(), ERROR_COLOUR, FAULT_COLOUR}) == len(names) + 2


def test_tiers_errors_and_the_fault_appear_in_their_colours(tmp_path: Path) -> None:
    reads = [read(0.02 * n, "late" if n < 100 else "lexical") for n in range(200)]
    reads += [read(2.0 + 0.01 * n, "", status="UNAVAILABLE") for n in range(50)]
    fault = {"kind": "fault", "at_s": 2.0, "fault": "kill", "replica": "a"}
    rollback = {"kind": "rollback", "at_s": 3.0}
    with_fault = timeline(
        History((*reads, fault, rollback)), tmp_path / "deep" / "run.png", title="t", deadline_ms=50
    )
    assert drawn(with_fault, TIER_COLOURS["late"]) > 100
    assert drawn(with_fault, TIER_COLOURS["lexical"]) > 100
    assert drawn(with_fault, ERROR_COLOUR) > 100
    assert drawn(with_fault, TIER_COLOURS["cross_small"]) == 0


@pytest.mark.parametrize("records", [(), ({"kind": "fault", "at_s": 0.5, "fault": "kill"},)])
def test_a_history_without_requests_still_gives_a_picture(tmp_path: Path, records: Any) -> None:
    path = timeline(History(records), tmp_path / "run.png", title="nothing")
    assert image.imread(path).shape[0] > 100


def test_writes_get_a_panel_of_their_own(tmp_path: Path) -> None:
    reads = [read(0.1 * n, "late") for n in range(20)]
    writes = [
        {"kind": "write", "intended_s": 0.1 * n, "done_s": 0.1 * n, "status": "OK" if n else "Unavailable"}
        for n in range(20)
    ]
    without = image.imread(timeline(History(tuple(reads)), tmp_path / "a.png", title="reads"))
    beside = image.imread(timeline(History((*reads, *writes)), tmp_path / "b.png", title="both"))
    assert beside.shape[0] > without.shape[0]
