"""When a build is due."""

from __future__ import annotations

from dataclasses import replace

import pytest

from server.generation.renewal import RenewalPolicy

POLICY = RenewalPolicy(
    rebuild=True,
    delta_products_min=500,
    delta_share_min=0.05,
    delta_products_max=50_000,
    quiet_s=1.5,
    poll_s=0.25,
)


@pytest.mark.parametrize(
    ("products", "delta_products", "quiet_s", "primary", "due"),
    [
        (500, 500, 60.0, True, False),
        (501, 501, 60.0, True, True),
        (501, 501, 1.0, True, False),
        (501, 501, 1.6, False, False),
        (501, 501, 5.0, False, True),
        (26_000, 1_000, 60.0, True, False),
        (26_000, 1_400, 60.0, True, True),
        (100_000, 50_001, 0.0, True, True),
        (100_000, 50_001, 0.0, False, False),
        (0, 0, 60.0, True, False),
    ],
)
def test_enough_must_be_new_and_the_changes_must_have_paused(
    products: int, delta_products: int, quiet_s: float, primary: bool, due: bool
) -> None:
    wanted = POLICY.wants_build(
        products=products, delta_products=delta_products, quiet_s=quiet_s, primary=primary
    )
    assert wanted is due


def test_a_replica_told_not_to_never_builds_by_itself() -> None:
    policy = replace(POLICY, rebuild=False)
    assert not policy.wants_build(products=10**6, delta_products=10**6, quiet_s=60.0, primary=True)
