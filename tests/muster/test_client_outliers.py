"""Who is left aside, on made-up answers."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.client.outliers import EJECT_MAX_S, PROBES, Replica
from muster.client.reads import Replicas


class World:
    """Replicas with a share of bad answers each, asked one read at a time, 100 a second."""

    def __init__(self, *bad_shares: float, seed: int = 1) -> None:
        self.shares = {f"r{number}:1": share for number, share in enumerate(bad_shares)}
        self.replicas = Replicas(list(self.shares))
        self.random = random.Random(seed)
        self.now_s = 0.0

    def run(self, reads: int) -> Counter[str]:
        """How many reads each replica was asked first."""
        asked: Counter[str] = Counter()
        for _ in range(reads):
            self.now_s += 0.01
            replica = self.replicas.order(self.now_s)[0]
            asked[replica.endpoint] += 1
            bad = self.random.random() < self.shares[replica.endpoint]
            self.replicas.answered(replica, self.now_s, bad=bad)
        return asked

    def known(self) -> list[Replica]:
        return self.replicas.order(self.now_s)


@pytest.mark.parametrize("share", [0.4, 0.7, 1.0])
def test_a_replica_that_stands_out_is_left_aside(share: float) -> None:
    world = World(0.02, share, 0.02)
    world.run(200)
    asked = world.run(3000)
    assert asked["r1:1"] < 3000 / 3 / 4, "without ejection it would be asked a thousand times"
    assert asked["r0:1"] + asked["r2:1"] > 2500


def test_of_two_replicas_the_better_one_stays() -> None:
    world = World(1.0, 0.0)
    world.run(200)
    assert world.run(1000)["r1:1"] > 900


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_replicas_that_are_all_alike_share_the_reads(share: float) -> None:
    asked = World(share, share, share).run(3000)
    assert min(asked.values()) > 600


def test_a_replica_that_recovers_comes_back_and_is_forgiven_by_and_by() -> None:
    world = World(0.0, 1.0, 0.0)
    world.run(2000)
    [ill] = [replica for replica in world.known() if replica.endpoint == "r1:1"]
    worst = ill.ejections
    assert worst > 1, "each probe that failed made the next ejection longer"
    world.shares["r1:1"] = 0.0
    world.run(int(EJECT_MAX_S * 100))
    assert ill.probes_left == 0
    assert world.run(300)["r1:1"] == 100
    world.run(3000)
    assert ill.ejections < worst


def test_after_an_ejection_it_answers_one_read_at_a_time_until_it_has_answered_well() -> None:
    replica = Replica("r:1")
    replica.eject(0.0)
    assert replica.aside_until_s == 0.5 and replica.probes_left == PROBES
    for left in reversed(range(PROBES)):
        replica.try_once(1.0)
        assert replica.aside_until_s == 1.25, "others leave it alone meanwhile"
        replica.answer(bad=False)
        assert (replica.probes_left, replica.aside_until_s) == (left, 0.0)
    assert not replica.on_trial


def test_ejections_grow_to_their_bound() -> None:
    replica, pauses = Replica("r:1"), []
    for _ in range(8):
        replica.aside_until_s = 0.0
        replica.eject(0.0)
        pauses.append(replica.aside_until_s)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


def gone(world: World, reads: int, *endpoints: str) -> int:
    """How many of so many reads fail whose first replica is one of those that have gone, without a retry."""
    failed = 0
    for _ in range(reads):
        world.now_s += 0.01
        replica = world.replicas.order(world.now_s)[0]
        if replica.endpoint in endpoints:
            failed += 1
            world.replicas.failed(replica, world.now_s)
        else:
            bad = world.random.random() < world.shares[replica.endpoint]
            world.replicas.answered(replica, world.now_s, bad=bad)
    return failed


def test_the_last_replica_is_not_driven_out_by_the_good_old_days_of_those_that_have_gone() -> None:
    world = World(0.0, 0.0, 0.0)
    world.run(600)
    world.shares["r0:1"] = 0.9
    assert gone(world, 2000, "r1:1", "r2:1") < 60, "one try in two seconds of each, once they are known"


def test_a_replica_that_is_ejected_is_asked_before_those_that_do_not_answer() -> None:
    world = World(0.9, 0.0, 0.0)
    world.run(600)
    assert any(replica.probes_left for replica in world.known())
    assert gone(world, 2000, "r1:1", "r2:1") < 60


@settings(max_examples=60)
@given(
    shares=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
    failures=st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=20),
)
def test_never_more_than_half_are_ejected_and_some_replica_is_always_asked(
    shares: list[float], seed: int, failures: list[tuple[int, bool]]
) -> None:
    world = World(*shares, seed=seed)
    for number, hard in failures or [(0, False)]:
        world.run(20)
        victim = world.known()[number % len(shares)]
        (world.replicas.failed if hard else world.replicas.lost)(victim, world.now_s)
        known = world.known()
        assert sorted(replica.endpoint for replica in known) == sorted(world.shares)
        assert sum(replica.probes_left > 0 for replica in known) <= len(shares) // 2
        assert all(replica.aside_until_s <= world.now_s + EJECT_MAX_S for replica in known)
