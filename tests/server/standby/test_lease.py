"""Single transitions of the lease; `tests/simulation` combines them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from server.standby.lease import (
    BecomePrimary,
    BecomeStandby,
    ClaimAnswer,
    ClaimLease,
    Command,
    DropLock,
    Extended,
    FencedSeen,
    Holder,
    HolderAnswer,
    Input,
    KillHolder,
    KillLockHolders,
    LeaseConfig,
    LeaseProtocol,
    LeaseRow,
    LeaseSeen,
    LeaseState,
    LockAnswer,
    Phase,
    ProtocolBroken,
    ReadLease,
    ReleaseLease,
    RenewAnswer,
    RenewLease,
    StepDown,
    Stop,
    StoreFailed,
    TakeLock,
    Tick,
)

MS = 1_000_000
NOW = 10_000 * MS
CONFIG = LeaseConfig(ttl_ms=480)
TTL = 480 * MS
ME = Holder("me/1", 1, 11, "boot")
OTHER = Holder("other/2", 2, 22, "boot")
PROTOCOL = LeaseProtocol(CONFIG, ME)


def primary(epoch: int = 7, expires_ns: int = NOW + TTL) -> LeaseState:
    state, _ = PROTOCOL.step(
        LeaseState(Phase.CLAIMING), expires_ns - TTL, ClaimAnswer(LeaseRow(epoch, ME, expires_ns))
    )
    return state


def seen(expires_ns: int, holder: Holder = OTHER, epoch: int = 6) -> LeaseSeen:
    return LeaseSeen(LeaseRow(epoch, holder, expires_ns))


def test_the_durations_keep_the_measured_ratios() -> None:
    assert (CONFIG.ttl_ns, CONFIG.renew_ns, CONFIG.check_ns) == (TTL, TTL // 3, TTL // 8)
    assert LeaseConfig().ttl_ms == 500
    assert CONFIG.renew_ns + CONFIG.check_ns + CONFIG.margin_ns < CONFIG.ttl_ns


def test_a_lease_too_short_to_keep_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        LeaseConfig(ttl_ms=15)


def test_a_standby_looks_as_often_as_it_is_told_to() -> None:
    config = LeaseConfig(ttl_ms=480, check_every_ms=30)
    state, _ = LeaseProtocol(config, ME).step(LeaseState(), NOW, Tick(eligible=False))
    assert state.look_at_ns == NOW + 30 * MS


@pytest.mark.parametrize("check_every_ms", [-1, 121])
def test_a_look_too_rare_to_try_a_failed_renewal_again_in_time_is_refused(check_every_ms: int) -> None:
    with pytest.raises(ValueError, match="a quarter of ttl_ms"):
        LeaseConfig(ttl_ms=480, check_every_ms=check_every_ms)


@pytest.mark.parametrize(
    ("phase", "given", "next_phase", "commands"),
    [
        (Phase.STANDBY, Tick(), Phase.LOCKING, (TakeLock(),)),
        (Phase.STANDBY, Tick(eligible=False), Phase.STANDBY, ()),
        (Phase.LOCKING, LockAnswer(True), Phase.READING_WITH_LOCK, (ReadLease(),)),
        (Phase.LOCKING, LockAnswer(False), Phase.READING_WITHOUT_LOCK, (ReadLease(),)),
        # The lock is free: even a lease that still runs has no process behind it.
        (Phase.READING_WITH_LOCK, seen(NOW + TTL), Phase.CLAIMING, (ClaimLease(6),)),
        (Phase.READING_WITH_LOCK, LeaseSeen(None), Phase.CLAIMING, (ClaimLease(0),)),
        (Phase.READING_WITH_LOCK, StoreFailed(), Phase.STANDBY, (DropLock(),)),
        (Phase.READING_WITHOUT_LOCK, seen(NOW + 1), Phase.STANDBY, ()),
        (Phase.READING_WITHOUT_LOCK, StoreFailed(), Phase.STANDBY, ()),
        (Phase.READING_WITHOUT_LOCK, seen(NOW), Phase.KILLING, (KillHolder(LeaseRow(6, OTHER, NOW)),)),
        # Nobody to blame yet: given back, never held, held before a reboot, or held by this very process.
        (Phase.READING_WITHOUT_LOCK, seen(0), Phase.STANDBY, ()),
        (Phase.READING_WITHOUT_LOCK, LeaseSeen(None), Phase.STANDBY, ()),
        (Phase.READING_WITHOUT_LOCK, seen(NOW + TTL, replace(OTHER, boot_id="old")), Phase.STANDBY, ()),
        (Phase.READING_WITHOUT_LOCK, seen(NOW, ME), Phase.STANDBY, ()),
        (Phase.KILLING, HolderAnswer(True), Phase.LOCKING, (TakeLock(),)),
        (Phase.KILLING, HolderAnswer(False), Phase.STANDBY, ()),
        (Phase.KILLING, StoreFailed(), Phase.STANDBY, ()),
        (Phase.CLAIMING, ClaimAnswer(LeaseRow(7, ME, NOW + TTL)), Phase.PRIMARY, (BecomePrimary(7),)),
        (Phase.CLAIMING, ClaimAnswer(None), Phase.STANDBY, (DropLock(),)),
        (Phase.CLAIMING, StoreFailed(), Phase.STANDBY, (DropLock(),)),
        # Paused during the claim until nothing was left of it.
        (
            Phase.CLAIMING,
            ClaimAnswer(LeaseRow(7, ME, NOW)),
            Phase.STANDBY,
            (DropLock(), ReleaseLease(7)),
        ),
        (Phase.STANDBY, Stop(), Phase.STOPPED, ()),
        (Phase.STANDBY, FencedSeen(3), Phase.STANDBY, ()),
        (Phase.STANDBY, Extended(3, NOW + TTL), Phase.STANDBY, ()),
        (Phase.STOPPED, StepDown(), Phase.STOPPED, ()),
    ],
)
def test_a_standby_moves(
    phase: Phase, given: Input, next_phase: Phase, commands: tuple[Command, ...]
) -> None:
    state, got = PROTOCOL.step(LeaseState(phase), NOW, given)
    assert (state.phase, got) == (next_phase, commands)
    if next_phase is Phase.STANDBY and not isinstance(given, Extended | FencedSeen):
        patient = phase is Phase.CLAIMING and given == StoreFailed()
        assert NOW < state.look_at_ns <= NOW + (CONFIG.ttl_ns if patient else CONFIG.check_ns)


def over(reason: str) -> tuple[Command, ...]:
    return (BecomeStandby(7, reason), DropLock())


@pytest.mark.parametrize(
    ("now_ns", "given", "next_phase", "commands"),
    [
        (NOW, Tick(), Phase.PRIMARY, ()),
        (NOW + TTL // 3, Tick(), Phase.RENEWING, (RenewLease(7),)),
        (
            NOW + TTL - CONFIG.margin_ns,
            Tick(),
            Phase.STANDBY,
            over("its lease could not be renewed in time"),
        ),
        (NOW, FencedSeen(7), Phase.STANDBY, over("a later epoch has begun")),
        (NOW, FencedSeen(6), Phase.PRIMARY, ()),
        (NOW, StepDown(), Phase.STANDBY, (*over("it was asked to step down"), ReleaseLease(7))),
        (NOW, Stop(), Phase.STOPPED, (*over("it is stopping"), ReleaseLease(7))),
    ],
)
def test_a_primary_moves(now_ns: int, given: Input, next_phase: Phase, commands: tuple[Command, ...]) -> None:
    state, got = PROTOCOL.step(primary(), now_ns, given)
    assert (state.phase, got) == (next_phase, commands)
    if next_phase is not Phase.PRIMARY and next_phase is not Phase.RENEWING:
        assert PROTOCOL.writing_epoch(state, now_ns) is None


def test_a_primary_may_write_until_shortly_before_its_lease_ends() -> None:
    state = primary()
    ends_ns = NOW + TTL - CONFIG.margin_ns
    assert PROTOCOL.writing_epoch(state, ends_ns - 1) == 7
    assert PROTOCOL.writing_epoch(state, ends_ns) is None
    renewing, _ = PROTOCOL.step(state, NOW + TTL // 3, Tick())
    assert PROTOCOL.writing_epoch(renewing, ends_ns - 1) == 7
    assert PROTOCOL.writing_epoch(LeaseState(), NOW) is None


def test_a_renewal_is_of_use_until_the_reign_ends() -> None:
    ends_ns = NOW + TTL - CONFIG.margin_ns
    assert PROTOCOL.left_ns(primary(), NOW + TTL // 3) == ends_ns - NOW - TTL // 3
    assert PROTOCOL.left_ns(primary(), ends_ns + 5) == 1


def test_a_renewal_moves_the_end_and_the_next_renewal() -> None:
    renewing, _ = PROTOCOL.step(primary(), NOW + TTL // 3, Tick())
    state, commands = PROTOCOL.step(renewing, NOW + TTL // 2, RenewAnswer(NOW + 2 * TTL))
    assert commands == ()
    assert (state.expires_ns, state.renew_at_ns) == (NOW + 2 * TTL, NOW + TTL + TTL // 3)
    assert state.look_at_ns == state.renew_at_ns


def test_a_failed_renewal_is_tried_again_until_the_lease_ends() -> None:
    state, now_ns, tries = primary(), NOW, 0
    while state.phase is Phase.PRIMARY:
        now_ns = state.look_at_ns
        state, commands = PROTOCOL.step(state, now_ns, Tick())
        if commands == (RenewLease(7),):
            tries += 1
            state, _ = PROTOCOL.step(state, now_ns, StoreFailed())
    assert now_ns == NOW + TTL - CONFIG.margin_ns
    assert tries == 5


def test_a_renewal_that_comes_late_extends_a_reign_in_which_nothing_could_be_written_meanwhile() -> None:
    state, _ = PROTOCOL.step(primary(), NOW + CONFIG.renew_ns, Tick())
    late_ns = NOW + TTL - CONFIG.margin_ns + 1
    assert PROTOCOL.writing_epoch(state, late_ns) is None
    assert PROTOCOL.reigns(state, 7) and not PROTOCOL.reigns(state, 6)
    renewed, commands = PROTOCOL.step(state, late_ns, RenewAnswer(NOW + 2 * TTL))
    assert commands == ()
    assert PROTOCOL.writing_epoch(renewed, late_ns) == 7 and PROTOCOL.reigns(renewed, 7)
    ended, _ = PROTOCOL.step(renewed, late_ns, StepDown())
    assert not PROTOCOL.reigns(ended, 7)


def test_a_refused_renewal_ends_the_reign() -> None:
    renewing, _ = PROTOCOL.step(primary(), NOW + TTL // 3, Tick())
    state, commands = PROTOCOL.step(renewing, NOW + TTL // 3, RenewAnswer(None))
    assert (state.phase, commands) == (Phase.STANDBY, over("its lease has moved on"))


def test_an_append_that_extended_the_lease_postpones_the_renewal_and_never_shortens_it() -> None:
    state, _ = PROTOCOL.step(primary(), NOW + 10, Extended(7, NOW + 10 + TTL))
    assert (state.expires_ns, state.renew_at_ns) == (NOW + 10 + TTL, NOW + 10 + TTL // 3)
    assert PROTOCOL.step(state, NOW + 20, Extended(7, NOW + 5 + TTL))[0] == state
    assert PROTOCOL.step(state, NOW + 20, Extended(6, NOW + 99 * TTL))[0] == state


def test_after_stepping_down_a_replica_leaves_the_lease_to_the_others_for_a_while() -> None:
    state, _ = PROTOCOL.step(primary(), NOW, StepDown())
    while state.phase is Phase.STANDBY:
        now_ns = state.look_at_ns
        state, _ = PROTOCOL.step(state, now_ns, Tick())
    assert NOW + 2 * TTL <= now_ns < NOW + 2 * TTL + CONFIG.check_ns


def test_a_standby_looks_again_the_moment_the_lease_it_saw_runs_out() -> None:
    state, _ = PROTOCOL.step(LeaseState(Phase.READING_WITHOUT_LOCK), NOW, seen(NOW + 5))
    assert state.look_at_ns == NOW + 5


def test_a_holder_that_is_gone_is_not_killed_twice_while_another_replica_claims() -> None:
    state = LeaseState(Phase.READING_WITHOUT_LOCK)
    state, commands = PROTOCOL.step(state, NOW, seen(NOW))
    assert isinstance(commands[0], KillHolder)
    state, _ = PROTOCOL.step(state, NOW, HolderAnswer(True))
    state, _ = PROTOCOL.step(state, NOW, LockAnswer(False))
    state, commands = PROTOCOL.step(state, NOW, seen(NOW))
    assert (state.phase, commands) == (Phase.STANDBY, ())


@pytest.mark.parametrize("killed_epoch", [-1, 6])
def test_a_lock_without_a_valid_lease_costs_its_holder_its_life_when_patience_ends(killed_epoch: int) -> None:
    waiting = LeaseState(
        Phase.READING_WITHOUT_LOCK, suspect_epoch=6, suspect_since_ns=NOW, killed_epoch=killed_epoch
    )
    ends_ns = NOW + CONFIG.patience_ns
    assert KillLockHolders(6) not in PROTOCOL.step(waiting, ends_ns - 1, seen(NOW))[1]
    assert PROTOCOL.step(waiting, ends_ns, seen(NOW))[1] == (KillLockHolders(6),)
    # Somebody else has claimed since: a new suspicion starts from nothing.
    assert PROTOCOL.step(waiting, ends_ns, seen(0, epoch=7))[1] == ()
    # The lock was free for a moment, so nobody hangs on it.
    locking = replace(waiting, phase=Phase.LOCKING)
    assert PROTOCOL.step(locking, ends_ns, LockAnswer(True))[0].suspect_epoch == -1


def test_an_answer_that_nobody_asked_for_is_a_programming_error() -> None:
    with pytest.raises(ProtocolBroken, match="ClaimAnswer cannot come while standby"):
        PROTOCOL.step(LeaseState(), NOW, ClaimAnswer(None))
    with pytest.raises(ProtocolBroken, match="Tick cannot come while claiming"):
        PROTOCOL.step(LeaseState(Phase.CLAIMING), NOW, Tick())
