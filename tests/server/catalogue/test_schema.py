"""The schema's revisions, on files as older and newer versions of the code leave them."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pysqlite3 import dbapi2 as sqlite

from server.catalogue import schema
from server.catalogue.errors import SchemaMismatch, StoreDamaged
from server.catalogue.opening import open_store
from server.catalogue.sqlite import APPLICATION_ID, SqliteStore
from server.catalogue.store import Store
from tests.server.catalogue.conftest import HOLDER, TTL_NS, event_ids, new_events, raw_connection

VERSION_1 = f"""
CREATE TABLE meta ("key" TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY ("key"));
CREATE TABLE log (
    sequence INTEGER NOT NULL, epoch INTEGER NOT NULL, event_id TEXT NOT NULL,
    committed_unix_us INTEGER NOT NULL, payload BLOB NOT NULL, PRIMARY KEY (sequence), UNIQUE (event_id)
);
CREATE TABLE lease (
    name TEXT NOT NULL, epoch INTEGER NOT NULL, holder TEXT NOT NULL, pid INTEGER NOT NULL,
    pid_start_ticks INTEGER NOT NULL, boot_id TEXT NOT NULL, expires_monotonic_ns INTEGER NOT NULL,
    PRIMARY KEY (name)
);
INSERT INTO meta VALUES ('cluster_id', 'c0ffee'), ('schema_version', '1'), ('created_unix_us', '7');
INSERT INTO log VALUES (1, 3, 'old', 7, x'0a036f6c64');
INSERT INTO lease VALUES ('primary', 3, 'a/1', 1, 2, 'boot', 0);
PRAGMA application_id={APPLICATION_ID};
"""


@pytest.fixture
def location(path: Path) -> str:
    return str(path)


def revision_of(path: Path) -> str:
    with raw_connection(path) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def test_the_newest_revision_is_the_one_the_code_reads() -> None:
    scripts = ScriptDirectory(str(schema._MIGRATIONS))
    assert scripts.get_heads() == [schema.REVISION]


def test_the_revisions_lead_to_the_tables_the_code_uses(store: Store) -> None:
    assert isinstance(store, SqliteStore)
    with store._reading() as transaction:
        differences = compare_metadata(MigrationContext.configure(transaction), schema.metadata)
    assert differences == []


def test_a_catalogue_from_before_the_version_table_is_adopted_without_loss(path: Path) -> None:
    with raw_connection(path) as connection:
        connection.executescript(VERSION_1)
    store = open_store(path)
    assert store.cluster_id == "c0ffee"
    assert event_ids(store.read_range(1)) == ["old"]
    lease = store.lease()
    assert lease is not None
    assert lease.epoch == 3
    assert store.claim_lease(HOLDER, expected_epoch=3, ttl_ns=TTL_NS) is not None
    assert store.append([new_events("new")], epoch=4).batches[0].sequence == 2
    store.close()
    assert revision_of(path) == schema.REVISION


def test_the_code_from_before_the_version_table_still_reads_a_new_catalogue(store: Store, path: Path) -> None:
    with raw_connection(path) as connection:
        assert connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone() == ("1",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "UPDATE alembic_version SET version_num = '9999'",
            "revision 9999, which is newer than this Muster's",
        ),
        ("DROP TABLE alembic_version; UPDATE meta SET value = '2' WHERE key = 'schema_version'", "version 2"),
        ("DROP TABLE alembic_version; DELETE FROM meta WHERE key = 'schema_version'", "version none"),
    ],
)
def test_a_newer_or_unknown_schema_is_refused_and_left_alone(
    store: Store, path: Path, change: str, message: str
) -> None:
    store.close()
    with raw_connection(path) as connection:
        connection.executescript(change)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = path.read_bytes()
    with pytest.raises(SchemaMismatch, match=message) as caught:
        open_store(path)
    assert "nothing was changed" in str(caught.value)
    assert path.read_bytes() == before


def test_a_catalogue_with_a_missing_table_is_not_repaired_by_a_migration(store: Store, path: Path) -> None:
    store.close()
    with raw_connection(path) as connection:
        connection.executescript("DROP TABLE log; DROP TABLE alembic_version")
    with pytest.raises(StoreDamaged, match="lost its tables log"):
        open_store(path)


def test_a_current_catalogue_is_opened_while_another_process_holds_the_write_lock(
    store: Store, path: Path
) -> None:
    with raw_connection(path) as frozen:
        frozen.execute("BEGIN IMMEDIATE")
        open_store(path).close()
        frozen.execute("ROLLBACK")


def test_a_migration_that_fails_leaves_the_catalogue_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with raw_connection(path) as connection:
        connection.executescript(VERSION_1)

    def fail(*_: object) -> None:
        raise sa.exc.OperationalError("INSERT", {}, sqlite.OperationalError("no room"))

    monkeypatch.setattr("alembic.command.upgrade", fail)
    with pytest.raises(Exception, match="no room"):
        open_store(path)
    monkeypatch.undo()
    with raw_connection(path) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert tables == {"meta", "log", "lease"}
    store = open_store(path)
    assert event_ids(store.read_range(1)) == ["old"]
    store.close()
