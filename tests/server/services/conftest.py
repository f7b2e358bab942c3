"""What the tests of several services share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from muster.client import Client
from tests.fixtures import tiny_section
from tests.server.replica import Replica, wait_until
from tests.server.services.shop import SETTINGS, Serving


@pytest.fixture(scope="package")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A primary and a standby with a bundle whose section has a learnt order."""
    folder = tmp_path_factory.mktemp("shop")
    made = tiny_section.make(folder, ordered=True)
    data_dir = folder / "data"
    with Replica(made.bundle, data_dir, "a", SETTINGS) as primary:
        primary.wait_primary()
        with Replica(made.bundle, data_dir, "b", {**SETTINGS, "lease.eligible": "false"}) as standby:
            standby.wait_serving()
            # The client writes again where the lease was lost for a moment.
            with Client([primary.address]) as client:
                sequence = client.apply(tiny_section.catalogue(), deadline_ms=30_000).sequence
            for replica in (primary, standby):
                wait_until(lambda: replica.status().applied_sequence >= sequence, "all is applied")  # noqa: B023
            yield Serving(primary, standby, made.bundle, data_dir)
