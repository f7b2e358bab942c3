"""A tiny bundle, and a primary with a standby that many tests read and write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fixtures.tiny_bundle import build
from tests.server.replica import Replica, shoes, wait_until


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with random but fixed weights."""
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    build(folder)
    return folder


@dataclass(frozen=True)
class Pair:
    """Two replicas of one catalogue."""

    primary: Replica
    standby: Replica


@pytest.fixture(scope="session")
def pair(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A primary and a standby with sixty shoes. Tests may add products, never stop a replica."""
    data_dir = tmp_path_factory.mktemp("pair") / "data"
    settings = {"generation.rebuild": "false", "rpc.watch_streams_max": 2, "metrics.listen": "127.0.0.1:0"}
    with Replica(bundle, data_dir, "a", settings) as primary:
        primary.wait_primary()
        with Replica(bundle, data_dir, "b", {**settings, "lease.eligible": "false"}) as standby:
            standby.wait_serving()
            sequence = primary.apply(*shoes(60)).sequence
            wait_until(lambda: standby.status().applied_sequence >= sequence, "the standby has applied all")
            yield Pair(primary, standby)
