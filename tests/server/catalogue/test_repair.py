"""Rows come back only where they are proved; otherwise nothing changes and what is lost is said."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drills.rig.postgres import ThrowawayPostgres
from muster.v1.catalogue_pb2 import Event
from server.catalogue.backup import BackupRefused
from server.catalogue.errors import StoreUnavailable
from server.catalogue.export import export_backup, restore_backup
from server.catalogue.location import is_postgresql
from server.catalogue.opening import open_store
from server.catalogue.repair import Repaired, RepairRefused, repair
from server.catalogue.verify import verify_store
from tests.server.catalogue.folded import FLIP, content, damage, make, new_event, raw
from tests.server.commit_cutter import CommitCutter, Moment

Row: TypeAlias = tuple[Any, ...]

FLIPPED = f"UPDATE log SET {FLIP} WHERE sequence = 50"


@pytest.fixture
def catalogue(location: str) -> str:
    make(location)
    return location


@pytest.fixture
def backup(catalogue: str, tmp_path: Path) -> Path:
    file = tmp_path / "backup.gz"
    export_backup(catalogue, file)
    return file


def products_of(location: str) -> list[bytes]:
    """The products as a generation would hold them."""
    store = open_store(location)
    with store.view() as view:
        events = [Event.FromString(row.payload) for row in (*view.snapshot_rows(), *view.log_rows())]
    store.close()
    return [event.upsert.SerializeToString() for event in events if event.WhichOneof("change") == "upsert"]


@pytest.mark.parametrize(
    ("statement", "rows"),
    [
        (FLIPPED, 1),
        ("DELETE FROM log WHERE sequence IN (47, 48)", 2),
        ("UPDATE log SET event_id = 'x' WHERE sequence = 50", 1),
        ("UPDATE log SET epoch = 1 WHERE sequence = 50", 1),
        ("UPDATE log SET checksum = x'0011223344556677' WHERE sequence = 50", 1),
        (f"UPDATE snapshot SET {FLIP} WHERE product_id IN ('p2', 'p3')", 2),
    ],
)
def test_rows_come_back_from_a_backup(catalogue: str, backup: Path, statement: str, rows: int) -> None:
    before = content(catalogue)
    damage(catalogue, statement)
    damaged = content(catalogue)
    done = repair(catalogue, backup=backup)
    assert content(catalogue) == before
    assert verify_store(catalogue).sound
    assert len(done.events) + len(done.products) == rows
    assert kept(catalogue, done) == (damaged if not is_postgresql(catalogue) else changed(damaged, before))
    open_store(catalogue).close()


def changed(damaged: list[list[Row]], before: list[list[Row]]) -> list[list[Row]]:
    """The rows of log and snapshot that are not as before."""
    tables = [
        [row for row in rows if row not in good] for rows, good in zip(damaged[:2], before[:2], strict=True)
    ]
    return [rows for rows in tables if rows]


def kept(catalogue: str, done: Repaired) -> list[list[Row]]:
    """What was there before the repair, as far as it was kept."""
    if not is_postgresql(catalogue):
        [copy] = done.kept
        return content(copy)
    with raw(catalogue) as connection:
        return [
            connection.execute(f"SELECT * FROM {table} ORDER BY sequence").fetchall() for table in done.kept
        ]


def test_a_sound_catalogue_is_left_alone(catalogue: str, backup: Path) -> None:
    done = repair(catalogue, backup=backup)
    assert (done.events, done.products, done.kept) == ([], [], [])


def test_a_sound_file_gets_no_copy(backup: Path, path: Path) -> None:
    repair(path, backup=backup)
    assert [file.name for file in path.parent.glob("*.damaged-*")] == []


def test_without_a_source_nothing_changes_and_what_is_lost_is_said(catalogue: str) -> None:
    damage(catalogue, FLIPPED, "DELETE FROM log WHERE sequence IN (47, 48)")
    before = content(catalogue)
    with pytest.raises(RepairRefused, match="no source proves event 47, event 48, event 50") as caught:
        repair(catalogue)
    assert caught.value.lost == ["event 47", "event 48", "event 50"]
    assert caught.value.intact_sequence == 46
    assert content(catalogue) == before


def test_all_or_nothing_is_put_back(catalogue: str, backup: Path, tmp_path: Path) -> None:
    older = tmp_path / "older.gz"
    export_backup(catalogue, older, until=48)
    damage(catalogue, FLIPPED, "DELETE FROM log WHERE sequence = 47")
    before = content(catalogue)
    with pytest.raises(RepairRefused) as caught:
        repair(catalogue, backup=older)
    assert caught.value.lost == ["event 50"]
    assert content(catalogue) == before


def test_a_missing_row_is_taken_only_from_a_backup_of_the_same_catalogue(
    catalogue: str, backup: Path, elsewhere: str, tmp_path: Path
) -> None:
    twin = elsewhere
    restore_backup(backup, twin)
    of_twin = tmp_path / "twin.gz"
    export_backup(twin, of_twin)
    # A checksum proves a row wherever it comes from; nothing proves a row that is gone.
    damage(catalogue, FLIPPED)
    assert repair(catalogue, backup=of_twin).events == [50]
    damage(catalogue, "DELETE FROM log WHERE sequence = 47")
    with pytest.raises(RepairRefused, match="event 47"):
        repair(catalogue, backup=of_twin)
    assert repair(catalogue, backup=backup).events == [47]


def test_a_row_that_says_otherwise_than_the_backup_is_not_replaced_by_it(
    catalogue: str, backup: Path, tmp_path: Path
) -> None:
    """The catalogue went another way after the backup: what it says there is not what was here."""
    damage(catalogue, "DELETE FROM log WHERE sequence > 48", "UPDATE lease SET epoch = 2")
    store = open_store(catalogue)
    store.append([[new_event(900 + number) for number in range(5)]], epoch=2)
    store.close()
    damage(catalogue, FLIPPED)
    with pytest.raises(RepairRefused, match="event 50"):
        repair(catalogue, backup=backup)


def test_rows_come_back_from_the_products_of_a_generation(catalogue: str) -> None:
    before = content(catalogue)
    products = products_of(catalogue)
    # Event 59 is an upsert; every row of the snapshot is one.
    damage(
        catalogue,
        f"UPDATE log SET {FLIP} WHERE sequence = 59",
        f"UPDATE snapshot SET {FLIP} WHERE product_id = 'p4'",
    )
    done = repair(catalogue, products=products)
    assert (done.events, done.products) == ([59], ["p4"])
    assert content(catalogue) == before


def test_a_patch_or_a_changed_product_is_not_guessed_from_a_generation(catalogue: str) -> None:
    products = products_of(catalogue)
    damage(catalogue, f"UPDATE log SET {FLIP} WHERE sequence = 60")
    with pytest.raises(RepairRefused, match="event 60"):
        repair(catalogue, products=products)


def test_damage_of_more_than_rows_is_refused(catalogue: str, backup: Path) -> None:
    damage(catalogue, "DELETE FROM snapshot WHERE product_id = 'p1'")
    with pytest.raises(RepairRefused, match="snapshot as a whole"):
        repair(catalogue, backup=backup)


def test_a_catalogue_in_use_is_not_repaired(catalogue: str, backup: Path) -> None:
    damage(catalogue, FLIPPED)
    store = open_store(catalogue)
    store.head()
    with pytest.raises(StoreUnavailable, match="stop every replica"):
        repair(catalogue, backup=backup)
    store.close()
    assert repair(catalogue, backup=backup).events == [50]


@pytest.mark.postgresql
@pytest.mark.parametrize("moment", Moment)
def test_a_repair_that_is_cut_at_its_commit_says_that_one_has_to_look(
    postgres: ThrowawayPostgres, database: str, tmp_path: Path, moment: Moment
) -> None:
    make(database)
    digest = export_backup(database, tmp_path / "backup.gz").digest
    damage(database, FLIPPED)
    with CommitCutter(postgres) as cutter:
        # The rows that are replaced go into a table of this name first.
        cutter.cut(b"log_damaged_", moment)
        with pytest.raises(StoreUnavailable, match="`muster catalogue verify` shows whether"):
            repair(cutter.url("muster_test"), backup=tmp_path / "backup.gz")
        assert cutter.cuts == 1
    again = repair(database, backup=tmp_path / "backup.gz")
    assert again.events == ([50] if moment is Moment.BEFORE else [])
    assert verify_store(database).digest == digest


def test_a_damaged_backup_repairs_nothing(catalogue: str, backup: Path) -> None:
    damage(catalogue, FLIPPED)
    before = content(catalogue)
    data = bytearray(backup.read_bytes())
    data[len(data) // 2] ^= 1
    backup.write_bytes(data)
    with pytest.raises(BackupRefused):
        repair(catalogue, backup=backup)
    assert content(catalogue) == before


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("whole")
    make(folder / "catalogue.sqlite3")
    export_backup(folder / "catalogue.sqlite3", folder / "backup.gz")
    return folder / "catalogue.sqlite3", folder / "backup.gz"


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(sequence=st.integers(41, 60), at=st.integers(1, 60), bit=st.integers(0, 7))
def test_any_flipped_bit_of_any_event_is_found_and_comes_back(
    whole: tuple[Path, Path], tmp_path: Path, sequence: int, at: int, bit: int
) -> None:
    original, backup = whole
    path = tmp_path / "flipped.sqlite3"
    shutil.copy(original, path)
    with raw(path) as connection:
        [payload] = connection.execute("SELECT payload FROM log WHERE sequence = ?", (sequence,)).fetchone()
        at %= len(payload)
        flipped = payload[:at] + bytes([payload[at] ^ 1 << bit]) + payload[at + 1 :]
        connection.execute("UPDATE log SET payload = ? WHERE sequence = ?", (flipped, sequence))
    assert verify_store(path).damaged == [sequence]
    assert repair(path, backup=backup).events == [sequence]
    assert content(path) == content(original)
    for leftover in tmp_path.glob("flipped*"):
        leftover.unlink()
