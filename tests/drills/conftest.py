from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drills.rig.cluster import ClusterPlan

FAKE_COMMAND = (sys.executable, "-m", "tests.drills.fake_replica")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves whole drills that must hold out unless asked: they take minutes, and a quiet machine."""
    if os.environ.get("MUSTER_REHEARSALS"):
        return
    for item in items:
        if item.get_closest_marker("rehearsal"):
            item.add_marker(
                pytest.mark.skip(reason="a whole drill that must hold; set MUSTER_REHEARSALS=1 to run it")
            )


@pytest.fixture
def scripted(tmp_path: Path) -> Callable[..., ClusterPlan]:
    """Plans for clusters of scripted replicas; keyword arguments are the switches of `fake_replica`."""

    def plan(replicas: int = 3, **switches: Any) -> ClusterPlan:
        # Scripted replicas open no bundle; drills look whether there is one.
        bundle = tmp_path / "bundle"
        bundle.mkdir(exist_ok=True)
        (bundle / "manifest.json").touch()
        return ClusterPlan(
            bundle=bundle, replicas=replicas, settings={"fake": switches}, command=FAKE_COMMAND, start_s=60.0
        )

    return plan
