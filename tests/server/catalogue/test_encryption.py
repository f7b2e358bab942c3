"""Encrypted catalogues: what the bytes give away, what a missing key does, keys that change, damage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError

from muster.v1.catalogue_pb2 import Event, Product, SequencedEvent
from muster.v1.feedback_pb2 import FEEDBACK_KIND_COMMENT, Feedback
from server.catalogue import commands
from server.catalogue.encryption import Encryption, is_encrypted
from server.catalogue.errors import CatalogueEncrypted, StoreDamaged, StoreUnavailable
from server.catalogue.export import export_backup, restore_backup
from server.catalogue.location import is_postgresql
from server.catalogue.opening import open_store
from server.catalogue.repair import RepairRefused, repair
from server.catalogue.retention import Retention, RetentionPolicy
from server.catalogue.sql import SqlStore
from server.catalogue.sqlite import contains
from server.catalogue.store import NewEvent, Place, Store, StoreConfig
from server.catalogue.verify import verify_store
from server.privacy.envelope import new_key, read_keys
from server.privacy.scan import Scan
from server.standby.lease import Holder
from tests.server.catalogue.folded import damage, raw

CANARY = "canary of a title"
COMMENT = "canary of a comment"


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with one key, looked at before each write."""
    monkeypatch.setattr("server.catalogue.encryption._LOOK_S", 0.0)
    path = tmp_path / "store.keys"
    new_key(path)
    return path


def opened(location: str, keys: Path | None) -> Store:
    return open_store(location, StoreConfig(encryption_keys=str(keys or "")))


def product(number: int) -> NewEvent:
    change = Product(product_id=f"p{number}", title=f"{CANARY} {number}", attributes={"a": "1", "b": "2"})
    return NewEvent.of(Event(event_id=f"e{number}", upsert=change))


def comment(number: int) -> NewEvent:
    said = Feedback(kind=FEEDBACK_KIND_COMMENT, product_id="p1", shopper=f"s{number}", comment=COMMENT)
    return NewEvent.of(Event(event_id=f"f{number}", feedback=said))


def begin(store: Store) -> None:
    store.claim_lease(Holder("a", 1, 1, "boot"), expected_epoch=0, ttl_ns=10**15)


def fill(store: Store, first: int = 0, count: int = 8) -> None:
    """Products and comments in turn."""
    numbers = range(first, first + count)
    store.append([[make(number) for number in numbers for make in (product, comment)]], epoch=1)


def fold(store: Store, last: int) -> None:
    store.fold(epoch=1, wanted=lambda row: row.sequence <= last, events_max=1000)


def said(store: Store) -> list[str]:
    """Titles and comments of everything, folded or not."""
    with store.view() as view:
        rows = [row.payload for row in view.snapshot_rows()] + [row.payload for row in view.log_rows()]
        events = [Event.FromString(payload) for payload in rows]
        comments = [feedback.comment for _, feedback in view.feedback()]
    return sorted([event.upsert.title for event in events if event.HasField("upsert")] + comments)


def cells(location: str, columns: str = "payload, checksum") -> list[bytes]:
    """What is stored, whatever it means."""
    found: list[bytes] = []
    with raw(location) as connection:
        for table in ("log", "snapshot", "feedback"):
            for row in connection.execute(f"SELECT {columns} FROM {table} ORDER BY sequence").fetchall():
                found += [bytes(value) for value in row]
        state = connection.execute(
            f"SELECT {columns} FROM snapshot_state".replace("payload", "rows_checksum")
        )
        found += [bytes(value) for row in state.fetchall() for value in row]
    return found


def payloads(location: str) -> list[bytes]:
    return cells(location, "payload")


def gives_away(location: str, text: str) -> bool:
    """Whether the store's bytes hold a text."""
    needle = text.encode()
    if not is_postgresql(location):
        return contains(Path(location), [needle]) or contains(Path(f"{location}-wal"), [needle])
    return any(needle in cell for cell in cells(location))


@pytest.fixture
def store(location: str, keys: Path) -> Iterator[Store]:
    with closing(opened(location, keys)) as store:
        begin(store)
        yield store


def test_what_was_said_is_in_no_byte_of_the_store_and_is_read_back(store: Store, location: str) -> None:
    fill(store)
    fold(store, 8)
    fill(store, first=20)
    assert not gives_away(location, CANARY)
    assert not gives_away(location, COMMENT)
    assert said(store) == sorted([f"{CANARY} {n}" for n in (*range(8), *range(20, 28))] + [COMMENT] * 16)
    tail = [SequencedEvent.FromString(data).event for data in store.read_range(9)]
    assert tail[0].upsert.title == f"{CANARY} 4"


def test_without_keys_the_same_bytes_are_there(location: str) -> None:
    with closing(opened(location, None)) as store:
        begin(store)
        fill(store)
        assert gives_away(location, CANARY)
        assert gives_away(location, COMMENT)


def test_the_same_event_is_never_stored_as_the_same_bytes(
    store: Store, location: str, elsewhere: str, keys: Path
) -> None:
    fill(store)
    with closing(opened(elsewhere, keys)) as other:
        begin(other)
        fill(other)
    assert not set(cells(location)) & set(cells(elsewhere))


def test_checksums_in_the_store_are_not_those_of_the_plain_rows(store: Store, location: str) -> None:
    fill(store)
    with store.view() as view:
        plain = {row.checksum for row in view.log_rows()}
        assert all(row.checksum == row.true_checksum() for row in view.log_rows())
    assert not plain & set(cells(location, "checksum"))


def test_a_replica_without_the_keys_or_with_others_is_refused_and_changes_nothing(
    store: Store, location: str, tmp_path: Path
) -> None:
    fill(store)
    before = cells(location)
    with pytest.raises(CatalogueEncrypted, match="name its keys"):
        opened(location, None)
    others = tmp_path / "others.keys"
    new_key(others)
    with pytest.raises(CatalogueEncrypted, match="needs the key"):
        opened(location, others)
    with pytest.raises(CatalogueEncrypted, match="cannot be read"):
        opened(location, tmp_path / "absent.keys")
    name = read_keys(str(others)).newest
    mine = read_keys(str(tmp_path / "store.keys")).newest
    # The same name, another key.
    others.write_text(others.read_text().replace(name, mine))
    with pytest.raises(CatalogueEncrypted, match="is another one"):
        opened(location, others)
    assert cells(location) == before


def test_a_replica_that_began_before_there_were_keys_says_what_it_needs(location: str, keys: Path) -> None:
    with closing(opened(location, None)) as follower, closing(opened(location, keys)) as primary:
        begin(primary)
        assert follower.head().sequence == 0
        fill(primary)
        with pytest.raises(CatalogueEncrypted, match="name its keys"):
            follower.read_range(1)


def test_what_was_plain_before_is_read_and_encrypted_by_and_by(location: str, keys: Path) -> None:
    with closing(opened(location, None)) as store:
        begin(store)
        fill(store)
        fold(store, 8)
        before = said(store)
    with closing(opened(location, keys)) as store:
        fill(store, first=20, count=1)
        assert said(store) == sorted([*before, f"{CANARY} 20", COMMENT])
        assert sum(map(is_encrypted, payloads(location))) == 2
        place: Place | None = Place()
        while place is not None:
            place = store.encrypt(epoch=1, after=place, rows_max=3)
        assert all(map(is_encrypted, payloads(location)))
        assert not gives_away(location, CANARY)
        assert not gives_away(location, COMMENT)
        assert said(store) == sorted([*before, f"{CANARY} 20", COMMENT])
        # Once is enough.
        assert store.encrypt(epoch=1, after=Place(), rows_max=3) is None
        fold(store, 12)
        assert said(store) == sorted([*before, f"{CANARY} 20", COMMENT])
    assert verify_store(location, store_keys=str(keys)).sound


def test_the_primary_encrypts_what_was_plain_as_it_keeps_the_log(location: str, keys: Path) -> None:
    with closing(opened(location, None)) as store:
        begin(store)
        fill(store)
    policy = RetentionPolicy(events_max=0, hours=0, ids_max=10**6, id_hours=10**6)
    with closing(opened(location, keys)) as store:
        Retention(store, policy, lambda: 1).look()
    assert all(map(is_encrypted, payloads(location)))


def test_a_damaged_plain_row_is_not_hidden_by_encrypting_it(location: str, keys: Path) -> None:
    with closing(opened(location, None)) as store:
        begin(store)
        fill(store)
    damage(location, "UPDATE log SET epoch = 7 WHERE sequence = 5")
    with closing(opened(location, keys)) as store:
        place: Place | None = Place()
        while place is not None:
            place = store.encrypt(epoch=1, after=place, rows_max=100)
    report = verify_store(location, store_keys=str(keys))
    assert report.damaged == [5]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE log SET payload = (SELECT payload FROM log WHERE sequence = 3) WHERE sequence = 5",
        "UPDATE log SET committed_unix_us = committed_unix_us + 1 WHERE sequence = 5",
        "UPDATE log SET epoch = 2 WHERE sequence = 5",
        "UPDATE log SET checksum = (SELECT checksum FROM log WHERE sequence = 3) WHERE sequence = 5",
        "UPDATE log SET payload = (SELECT payload FROM log WHERE sequence = 3),"
        " checksum = (SELECT checksum FROM log WHERE sequence = 3) WHERE sequence = 5",
    ],
)
def test_a_record_in_the_place_of_another_is_noticed(
    store: Store, location: str, keys: Path, statement: str
) -> None:
    fill(store)
    damage(location, statement)
    with pytest.raises(StoreDamaged, match="event 5"):
        store.read_range(1)
    assert verify_store(location, store_keys=str(keys)).damaged == [5]


def test_a_record_of_another_catalogue_is_noticed(
    store: Store, location: str, elsewhere: str, keys: Path, tmp_path: Path
) -> None:
    fill(store)
    file = tmp_path / "backup.gz"
    export_backup(location, file, store_keys=str(keys))
    restore_backup(file, elsewhere, store_keys=str(keys))
    with raw(location) as mine, raw(elsewhere) as other:
        stored = mine.execute("SELECT payload, checksum FROM log WHERE sequence = 5").fetchone()
        mark = "%s" if is_postgresql(location) else "?"
        # The key comes along too: only the catalogue's name differs.
        key = mine.execute("SELECT * FROM data_key").fetchone()
        other.execute(f"INSERT INTO data_key VALUES ({', '.join([mark] * len(key))})", tuple(key))
        other.execute(f"UPDATE log SET payload = {mark}, checksum = {mark} WHERE sequence = 5", tuple(stored))
    with pytest.raises(CatalogueEncrypted, match="head was changed"):
        opened(elsewhere, keys)


def test_a_new_key_takes_over_while_the_store_serves_and_the_old_one_can_go(
    store: Store, location: str, keys: Path
) -> None:
    fill(store)
    old = read_keys(str(keys)).newest
    with closing(opened(location, keys)) as follower:
        assert said(follower) == said(store)
        new = new_key(keys)
        fill(store, first=20)
        with raw(location) as connection:
            rows = connection.execute(
                "SELECT drawn_under, wrapped_by FROM data_key ORDER BY first_sequence"
            ).fetchall()
        assert [tuple(row) for row in rows] == [(old, new), (new, new)]
        # A follower reads its keys again when it meets the new one.
        assert said(follower) == said(store)
    keys.write_text(keys.read_text().splitlines()[0] + "\n")
    with closing(opened(location, keys)) as again:
        assert len(said(again)) == 32


def test_a_file_of_keys_that_breaks_while_serving_stops_no_write(
    store: Store, location: str, keys: Path
) -> None:
    fill(store)
    keys.write_text("half a k")
    fill(store, first=20)
    assert len(said(store)) == 32
    assert not gives_away(location, CANARY)


def test_a_data_key_is_used_only_once_its_own_row_is_durable(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(store, SqlStore)
    drawn = []

    def renew(self: Encryption, transaction: object) -> object:
        drawn.append(1)
        raise StoreUnavailable("the commit failed")

    with monkeypatch.context() as patched:
        patched.setattr(Encryption, "renew", renew)
        with pytest.raises(StoreUnavailable):
            fill(store)
    assert drawn
    assert store.head().sequence == 0
    fill(store)
    with store._reading() as transaction:
        # A key that is in the table alone opens it all.
        Encryption(store._config.encryption_keys).check(transaction)  # type: ignore[attr-defined]


def test_erased_feedback_is_gone_and_what_is_left_is_encrypted(
    store: Store, location: str, keys: Path
) -> None:
    fill(store)
    fold(store, 8)
    done = store.erase_feedback(
        epoch=1, first_sequence=1, wanted=lambda row, feedback: feedback.shopper != "s7", rows_max=100
    )
    assert (done.log_events, done.folded_events) == (3, 4)
    assert said(store).count(COMMENT) == 1
    assert all(map(is_encrypted, payloads(location)))
    assert verify_store(location, store_keys=str(keys)).sound


def test_backups_are_the_same_whether_the_store_is_encrypted_or_not(
    store: Store, location: str, elsewhere: str, keys: Path, tmp_path: Path
) -> None:
    fill(store)
    fold(store, 8)
    file = tmp_path / "backup.gz"
    written = export_backup(location, file, store_keys=str(keys))
    assert verify_store(location, store_keys=str(keys)).digest == written.digest
    with pytest.raises(CatalogueEncrypted):
        export_backup(location, tmp_path / "no.gz")
    assert not (tmp_path / "no.gz").exists()
    restored = restore_backup(file, elsewhere)
    assert restored.digest == written.digest
    assert gives_away(elsewhere, CANARY)


def test_a_restored_catalogue_is_encrypted_where_keys_are_named(
    store: Store, location: str, elsewhere: str, keys: Path, tmp_path: Path
) -> None:
    fill(store)
    fold(store, 8)
    before = said(store)
    file = tmp_path / "backup.gz"
    export_backup(location, file, store_keys=str(keys))
    restore_backup(file, elsewhere, store_keys=str(keys))
    assert all(map(is_encrypted, payloads(elsewhere)))
    assert not gives_away(elsewhere, CANARY)
    with closing(opened(elsewhere, keys)) as other:
        assert said(other) == before


@pytest.mark.parametrize(
    ("statement", "rows"),
    [
        ("UPDATE log SET payload = {flipped} WHERE sequence = 10", 1),
        ("UPDATE log SET epoch = 7 WHERE sequence = 10", 1),
        ("UPDATE log SET checksum = x'0011223344556677' WHERE sequence = 10", 1),
        ("DELETE FROM log WHERE sequence = 10", 1),
        ("UPDATE snapshot SET payload = {flipped} WHERE product_id = 'p1'", 1),
    ],
)
def test_damaged_rows_come_back_from_a_backup_and_are_encrypted_again(
    location: str, keys: Path, tmp_path: Path, statement: str, rows: int
) -> None:
    with closing(opened(location, keys)) as store:
        begin(store)
        fill(store)
        fold(store, 8)
    file = tmp_path / "backup.gz"
    digest = export_backup(location, file, store_keys=str(keys)).digest
    flipped = "CAST(substr(payload, 1, 30) || x'7e' || substr(payload, 32) AS BLOB)"
    if is_postgresql(location):
        flipped = "set_byte(payload, 30, get_byte(payload, 30) # 255)"
    damage(location, statement.format(flipped=flipped))
    with pytest.raises(RepairRefused):
        repair(location, store_keys=str(keys))
    done = repair(location, backup=file, store_keys=str(keys))
    assert len(done.events) + len(done.products) == rows
    assert verify_store(location, store_keys=str(keys)).digest == digest
    assert all(map(is_encrypted, payloads(location)))


def test_a_scan_looks_into_encrypted_rows_and_says_when_it_cannot(
    store: Store, location: str, keys: Path
) -> None:
    fill(store)

    def scanned(store_keys: str) -> tuple[int, int]:
        scan = Scan({"comment": COMMENT}, store_keys=store_keys)
        if is_postgresql(location):
            scan.database(location)
        else:
            scan.file(Path(location))
        return len(scan.result.finds), len(scan.result.unread)

    assert scanned(str(keys)) == (1, 0)
    if is_postgresql(location):
        with pytest.raises(CatalogueEncrypted):
            scanned("")
    else:
        assert scanned("") == (0, 1)


def test_the_commands_ask_for_keys_and_wrap_data_keys_anew(
    location: str, keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(opened(location, keys)) as store:
        begin(store)
        fill(store)
    assert commands.main(["verify", "--store", location]) == commands.EXIT_USAGE
    assert "--store-keys" in capsys.readouterr().err
    given = ["--store", location, "--store-keys", str(keys)]
    assert commands.main(["verify", *given]) == 0
    old = keys.read_text()
    new_key(keys)
    assert commands.main(["rewrap", "--store", location, "--store-keys", ""]) == commands.EXIT_USAGE
    assert commands.main(["rewrap", *given]) == 0
    assert "1 data keys were wrapped anew" in capsys.readouterr().out
    keys.write_text(keys.read_text().removesuffix(old))
    assert commands.main(["verify", *given]) == 0


def test_no_encrypted_payload_is_taken_for_an_event(store: Store, location: str) -> None:
    fill(store)
    for payload in payloads(location):
        with pytest.raises(DecodeError):
            Event.FromString(payload)
