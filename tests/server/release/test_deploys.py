"""What the log says of deploys, and which steps may follow which."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rankcore
from muster.v1.catalogue_pb2 import ApplyRequest, Event, Product, SequencedEvent
from muster.v1.deploy_pb2 import Deploy, DeployPhase
from server.catalogue.opening import open_store
from server.catalogue.retention import Retention, RetentionPolicy
from server.catalogue.store import Appended, NewEvent, Store
from server.errors import DeployBusy, DeployRefused, InvalidFields, NotThePrimary
from server.release.deploys import PREFIX, Deploys, DeployState, check_fields, check_step, read_state
from server.standby.lease import Holder

STARTED, LOADED = DeployPhase.DEPLOY_PHASE_STARTED, DeployPhase.DEPLOY_PHASE_LOADED
CANARY, PROMOTING = DeployPhase.DEPLOY_PHASE_CANARY, DeployPhase.DEPLOY_PHASE_PROMOTING
DONE = DeployPhase.DEPLOY_PHASE_DONE
ROLLING_BACK, ROLLED_BACK = DeployPhase.DEPLOY_PHASE_ROLLING_BACK, DeployPhase.DEPLOY_PHASE_ROLLED_BACK
ALIVE = DeployPhase.DEPLOY_PHASE_UNSPECIFIED


def step(
    phase: DeployPhase.ValueType,
    *,
    deploy_id: str = "d1",
    deployer: str = "x",
    bundle: str = "new-1",
    previous: str = "old-1",
) -> Deploy:
    return Deploy(
        deploy_id=deploy_id, deployer=deployer, bundle_id=bundle, previous_bundle_id=previous, phase=phase
    )


def sequenced(sequence: int, event: Event) -> bytes:
    return SequencedEvent(sequence=sequence, epoch=1, event=event).SerializeToString()


def in_log(*steps: Deploy) -> list[bytes]:
    return [
        sequenced(number, Event(event_id=f"{PREFIX}{number}", deploy=one))
        for number, one in enumerate(steps, start=1)
    ]


def test_the_log_names_the_bundle_that_the_last_finished_deploy_put_in_service() -> None:
    assert read_state(in_log(step(STARTED), step(CANARY))).promoted == ()
    done = [step(STARTED), step(DONE)]
    assert read_state(in_log(*done)).promoted == ("new-1", "old-1")
    failed = [
        step(STARTED, deploy_id="d2", bundle="bad-1", previous="new-1"),
        step(ROLLING_BACK, deploy_id="d2", bundle="bad-1", previous="new-1"),
        step(ROLLED_BACK, deploy_id="d2", bundle="bad-1", previous="new-1"),
    ]
    state = read_state(in_log(*done, *failed))
    assert state.promoted == ("new-1", "old-1")
    assert not state.live
    back = step(DONE, deploy_id="d3", bundle="old-1", previous="new-1")
    assert read_state(in_log(*done, *failed, back)).promoted == ("old-1", "new-1")


def test_products_are_passed_over_also_those_that_mention_a_deploy() -> None:
    product = Event(event_id=f"{PREFIX}trick", upsert=Product(product_id="p", title="deploy: me"))
    assert read_state([sequenced(1, product)]) == DeployState()


def test_events_that_were_seen_before_change_nothing() -> None:
    events = in_log(step(STARTED), step(LOADED))
    state = read_state(events)
    assert read_state(events, state) is state


def live(phase: DeployPhase.ValueType) -> DeployState:
    return DeployState().after(step(phase), 1)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (STARTED, LOADED),
        (LOADED, PROMOTING),
        (CANARY, PROMOTING),
        (PROMOTING, DONE),
        (STARTED, ROLLING_BACK),
        (PROMOTING, ROLLING_BACK),
        (ROLLING_BACK, ROLLED_BACK),
        (CANARY, ALIVE),
    ],
)
def test_a_deploy_goes_forward_or_back_as_a_whole(
    before: DeployPhase.ValueType, after: DeployPhase.ValueType
) -> None:
    check_step(live(before), step(after), silent=False)


@pytest.mark.parametrize(
    ("before", "after"),
    [(PROMOTING, CANARY), (CANARY, ROLLED_BACK), (ROLLING_BACK, DONE), (ROLLING_BACK, PROMOTING)],
)
def test_a_deploy_takes_no_step_that_does_not_follow(
    before: DeployPhase.ValueType, after: DeployPhase.ValueType
) -> None:
    with pytest.raises(DeployRefused, match="does not follow"):
        check_step(live(before), step(after), silent=False)


def test_one_deploy_and_one_deployer_at_a_time() -> None:
    with pytest.raises(DeployBusy, match="d1 of bundle new-1 is under way \\(canary\\)"):
        check_step(live(CANARY), step(STARTED, deploy_id="d2"), silent=True)
    with pytest.raises(DeployBusy, match="deployer x is at work"):
        check_step(live(CANARY), step(CANARY, deployer="y"), silent=False)
    check_step(live(CANARY), step(CANARY, deployer="y"), silent=True)
    with pytest.raises(DeployRefused, match="by writing its phase anew"):
        check_step(live(CANARY), step(ALIVE, deployer="y"), silent=True)
    with pytest.raises(DeployRefused, match="from old-1 to new-1"):
        check_step(live(CANARY), step(PROMOTING, bundle="other-1"), silent=False)


@pytest.mark.parametrize("state", [DeployState(), live(DONE), live(ROLLED_BACK)])
def test_where_none_is_under_way_a_deploy_begins_at_its_beginning(state: DeployState) -> None:
    check_step(state, step(STARTED, deploy_id="d9"), silent=False)
    for phase in (ALIVE, CANARY, DONE):
        with pytest.raises(DeployRefused, match="no deploy d9"):
            check_step(state, step(phase, deploy_id="d9"), silent=False)


@given(st.lists(st.sampled_from(DeployPhase.values()), max_size=12))
def test_whatever_is_tried_a_deploy_ends_once(phases: list[DeployPhase.ValueType]) -> None:
    state = live(STARTED)
    for number, phase in enumerate(phases, start=2):
        try:
            check_step(state, step(phase), silent=False)
        except DeployRefused:
            continue
        if phase == STARTED and not state.live:
            break
        if phase != ALIVE:
            assert state.live
            state = state.after(step(phase), number)


def test_every_field_out_of_its_limits_is_named() -> None:
    bad = Deploy(deploy_id="a b", deployer="", bundle_id="", previous_bundle_id="x" * 129, detail="y" * 1025)
    with pytest.raises(InvalidFields) as caught:
        check_fields(bad)
    assert [field for field, _ in caught.value.violations] == [
        "deploy.deploy_id",
        "deploy.deployer",
        "deploy.bundle_id",
        "deploy.previous_bundle_id",
        "deploy.detail",
    ]


class Log:
    """A writer that numbers what it is given."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def append(self, events: Sequence[Event | bytes], timeout_s: float) -> Appended:
        for event in events:
            assert isinstance(event, Event)
            self.events.append(event)
        return Appended(sequence=len(self.events), epoch=1, duplicates=0)


class Scene:
    def __init__(self) -> None:
        self.log, self.now_s, self.primary = Log(), 0.0, True
        self.deploys = Deploys(
            DeployState(),
            writer=self.log,
            writable=lambda: self.primary,
            primary=lambda: "a",
            silent_s=5.0,
            clock=lambda: self.now_s,
        )

    def record(self, one: Deploy) -> int:
        return self.deploys.record(one, 1.0)


def test_a_step_is_written_once_however_often_it_is_sent() -> None:
    scene = Scene()
    assert scene.record(step(STARTED)) == 1
    assert scene.record(step(STARTED)) == 1
    assert scene.record(step(ALIVE)) == 0
    assert scene.record(step(LOADED)) == 2
    assert [event.deploy.phase for event in scene.log.events] == [STARTED, LOADED]
    assert all(event.event_id.startswith(PREFIX) for event in scene.log.events)
    # The tailer brings them as well.
    scene.deploys.follow([sequenced(n, event) for n, event in enumerate(scene.log.events, start=1)])
    assert (scene.deploys.state.sequence, scene.deploys.state.live) == (2, True)


def test_a_deployer_is_replaced_only_once_it_has_been_silent() -> None:
    scene = Scene()
    scene.record(step(STARTED))
    scene.now_s = 4.0
    scene.record(step(ALIVE))
    scene.now_s = 8.0
    assert scene.deploys.heard_ms_ago() == 4000
    with pytest.raises(DeployBusy):
        scene.record(step(STARTED, deployer="y"))
    scene.now_s = 9.5
    scene.record(step(STARTED, deployer="y"))
    with pytest.raises(DeployBusy):
        scene.record(step(LOADED))


def test_a_new_primary_gives_the_deployer_time_to_find_it() -> None:
    scene = Scene()
    scene.record(step(STARTED))
    scene.now_s = 60.0
    scene.deploys.reign()
    with pytest.raises(DeployBusy):
        scene.record(step(STARTED, deployer="y"))


def test_a_standby_writes_nothing() -> None:
    scene = Scene()
    scene.primary = False
    with pytest.raises(NotThePrimary):
        scene.record(step(STARTED))
    assert scene.deploys.heard_ms_ago() is None
    assert not scene.log.events


def test_the_steps_are_found_in_a_store_among_other_events(tmp_path: Path) -> None:
    store = open_store(tmp_path / "catalogue.sqlite3")
    try:
        lease = store.claim_lease(Holder("a", 1, 1, "b"), expected_epoch=0, ttl_ns=10**12)
        assert lease is not None
        names = ("deplox", f"{PREFIX}1", "deploy", "deploz", f"{PREFIX}2", "zz")
        events = [
            Event(event_id=name, deploy=step(STARTED))
            if name.startswith(PREFIX)
            else Event(event_id=name, upsert=Product(product_id="p", title="t"))
            for name in names
        ]
        store.append([[NewEvent.of(event) for event in events]], epoch=lease.epoch)
        found = [SequencedEvent.FromString(payload) for payload in store.read_named(PREFIX)]
        assert [one.sequence for one in found] == [2, 5]
    finally:
        store.close()


class StoreWriter:
    """Appends to a store at once, in its first reign."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def append(self, events: Sequence[Event | bytes], timeout_s: float) -> Appended:
        return self.store.append([[NewEvent.of(event) for event in events]], epoch=1).batches[0]


def test_a_deploy_is_remembered_when_its_steps_have_left_the_log(tmp_path: Path) -> None:
    with closing(open_store(tmp_path / "catalogue.sqlite3")) as store:
        assert store.claim_lease(Holder("a", 1, 1, "b"), expected_epoch=0, ttl_ns=10**12) is not None
        writer = StoreWriter(store)
        deploys = Deploys(
            DeployState(), writer=writer, writable=lambda: True, primary=lambda: "a", silent_s=1.0
        )
        for deploy_id, bundle, previous in [("d1", "new-1", "old-1"), ("d2", "newer-1", "new-1")]:
            for phase in (STARTED, LOADED, PROMOTING, DONE):
                deploys.record(step(phase, deploy_id=deploy_id, bundle=bundle, previous=previous), 1.0)
        for number in range(10):
            product = Product(product_id=f"p{number}", title="t")
            writer.append([Event(event_id=f"e{number}", upsert=product)], 1.0)
        before = deploys.state
        keeper = Retention(
            store,
            RetentionPolicy(events_max=2, hours=0, ids_max=100, id_hours=1),
            lambda: 1,
            may_fold=lambda row: deploys.may_fold(row.sequence),
        )
        for _ in range(3):
            keeper.look()
        with store.view() as view:
            assert view.snapshot.sequence >= 16
            assert view.snapshot.products >= 8
        after = read_state(store.read_named(PREFIX))
        assert after.promoted == before.promoted == ("newer-1", "new-1", "old-1")
        assert after.last is not None and before.last is not None
        assert (after.last.deploy_id, after.last.phase) == (before.last.deploy_id, before.last.phase)
        assert deploys.state == after
        # The next deploy follows it as if nothing had happened.
        deploys.record(step(STARTED, deploy_id="d3", bundle="old-1", previous="newer-1"), 1.0)
        deploys.record(step(DONE, deploy_id="d3", bundle="old-1", previous="newer-1"), 1.0)
        assert read_state(store.read_named(PREFIX)).promoted == ("old-1", "newer-1", "new-1")


def test_what_was_promoted_is_for_the_primary_to_say() -> None:
    asked = step(STARTED)
    asked.promoted_bundle_ids.append("mine-1")
    with pytest.raises(InvalidFields, match="promoted_bundle_ids"):
        check_fields(asked)


def test_apply_refuses_steps_of_a_deploy() -> None:
    request = ApplyRequest(events=[Event(event_id="e", deploy=step(DONE))])
    violations = rankcore.validate_apply(request.SerializeToString())
    assert [field for field, _ in violations] == ["events[0].deploy"]
