"""A primary and a standby as real processes, over a tiny bundle and a synthetic catalogue."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from muster.client import Client, upsert
from muster.products.synthetic import SyntheticCatalogue

PRODUCTS = 300


@contextmanager
def running_pair(folder: Path, more: Mapping[str, str] | None = None) -> Iterator[list[str]]:
    """Starts both, loads the catalogue, yields their endpoints, ends them. Skips where nothing is built.

    more: settings by their dotted names."""
    native = pytest.importorskip("rankcore", reason="the extension is not built: make build")
    if not hasattr(native, "Engine"):
        pytest.skip("the extension is not built: make build")
    replicas = importlib.import_module("tests.server.replica")
    importlib.import_module("tests.fixtures.tiny_bundle").build(folder / "tiny")
    # A long lease: on a busy machine a short one replaces healthy primaries. Who is killed frees the lock.
    settings = {"generation.rebuild": "false", "lease.ttl_ms": "5000", **(more or {})}
    with replicas.Replica(folder / "tiny", folder / "data", "a", settings) as primary:
        primary.wait_primary()
        with replicas.Replica(folder / "tiny", folder / "data", "b", settings) as standby:
            standby.wait_serving()
            endpoints = [primary.address, standby.address]
            with Client(endpoints) as client:
                events = [upsert(product) for product in SyntheticCatalogue(PRODUCTS, 1).products()]
                sequence = client.apply(events, deadline_ms=60_000).sequence
                for replica in (primary, standby):
                    replicas.wait_until(
                        lambda replica=replica: replica.status().applied_sequence >= sequence, "all applied"
                    )
            yield endpoints
