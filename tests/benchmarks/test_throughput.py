"""The benchmark of the core's throughput: one small run of the whole."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks.throughput import main


def test_every_tier_is_measured_with_one_worker_and_with_all(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "throughput.json"
    arguments = [
        "--products",
        "120",
        "--sample",
        "30",
        "--rounds",
        "2",
        "--seconds",
        "0.1",
        "--json",
        str(out),
    ]
    assert main([*arguments, "--tier", "lexical", "--tier", "late", "--bundle", str(bundle)]) == 0
    cells = json.loads(out.read_text(encoding="utf-8"))["cells"]
    workers = sorted({1, len(os.sched_getaffinity(0))})
    assert [(cell["tier"], cell["workers"]) for cell in cells] == [
        (tier, number) for tier in ("lexical", "late") for number in workers
    ]
    for cell in cells:
        assert cell["executed"][cell["tier"]] > 0
        assert 0 < cell["per_s_min"] <= cell["per_s"] <= cell["per_s_max"]
    assert capsys.readouterr().out.count("\n| ") == len(cells)


def test_a_tier_that_the_bundle_lacks_is_named(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no plan of tier cross_large; it has lexical"):
        main(["--products", "50", "--sample", "10", "--tier", "cross_large", "--bundle", str(bundle)])
