"""A backup holds everything, gives it back, and is refused as soon as a byte of it is wrong."""

from __future__ import annotations

import gzip
import json
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drills.rig.postgres import ThrowawayPostgres
from server.catalogue import backup as backup_module
from server.catalogue.backup import BackupRefused, open_backup
from server.catalogue.errors import Fenced, StoreDamaged, StoreUnavailable
from server.catalogue.export import EPOCH_GAP, RestoreRefused, export_backup, restore_backup
from server.catalogue.location import is_postgresql
from server.catalogue.opening import open_store
from server.catalogue.store import Appended
from server.catalogue.verify import verify_store
from server.standby.lease import Holder
from tests.server.catalogue.folded import EVENTS, FLIP, FOLDED, content, damage, make, new_event, raw
from tests.server.commit_cutter import CommitCutter, Moment


@pytest.fixture
def catalogue(location: str) -> str:
    make(location)
    return location


@pytest.fixture
def file(catalogue: str, tmp_path: Path) -> Path:
    file = tmp_path / "backup.gz"
    export_backup(catalogue, file)
    return file


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "copy" / "catalogue.sqlite3"


def lines(file: Path) -> list[bytes]:
    return gzip.decompress(file.read_bytes()).splitlines(keepends=True)


def nothing_at(location: str) -> bool:
    if not is_postgresql(location):
        return not Path(location).exists()
    with raw(location) as connection:
        tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        return bool(connection.execute(tables).fetchone()[0] == 0)


# --- both stores -----------------------------------------------------------------------------------------


def test_a_restored_catalogue_is_equal_by_every_row_and_by_its_digest(
    catalogue: str, file: Path, elsewhere: str, tmp_path: Path
) -> None:
    restored = restore_backup(file, elsewhere)
    assert restored.complete
    assert (restored.head_sequence, restored.snapshot_sequence, restored.products) == (EVENTS, FOLDED, 10)
    assert content(elsewhere) == content(catalogue)
    verified = [verify_store(place) for place in (catalogue, elsewhere)]
    assert all(report.sound for report in verified)
    again = export_backup(elsewhere, tmp_path / "again.gz")
    assert {again.digest, restored.digest, *(report.digest for report in verified)} == {
        export_backup(catalogue, tmp_path / "third.gz").digest
    }


@pytest.mark.postgresql
def test_a_catalogue_moves_between_the_stores_and_back(database: str, path: Path, tmp_path: Path) -> None:
    make(path)
    there, back = tmp_path / "there.gz", tmp_path / "back.gz"
    copy = tmp_path / "copy.sqlite3"
    digests = [
        export_backup(path, there).digest,
        restore_backup(there, database).digest,
        export_backup(database, back).digest,
        restore_backup(back, copy).digest,
        *(verify_store(place).digest for place in (path, database, copy)),
    ]
    assert len(set(digests)) == 1
    assert content(copy) == content(path)


def test_the_digest_is_of_the_rows_and_of_nothing_else(catalogue: str, file: Path, elsewhere: str) -> None:
    before = verify_store(catalogue).digest
    with closing(open_store(catalogue)) as store:
        store.claim_lease(Holder("b", 1, 1, "boot"), expected_epoch=2, ttl_ns=10**15)
        assert verify_store(catalogue).digest == before
        store.append([[new_event(500)]], epoch=3)
    assert verify_store(catalogue).digest != before
    damage(catalogue, f"UPDATE log SET {FLIP} WHERE sequence = 50")
    assert verify_store(catalogue).digest == ""


@pytest.mark.parametrize("until", [FOLDED, 45, EVENTS])
def test_a_moment_is_chosen_by_its_sequence_on_either_side(
    catalogue: str, file: Path, elsewhere: str, tmp_path: Path, until: int
) -> None:
    restored = restore_backup(file, elsewhere, until=until)
    assert (restored.head_sequence, restored.complete) == (until, until == EVENTS)
    cut = export_backup(catalogue, tmp_path / "cut.gz", until=until)
    assert cut.header.head_sequence == until
    assert cut.digest == restored.digest == verify_store(elsewhere).digest
    with closing(open_store(elsewhere)) as store:
        assert store.head().sequence == until
        holder = Holder("b", 1, 1, "boot")
        assert store.claim_lease(holder, expected_epoch=restored.epoch, ttl_ns=10**15) is not None
        assert store.append([[new_event(500)]], epoch=restored.epoch + 1).batches[0].sequence == until + 1
    assert verify_store(elsewhere).sound


@pytest.mark.parametrize("until", [FOLDED - 1, EVENTS + 1])
def test_a_moment_that_is_not_there_is_refused(
    catalogue: str, file: Path, elsewhere: str, tmp_path: Path, until: int
) -> None:
    with pytest.raises(RestoreRefused, match=str(FOLDED)):
        restore_backup(file, elsewhere, until=until)
    with pytest.raises(RestoreRefused):
        export_backup(catalogue, tmp_path / "x.gz", until=until)
    assert nothing_at(elsewhere)


def test_late_retries_are_still_recognised_after_a_restore(file: Path, elsewhere: str) -> None:
    restored = restore_backup(file, elsewhere)
    with closing(open_store(elsewhere)) as store:
        store.claim_lease(Holder("b", 1, 1, "boot"), expected_epoch=restored.epoch, ttl_ns=10**15)
        late = store.append([[new_event(3), new_event(55)]], epoch=restored.epoch + 1)
        assert late.batches == [Appended(56, restored.epoch + 1, 2)]


def test_a_primary_of_before_is_fenced_and_the_catalogue_has_another_name(
    catalogue: str, file: Path, elsewhere: str
) -> None:
    restored = restore_backup(file, elsewhere)
    with closing(open_store(catalogue)) as before, closing(open_store(elsewhere)) as store:
        assert restored.epoch == 2 + EPOCH_GAP
        assert store.cluster_id == restored.cluster_id != before.cluster_id
        for epoch in (2, 3, restored.epoch - 1):
            with pytest.raises(Fenced):
                store.append([[new_event(99)]], epoch=epoch)
            assert store.renew_lease(epoch=epoch, holder="a", ttl_ns=10**9) is None
        lease = store.lease()
        assert lease is not None
        assert (lease.epoch, lease.expires_monotonic_ns) == (restored.epoch, 0)


def test_what_is_there_is_kept_unless_told(catalogue: str, file: Path) -> None:
    before = content(catalogue)
    with pytest.raises(RestoreRefused, match="already"):
        restore_backup(file, catalogue)
    assert content(catalogue) == before


def test_a_backup_that_turns_out_damaged_leaves_nothing(file: Path, elsewhere: str) -> None:
    rewritten(file, [*lines(file)[:-1], lines(file)[-1].replace(b'"digest":"', b'"digest":"0')])
    with pytest.raises(BackupRefused, match="digest"):
        restore_backup(file, elsewhere)
    assert nothing_at(elsewhere)


def test_a_backup_is_of_one_moment_while_events_come_and_are_folded(
    catalogue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_store(catalogue)) as store:
        expected = export_backup(catalogue, tmp_path / "quiet.gz")
        real = backup_module._line
        written = 0

        def line(record: backup_module.Record) -> bytes:
            nonlocal written
            written += 1
            store.append([[new_event(1000 + written)]], epoch=2)
            store.fold(epoch=2, wanted=lambda row: True, events_max=3)
            return real(record)

        monkeypatch.setattr(backup_module, "_line", line)
        busy = export_backup(catalogue, tmp_path / "busy.gz")
        assert store.head().sequence == EVENTS + written
        assert (busy.digest, busy.header.head_sequence) == (expected.digest, EVENTS)


def test_a_damaged_catalogue_is_not_backed_up_and_leaves_no_file(catalogue: str, tmp_path: Path) -> None:
    damage(catalogue, f"UPDATE log SET {FLIP} WHERE sequence = 50")
    before = set(tmp_path.iterdir())
    with pytest.raises(StoreDamaged, match="event 50"):
        export_backup(catalogue, tmp_path / "backup.gz")
    assert {path for path in tmp_path.iterdir() if path.suffix == ".gz" or "backup" in path.name} <= before


# --- what is there already -------------------------------------------------------------------------------


def test_a_file_that_is_there_is_set_aside_with_its_generations(file: Path, path: Path) -> None:
    before = path.read_bytes()
    generations = path.with_name("generations")
    (generations / "gen-1").mkdir(parents=True)
    restored = restore_backup(file, path, replace=True)
    assert restored.set_aside is not None
    assert restored.set_aside.read_bytes() == before
    assert not generations.exists()
    assert [path.name for path in path.parent.glob("generations.replaced-*/*")] == ["gen-1"]
    assert verify_store(path).sound


def test_a_file_in_use_is_not_replaced(file: Path, path: Path) -> None:
    store = open_store(path)
    store.head()
    with pytest.raises(StoreUnavailable, match="stop every replica"):
        restore_backup(file, path, replace=True)
    store.close()
    assert verify_store(path).sound


@pytest.mark.postgresql
def test_a_database_is_never_set_aside(database: str, path: Path, tmp_path: Path) -> None:
    make(path)
    export_backup(path, tmp_path / "backup.gz")
    with pytest.raises(RestoreRefused, match="restore into an empty one"):
        restore_backup(tmp_path / "backup.gz", database, replace=True)
    assert nothing_at(database)


@pytest.mark.postgresql
@pytest.mark.parametrize("moment", Moment)
def test_a_restore_that_is_cut_at_its_commit_says_that_one_has_to_look(
    postgres: ThrowawayPostgres, database: str, path: Path, tmp_path: Path, moment: Moment
) -> None:
    make(path)
    digest = export_backup(path, tmp_path / "backup.gz").digest
    with CommitCutter(postgres) as cutter:
        cutter.cut(b"cluster_id", moment)
        with pytest.raises(RestoreRefused, match="`muster catalogue verify` shows whether"):
            restore_backup(tmp_path / "backup.gz", cutter.url("muster_test"))
        assert cutter.cuts == 1
    if moment is Moment.BEFORE:
        assert restore_backup(tmp_path / "backup.gz", database).digest == digest
    assert verify_store(database).digest == digest


# --- the file --------------------------------------------------------------------------------------------


def test_a_failed_write_keeps_the_backup_of_before(
    file: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup_module.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        export_backup(path, file)
    assert file.read_bytes() == before
    assert list(file.parent.glob(".backup*")) == []


def test_a_person_can_look_into_a_backup(file: Path, path: Path) -> None:
    first, *records, last = [json.loads(line) for line in lines(file)]
    assert (first["format"], first["version"], first["records"]) == ("muster-catalogue", 2, len(records))
    assert [record["kind"] for record in records] == (
        ["state"] + ["event_id"] * FOLDED + ["product"] * 10 + ["event"] * (EVENTS - FOLDED)
    )
    assert last["records"] == len(records)


# --- files that are not backups, or not whole ones ---------------------------------------------------------


def refused(file: Path, copy: Path, message: str) -> None:
    with pytest.raises(BackupRefused, match=message):
        restore_backup(file, copy)
    assert list(copy.parent.glob("*")) == [] or not copy.parent.exists()


def rewritten(file: Path, content: list[bytes]) -> Path:
    file.write_bytes(gzip.compress(b"".join(content)))
    return file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found[:-1], "ends before its end record"),
        (lambda found: found[:20] + found[21:], "line 21|records"),
        (lambda found: found[:55] + found[56:], "event 45 is missing|event 44 is missing"),
        (lambda found: [*found[:3], found[2], *found[3:]], "wrong place"),
        (lambda found: [*found, b"{}\n"], "something follows"),
        (lambda found: [found[0], *found[2:]], "state of the snapshot is missing"),
        (lambda found: [found[0].replace(b'"version":2', b'"version":3'), *found[1:]], "version 3"),
        (lambda found: [found[0].replace(b"muster-catalogue", b"other"), *found[1:]], "not a backup"),
        (lambda found: [found[0].replace(b'"head_epoch":2', b'"head_epoch":7'), *found[1:]], "ends at event"),
        (lambda found: [b"[]\n", *found[1:]], "not a JSON object"),
        (lambda found: [*found[:5], b"{" * 100_000 + b"\n", *found[5:]], "not JSON"),
        (lambda found: [*found[:-1], found[-1].replace(b'"digest":"', b'"digest":"0')], "digest"),
        (lambda found: [*found[:5], b'{"kind":"other","sequence":1}\n', *found[5:]], "line 6"),
        (lambda found: [*found[:5], b'{"kind":"event_id","sequence":-1}\n', *found[5:]], "sequence is not"),
        (lambda found: [*found[:5], b'{"kind":"event_id","sequence":true}\n', *found[5:]], "sequence is not"),
    ],
)
def test_a_backup_with_another_shape_is_refused_by_its_line(
    file: Path, path: Path, copy: Path, change: object, message: str
) -> None:
    refused(rewritten(file, change(lines(file))), copy, message)  # type: ignore[operator]


@pytest.mark.parametrize("content", [b"", b"no gzip at all", b"\x1f\x8b\x08\x00"])
def test_a_file_that_is_no_gzip_is_refused(tmp_path: Path, copy: Path, content: bytes) -> None:
    file = tmp_path / "backup.gz"
    file.write_bytes(content)
    refused(file, copy, "is refused, line 1")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_backup_that_was_cut_short_is_refused(file: Path, path: Path, copy: Path, share: float) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    refused(file, copy, "is refused")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(at=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_no_changed_byte_under_the_gzip_passes(file: Path, path: Path, at: float, value: int) -> None:
    original = lines(file)
    content = bytearray(b"".join(original))
    place = int(at * len(content))
    # The first line's free fields are what a person may change: they are not part of the catalogue.
    if content[place] == value or place < len(original[0]):
        return
    content[place] = value
    changed = file.with_name("changed.gz")
    changed.write_bytes(gzip.compress(bytes(content), 1))
    with pytest.raises(BackupRefused), open_backup(changed) as reader:
        list(reader.records())
