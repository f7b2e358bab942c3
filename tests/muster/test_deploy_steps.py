"""The course of a deploy, on made-up replicas that also crash."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.deploy.judge import Judgement, Verdict
from muster.deploy.steps import (
    ENDED,
    Advance,
    Leave,
    Load,
    Options,
    PhaseNumber,
    Promote,
    Share,
    Step,
    Target,
    View,
    Wait,
    next_step,
    order,
    trial_replica,
)
from muster.v1 import admin_pb2 as pb
from muster.v1.deploy_pb2 import DeployPhase as Phase

TARGET = Target("new", "old")
GO, WAIT = Judgement(Verdict.GO), Judgement(Verdict.WAIT)
BAD = Judgement(Verdict.ROLL_BACK, ("latency: far too slow",))


@dataclass
class Made:
    """A replica as the steps change it. Loading takes two looks."""

    endpoint: str
    role: pb.Role.ValueType = pb.ROLE_STANDBY
    serving: str = "old"
    candidate: str = ""
    state: pb.BundleState.ValueType = pb.BUNDLE_STATE_UNSPECIFIED
    previous: str = ""
    shares: tuple[float, float] = (0.0, 0.0)
    up: bool = True
    refuses: bool = False

    def view(self) -> View:
        if not self.up:
            return View(self.endpoint, None)
        bundles = pb.ReplicaBundles(
            role=self.role,
            serving=pb.HeldBundle(bundle_id=self.serving),
            shadow_share=self.shares[0],
            canary_share=self.shares[1],
        )
        if self.candidate:
            bundles.candidate.bundle_id, bundles.candidate.state = self.candidate, self.state
            bundles.candidate.detail = "damaged" if self.refuses else ""
        if self.previous:
            bundles.previous.bundle_id = self.previous
        return View(self.endpoint, bundles)

    def crash(self) -> None:
        self.up = False

    def restart(self) -> None:
        self.up, self.serving, self.candidate, self.previous, self.shares = True, "old", "", "", (0.0, 0.0)

    def look(self) -> None:
        if self.candidate and self.state == pb.BUNDLE_STATE_BUILDING:
            self.state = pb.BUNDLE_STATE_REFUSED if self.refuses else pb.BUNDLE_STATE_READY

    def carry_out(self, step: Step) -> None:
        if isinstance(step, Load):
            self.candidate, self.state = "new", pb.BUNDLE_STATE_BUILDING
        elif isinstance(step, Share):
            self.shares = (step.shadow, step.canary)
        elif isinstance(step, Promote):
            assert self.candidate == "new" and self.state == pb.BUNDLE_STATE_READY
            self.serving, self.previous, self.candidate, self.shares = "new", self.serving, "", (0.0, 0.0)
        elif isinstance(step, Leave):
            if self.candidate == step.bundle_id:
                self.candidate, self.shares = "", (0.0, 0.0)
            if self.serving == step.bundle_id:
                assert self.previous
                self.serving, self.previous = self.previous, ""


@dataclass
class Service:
    replicas: list[Made]
    phase: PhaseNumber = Phase.DEPLOY_PHASE_STARTED
    passed: list[PhaseNumber] = field(default_factory=list)
    done: list[Step] = field(default_factory=list)

    def go_on(self, judgement: Judgement | None, options: Options | None = None) -> Step:
        for replica in self.replicas:
            replica.look()
        views = [replica.view() for replica in self.replicas]
        step = next_step(self.phase, TARGET, views, options or Options(), judgement)
        if isinstance(step, Advance):
            self.phase = step.phase
            self.passed.append(step.phase)
        elif not isinstance(step, Wait):
            next(one for one in self.replicas if one.endpoint == step.endpoint).carry_out(step)
        self.done.append(step)
        return step


def three() -> Service:
    return Service([Made("a", pb.ROLE_PRIMARY), Made("b"), Made("c")])


def to_the_end(service: Service, judgement: Judgement, options: Options | None = None) -> Service:
    for _ in range(100):
        if service.phase in ENDED:
            return service
        service.go_on(judgement, options)
    raise AssertionError(f"no end: {service.done[-5:]}")


def test_a_good_bundle_goes_from_shadow_to_canary_to_every_replica_the_primary_last() -> None:
    service = to_the_end(three(), GO)
    assert service.passed == [
        Phase.DEPLOY_PHASE_LOADED,
        Phase.DEPLOY_PHASE_SHADOWING,
        Phase.DEPLOY_PHASE_CANARY,
        Phase.DEPLOY_PHASE_PROMOTING,
        Phase.DEPLOY_PHASE_DONE,
    ]
    assert [step for step in service.done if isinstance(step, Share)] == [
        Share("b", 0.2, 0.0),
        Share("b", 0.2, 0.1),
    ]
    assert [step.endpoint for step in service.done if isinstance(step, Promote)] == ["b", "c", "a"]
    assert {replica.serving for replica in service.replicas} == {"new"}
    assert {replica.previous for replica in service.replicas} == {"old"}


def test_a_bad_bundle_is_left_by_every_replica_and_the_reason_is_kept() -> None:
    service = three()
    while service.phase != Phase.DEPLOY_PHASE_SHADOWING:
        service.go_on(None)
    service.go_on(None)
    assert service.go_on(BAD) == Advance(Phase.DEPLOY_PHASE_ROLLING_BACK, "latency: far too slow")
    to_the_end(service, GO)
    assert service.phase == Phase.DEPLOY_PHASE_ROLLED_BACK
    assert {(replica.serving, replica.candidate) for replica in service.replicas} == {("old", "")}


def test_phases_without_a_share_are_left_out() -> None:
    service = to_the_end(three(), GO, Options(shadow_share=0.0, canary_share=0.0))
    assert not [step for step in service.done if isinstance(step, Share)]
    service = to_the_end(three(), GO, Options(shadow_share=0.0))
    assert Phase.DEPLOY_PHASE_SHADOWING not in service.passed
    assert Phase.DEPLOY_PHASE_CANARY in service.passed


def test_a_bundle_that_one_replica_refuses_is_rolled_back_with_its_words() -> None:
    service = three()
    service.replicas[2].refuses = True
    to_the_end(service, GO)
    assert service.phase == Phase.DEPLOY_PHASE_ROLLED_BACK
    reasons = [step.reason for step in service.done if isinstance(step, Advance) and step.reason]
    assert reasons == ["c refuses the bundle: damaged"]


def test_replicas_of_one_machine_load_one_after_another_the_primary_last_those_of_others_beside_them() -> (
    None
):
    replicas = [
        Made("near:1", pb.ROLE_PRIMARY),
        Made("near:2"),
        Made("far:1"),
        Made("near:3"),
        Made("[::1]:1"),
    ]
    by_endpoint = {replica.endpoint: replica for replica in replicas}

    def step() -> Step:
        views = [replica.view() for replica in replicas]
        found = next_step(Phase.DEPLOY_PHASE_STARTED, TARGET, views, Options(), None)
        if isinstance(found, Load):
            by_endpoint[found.endpoint].carry_out(found)
        return found

    def ready(endpoint: str) -> None:
        by_endpoint[endpoint].look()

    assert [step(), step(), step()] == [Load("near:2"), Load("far:1"), Load("[::1]:1")]
    assert step() == Wait("near:2 to load the bundle")
    ready("near:2")
    assert step() == Load("near:3")
    ready("far:1")
    by_endpoint["near:3"].crash()
    assert step() == Wait("near:3 to answer")
    by_endpoint["near:3"].up = True
    ready("near:3")
    assert step() == Load("near:1")
    ready("near:1")
    ready("[::1]:1")
    assert step() == Advance(Phase.DEPLOY_PHASE_LOADED)


def test_the_way_back_after_a_deploy_takes_no_trial() -> None:
    service = Service([Made("a", pb.ROLE_PRIMARY, serving="bad", previous="new"), Made("b", serving="bad")])
    service.replicas[1].previous = "new"
    to_the_end(service, WAIT)
    assert [step for step in service.done if not isinstance(step, Advance)] == [
        Leave("b", "bad"),
        Leave("a", "bad"),
    ]
    assert {replica.serving for replica in service.replicas} == {"new"}


def test_a_trial_stays_where_it_began_also_when_the_primary_changes() -> None:
    views = [Made("a").view(), Made("b", pb.ROLE_PRIMARY, shares=(0.2, 0.0)).view()]
    assert trial_replica(views, TARGET).endpoint == "b"
    assert [view.endpoint for view in order(views)] == ["a", "b"]


def test_a_replica_that_does_not_answer_is_waited_for() -> None:
    service = three()
    service.replicas[1].crash()
    steps = [service.go_on(GO) for _ in range(4)]
    assert isinstance(steps[-1], Wait)
    assert "b" in steps[-1].what


happenings = st.lists(
    st.tuples(st.sampled_from(["crash", "restart", "primary", "look"]), st.integers(0, 2)), max_size=60
)


@pytest.mark.parametrize("judgement", [GO, BAD])
@given(happenings)
def test_whatever_crashes_on_the_way_all_replicas_end_with_the_same_bundle(
    judgement: Judgement, course: list[tuple[str, int]]
) -> None:
    service = three()
    for what, number in course:
        if service.phase in ENDED:
            break
        replica = service.replicas[number]
        if what == "crash":
            replica.crash()
        elif what == "restart" and not replica.up:
            replica.restart()
        elif what == "primary":
            for one in service.replicas:
                one.role = pb.ROLE_STANDBY
            replica.role = pb.ROLE_PRIMARY
        service.go_on(judgement)
    ended = service.phase
    for replica in service.replicas:
        if not replica.up:
            replica.restart()
    if ended not in ENDED:
        to_the_end(service, judgement)
    if service.phase == Phase.DEPLOY_PHASE_ROLLED_BACK:
        assert {replica.serving for replica in service.replicas} == {"old"}
    elif ended not in ENDED:
        # A replica that starts once the log says DONE starts with the new bundle, which `restart` does not.
        assert {replica.serving for replica in service.replicas} == {"new"}
