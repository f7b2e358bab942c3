from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colors, image

from drills.journal import History
from drills.plot import (
    ERROR_COLOUR,
    FAULT_COLOUR,
    LOAD_COLOURS,
    TIER_COLOURS,
    load_colours,
    quality_curve,
    spaced,
    timeline,
)
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


def test_every_tier_of_a_search_has_a_colour_of_its_own() -> None:
    searched = range(ranking_pb2.TIER_LEXICAL, ranking_pb2.TIER_CROSS_LARGE + 1)
    names = {ranking_pb2.Tier.Name(number).removeprefix("TIER_").lower() for number in searched}
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


def curve(rounds: int, measured: bool) -> dict[str, Any]:
    cells: list[dict[str, Any]] = []
    for load, median in ((0.2, 0.9), (2.0, 0.5)):
        share = {"median": median, "min": median - 0.1, "max": median + 0.1}
        quality = {"measured_quality": share if measured else None, "expected_quality": share}
        cells += [{"load": load, "deadline_ms": deadline_ms, **quality} for deadline_ms in (5.0, 50.0)]
    # A load that nothing is known of gets no line.
    cells += [{"load": 9.0, "deadline_ms": 5.0, "measured_quality": None, "expected_quality": None}]
    return {
        "measured": measured,
        "loads": [0.2, 2.0, 9.0],
        "deadlines_ms": [5.0, 50.0],
        "cells": cells,
        "bundle": "b-1",
        "products": 1000,
        "catalogue": "esci",
        "best_plan": {"plan": "late@50", "measured_ndcg": 0.6 if measured else None},
        "capacity_per_s": 100.0,
        "rounds": rounds,
    }


@pytest.mark.parametrize(("rounds", "measured"), [(1, False), (3, True)])
def test_the_curve_has_one_line_a_load_in_its_own_colour(rounds: int, measured: bool, tmp_path: Path) -> None:
    picture = quality_curve(curve(rounds, measured), tmp_path / "deep" / "curve.png")
    for colour in load_colours(2):
        assert drawn(picture, colour) > 100


def test_a_curve_of_nothing_still_gives_a_picture(tmp_path: Path) -> None:
    nothing = {**curve(1, False), "cells": []}
    assert image.imread(quality_curve(nothing, tmp_path / "curve.png")).shape[0] > 100


def test_loads_have_as_many_colours_as_there_are() -> None:
    assert [len(set(load_colours(count))) for count in (0, 1, 2, 6, 9)] == [0, 1, 2, 6, 9]
    assert load_colours(6) == [colour.lower() for colour in LOAD_COLOURS]


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([], []),
        ([0.5], [0.5]),
        ([0.2, 0.8], [0.2, 0.8]),
        ([0.5, 0.5], [0.55, 0.45]),
        ([0.5, 0.52, 0.9], [0.46, 0.56, 0.9]),
        ([0.5, 0.5, 0.62], [0.54, 0.44, 0.64]),
        ([1.0, 0.99], [1.0, 0.9]),
        ([0.0, 0.01], [0.0, 0.1]),
    ],
)
def test_labels_keep_their_distance_and_stay_inside(places: list[float], expected: list[float]) -> None:
    found = spaced(places, 0.1)
    assert found == pytest.approx(expected)
