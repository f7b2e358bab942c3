"""What is true of a store on a PostgreSQL server alone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import psycopg
import pytest

from drills.rig.postgres import ThrowawayPostgres
from server.catalogue.errors import OutcomeUnknown, SchemaMismatch, StoreDamaged, StoreError, StoreUnavailable
from server.catalogue.export import export_backup
from server.catalogue.opening import open_store
from server.catalogue.postgres import IDLE_IN_TRANSACTION_MS, PostgresStore, _refused_commit
from server.catalogue.repair import repair
from server.catalogue.store import Appended, Commit, StoreConfig
from server.catalogue.verify import verify_store
from tests.server.catalogue.conftest import (
    HOLDER,
    OTHER,
    TTL_NS,
    event_ids,
    frozen_transaction,
    new_events,
)
from tests.server.catalogue.folded import make, raw
from tests.server.commit_cutter import CommitCutter, Moment
from tests.server.replica import wait_until

pytestmark = pytest.mark.postgresql

LONG_S = 60.0


@pytest.fixture
def location(database: str) -> str:
    return database


@pytest.fixture
def admin(location: str) -> Iterator[psycopg.Connection]:
    """A person with every right; what they do waits for no standby."""
    with psycopg.connect(location.replace("+psycopg", ""), autocommit=True) as session:
        session.execute("SET synchronous_commit = local")
        yield session


def scalar(session: psycopg.Connection, statement: str) -> object:
    row = session.execute(statement).fetchone()
    return None if row is None else row[0]


T = TypeVar("T")


def when_back(call: Callable[[], T]) -> T:
    """The answer of the first call that is not told that the store is away."""
    answers: list[T] = []

    def answered() -> bool:
        with suppress(StoreUnavailable):
            answers.append(call())
        return bool(answers)

    wait_until(answered, "the store to be back")
    return answers[0]


# --- opening ---------------------------------------------------------------------------------------------


def test_the_measured_settings_are_in_force(store: PostgresStore) -> None:
    for engine in (store._writes, store._reads, store._sessions):
        with engine.connect() as connection:

            def shown(name: str, connection: object = connection) -> str:
                return str(connection.exec_driver_sql(f"SHOW {name}").scalar())  # type: ignore[attr-defined]

            assert shown("synchronous_commit") == "on"
            assert shown("idle_in_transaction_session_timeout") == f"{IDLE_IN_TRANSACTION_MS}ms"
            assert (shown("lock_timeout"), shown("statement_timeout")) == ("2s", "2500ms")


def test_readers_cannot_write(store: PostgresStore) -> None:
    with pytest.raises(StoreUnavailable, match="read-only"), store._reading() as connection:
        connection.exec_driver_sql("DELETE FROM log")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("UPDATE alembic_version SET version_num = '9999'", SchemaMismatch, "9999, which is newer"),
        ("DROP TABLE lease", StoreDamaged, "lost its tables lease"),
    ],
)
def test_a_newer_or_broken_schema_is_refused(
    store: PostgresStore,
    location: str,
    admin: psycopg.Connection,
    change: str,
    error: type[StoreError],
    message: str,
) -> None:
    admin.execute(change)  # type: ignore[call-overload]
    with pytest.raises(error, match=message):
        open_store(location)


@pytest.mark.parametrize(
    ("setting", "message"),
    [("fsync=off", "fsync=off and can lose"), ("full_page_writes=off", "full_page_writes=off and can lose")],
)
def test_a_server_that_may_lose_writes_is_refused(setting: str, message: str) -> None:
    with ThrowawayPostgres([setting]) as server, pytest.raises(StoreUnavailable, match=message):
        open_store(server.url())


def test_a_server_without_a_synchronous_standby_is_told(
    location: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), closing(open_store(location)):
        assert "synchronous_standby_names is empty" in caplog.text


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("postgresql+psycopg://nobody@127.0.0.1:1/none", "cannot be reached"),
        ("postgresql+psycopg://someone:secret@127.0.0.1/none", "must not hold a password"),
        ("postgresql+psycopg://127.0.0.1", "must name a database"),
    ],
)
def test_an_address_that_is_none_or_does_not_answer_is_said_without_the_password(
    address: str, message: str
) -> None:
    with pytest.raises(StoreUnavailable, match=message) as caught:
        open_store(address)
    assert "secret" not in str(caught.value)


def test_a_database_that_is_not_there_is_named(postgres: ThrowawayPostgres) -> None:
    with pytest.raises(StoreUnavailable, match='"absent" does not exist'):
        open_store(postgres.url("absent"))


def test_the_password_is_read_from_its_file_at_each_connection(
    postgres: ThrowawayPostgres, location: str, admin: psycopg.Connection, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    config = StoreConfig(password_file=file)
    with pytest.raises(StoreUnavailable, match=r"password file .* cannot be read: No such file"):
        open_store(location, config)
    given: list[str] = []
    file.write_text("first\n")
    with closing(open_store(location, config)) as store:
        assert isinstance(store, PostgresStore)
        original = psycopg.connect

        def connect(*args: object, **parameters: object) -> object:
            given.append(str(parameters["password"]))
            return original(*args, **parameters)  # type: ignore[call-overload]

        store._reads.dispose()
        file.write_text("second\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store._reads.dialect.loaded_dbapi, "connect", connect)
            store.head()
    assert given == ["second"]


# --- writing ---------------------------------------------------------------------------------------------


def test_a_frozen_writer_blocks_writes_until_the_server_ends_its_transaction(
    store: PostgresStore, location: str
) -> None:
    store.append([new_events("a")], epoch=1)
    impatient = open_store(location, StoreConfig(busy_timeout_ms=200))
    with closing(impatient), frozen_transaction(location):
        with pytest.raises(StoreUnavailable, match="locked"):
            impatient.append([new_events("b")], epoch=1)
        assert event_ids(impatient.read_range(1)) == ["a"]
        lease = impatient.lease()
        assert lease is not None
        assert lease.holder == HOLDER
    assert store.append([new_events("b")], epoch=1).batches == [Appended(2, 1, 0)]


def test_a_writer_that_hangs_inside_its_transaction_is_cut_off_by_the_server(
    store: PostgresStore, location: str
) -> None:
    reached, go_on = threading.Event(), threading.Event()
    real = store._known_sequences

    def hang(transaction: object, event_ids: list[str]) -> dict[str, int]:
        reached.set()
        assert go_on.wait(LONG_S)
        return real(transaction, event_ids)  # type: ignore[arg-type]

    store._known_sequences = hang  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool, closing(open_store(location)) as successor:
        late = pool.submit(store.append, [new_events("late")], epoch=1)
        assert reached.wait(LONG_S)
        # Waits for the lease's row, which the server frees.
        assert successor.claim_lease(OTHER, expected_epoch=1, ttl_ns=10**10) is not None
        go_on.set()
        with pytest.raises(StoreUnavailable, match="idle-in-transaction"):
            late.result(LONG_S)
        assert successor.read_range(1) == []


Break = Callable[[psycopg.Connection], object]


@pytest.mark.parametrize(
    ("patience_ms", "break_commit"),
    [
        (60_000, lambda admin: admin.execute("SELECT pg_cancel_backend(pid) FROM waiting_commits")),
        (60_000, lambda admin: admin.execute("SELECT pg_terminate_backend(pid) FROM waiting_commits")),
        (2000, lambda admin: None),
    ],
    ids=["cancelled", "terminated", "overdue"],
)
def test_a_commit_that_no_synchronous_standby_confirmed_is_never_acknowledged(
    own_server: ThrowawayPostgres, patience_ms: int, break_commit: Break
) -> None:
    location = own_server.create_database("muster")
    with (
        closing(open_store(location, StoreConfig(busy_timeout_ms=patience_ms))) as store,
        psycopg.connect(location.replace("+psycopg", ""), autocommit=True) as admin,
        ThreadPoolExecutor(1) as pool,
    ):
        admin.execute("SET synchronous_commit = local")
        admin.execute(
            "CREATE VIEW waiting_commits AS SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        )
        assert store.claim_lease(HOLDER, expected_epoch=0, ttl_ns=TTL_NS) is not None
        admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'away'")
        admin.execute("SELECT pg_reload_conf()")
        wait_until(
            lambda: scalar(admin, "SHOW synchronous_standby_names") == "away", "the standby to be waited for"
        )
        waiting: Future[Commit] = pool.submit(store.append, [new_events("a")], epoch=1)
        wait_until(lambda: scalar(admin, "SELECT count(*) FROM waiting_commits") == 1, "the commit to wait")
        break_commit(admin)
        with pytest.raises(OutcomeUnknown):
            waiting.result(LONG_S)
        admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
        admin.execute("SELECT pg_reload_conf()")
        # Sending it again settles it.
        assert store.append([new_events("a")], epoch=1).batches[0].sequence == 1
        assert event_ids(store.read_range(1)) == ["a"]


@pytest.mark.parametrize(("moment", "duplicates"), [(Moment.BEFORE, 0), (Moment.AFTER, 1)])
def test_a_connection_that_is_cut_at_the_commit_leaves_the_outcome_open(
    postgres: ThrowawayPostgres, location: str, moment: Moment, duplicates: int
) -> None:
    with (
        CommitCutter(postgres) as cutter,
        closing(open_store(cutter.url("muster_test"))) as store,
        closing(open_store(location)) as other,
    ):
        assert store.claim_lease(HOLDER, expected_epoch=0, ttl_ns=TTL_NS) is not None
        cutter.cut(b"cut-me", moment)
        with pytest.raises(OutcomeUnknown, match="send the same events again"):
            store.append([new_events("cut-me")], epoch=1)
        assert cutter.cuts == 1
        wait_until(lambda: other.head().sequence == duplicates, "the server to have decided")
        # Sending it again settles it.
        again = when_back(lambda: store.append([new_events("cut-me")], epoch=1))
        assert again.batches == [Appended(1, 1, duplicates)]
        assert event_ids(store.read_range(1)) == ["cut-me"]


def test_a_connection_that_is_cut_before_the_commit_has_written_nothing(
    postgres: ThrowawayPostgres, location: str
) -> None:
    with CommitCutter(postgres) as cutter, closing(open_store(cutter.url("muster_test"))) as store:
        assert store.claim_lease(HOLDER, expected_epoch=0, ttl_ns=TTL_NS) is not None
        store._end_append = lambda transaction: transaction.exec_driver_sql(  # type: ignore[method-assign]
            "SELECT pg_terminate_backend(pg_backend_pid())"
        )
        with pytest.raises(StoreUnavailable):
            store.append([new_events("a")], epoch=1)
        assert store.read_range(1) == []


def refusal_at_commit(severity: str, state: str) -> psycopg.Error:
    """What psycopg raises for a message of the server, as far as anybody looks at it."""

    class Refusal(psycopg.Error):
        sqlstate = state
        diag = SimpleNamespace(severity_nonlocalized=severity)  # type: ignore[assignment]

    return Refusal("told by the server")


@pytest.mark.parametrize(
    ("severity", "state", "refused"),
    [
        ("ERROR", "40001", True),
        ("ERROR", "53100", True),
        ("FATAL", "25P03", True),
        # The disk of the server was full, or failed, while it flushed the commit's record.
        ("PANIC", "53100", False),
        ("PANIC", "58030", False),
        ("FATAL", "57P01", False),
        ("FATAL", "XX000", False),
        # A proxy that lost its own connection.
        ("ERROR", "08006", False),
        ("ERROR", "40003", False),
    ],
)
def test_only_an_error_of_a_session_that_lives_on_says_that_nothing_was_committed(
    severity: str, state: str, refused: bool
) -> None:
    assert _refused_commit(refusal_at_commit(severity, state)) is refused


def test_a_connection_lost_without_a_word_says_nothing_of_the_commit() -> None:
    assert not _refused_commit(psycopg.OperationalError("server closed the connection unexpectedly"))


def test_what_a_synchronous_standby_confirmed_outlives_the_server_and_its_disk(
    own_server: ThrowawayPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    own_server.create_database("muster")
    with ThrowawayPostgres(standby_of=own_server) as standby:
        with psycopg.connect(own_server.url("muster").replace("+psycopg", ""), autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
            admin.execute("SELECT pg_reload_conf()")
            wait_until(
                lambda: scalar(admin, "SELECT sync_state FROM pg_stat_replication") == "sync",
                "the standby to follow",
            )
        address = own_server.url_with(standby, "muster")
        with closing(open_store(address)) as store:
            assert "synchronous_standby_names" not in caplog.text
            assert store.claim_lease(HOLDER, expected_epoch=0, ttl_ns=TTL_NS) is not None
            acknowledged = [
                store.append([new_events(f"e{number}")], epoch=1).batches[0].sequence for number in range(20)
            ]
            with pytest.raises(StoreUnavailable, match="is a standby and takes no writes"):
                open_store(standby.url("muster"))
            own_server.kill()
            standby.promote()
            # The other server waits for no standby any more.
            with psycopg.connect(standby.url("muster").replace("+psycopg", ""), autocommit=True) as admin:
                admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
                admin.execute("SELECT pg_reload_conf()")

            claim = when_back(lambda: store.claim_lease(OTHER, expected_epoch=1, ttl_ns=TTL_NS))
            assert claim is not None
            assert acknowledged == list(range(1, 21))
            events = when_back(lambda: store.read_range(1))
            assert event_ids(events) == [f"e{number}" for number in range(20)]
            assert store.append([new_events("next")], epoch=2).batches == [Appended(21, 2, 0)]


def test_a_base_backup_holds_the_same_catalogue_under_the_same_name(own_server: ThrowawayPostgres) -> None:
    address = own_server.create_database("muster")
    make(address)
    original = verify_store(address)
    with ThrowawayPostgres(standby_of=own_server) as copy:
        own_server.kill()
        copy.promote()
        copied = verify_store(copy.url("muster"))
        assert copied.sound
        assert (copied.cluster_id, copied.digest) == (original.cluster_id, original.digest)


def test_a_byte_flipped_on_the_disk_of_the_server_is_named_and_comes_back(
    own_server: ThrowawayPostgres, tmp_path: Path
) -> None:
    address = own_server.create_database("muster")
    make(address)
    before = export_backup(address, tmp_path / "backup.gz").digest
    with raw(address) as admin:
        admin.execute("CHECKPOINT")
        [file] = admin.execute("SELECT pg_relation_filepath('log')").fetchone()
    own_server.kill()
    heap = own_server.folder / "data" / file
    content = bytearray(heap.read_bytes())
    # Of event 50, the only one with this title.
    assert content.count(b"a title 49") == 1
    content[content.index(b"a title 49") + 8] ^= 1
    heap.write_bytes(content)
    own_server.start()
    report = verify_store(address)
    if report.damaged != [50]:
        # With checksums of pages the server does not give out the page at all.
        assert [problem.part for problem in report.problems][:1] == ["file"]
        return
    assert [problem.text for problem in report.problems] == ["event 50 does not match its checksum"]
    assert repair(address, backup=tmp_path / "backup.gz").events == [50]
    assert verify_store(address).digest == before


def test_sessions_that_the_server_has_ended_meanwhile_cost_no_failed_call(
    store: PostgresStore, admin: psycopg.Connection
) -> None:
    store.append([new_events("a")], epoch=1)
    ended = "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE application_name ^@ 'muster '"
    assert admin.execute(ended).fetchall()
    assert store.append([new_events("b")], epoch=1).batches == [Appended(2, 1, 0)]
    assert store.lease() is not None


def test_a_server_that_hangs_is_given_up_and_found_again(own_server: ThrowawayPostgres) -> None:
    with closing(open_store(own_server.url(), StoreConfig(busy_timeout_ms=300))) as store:
        assert store.claim_lease(HOLDER, expected_epoch=0, ttl_ns=TTL_NS) is not None
        version = store.watch_version()
        version.read()
        own_server.freeze()
        for call in (
            store.head,
            store.lease,
            lambda: store.append([new_events("a")], epoch=1),
            lambda: store.renew_lease(epoch=1, holder=HOLDER.name, ttl_ns=TTL_NS),
        ):
            with pytest.raises(StoreUnavailable):
                call()
        own_server.thaw()
        version.close()

        appended = when_back(lambda: store.append([new_events("a")], epoch=1))
        assert appended.batches[0].sequence == 1


def test_the_same_stored_lease_reads_the_same_until_it_changes(store: PostgresStore, location: str) -> None:
    with closing(open_store(location)) as other:
        first = other.lease()
        assert other.lease() == first
        assert store.claim_lease(OTHER, expected_epoch=1, ttl_ns=TTL_NS) is not None
        assert other.lease() != first
