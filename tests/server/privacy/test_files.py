"""A shopper is taken out of exports, backups and copies, and the scan of their bytes proves it."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from muster.v1 import feedback_pb2 as pb
from server.catalogue import commands as catalogue_commands
from server.catalogue.opening import open_store
from server.catalogue.store import NewEvent
from server.catalogue.verify import verify_store
from server.feedback import commands as feedback_commands
from server.feedback.export import happened
from server.feedback.receipts import Receipts
from server.feedback.recording import Recorder
from server.privacy import commands, places
from server.privacy.secrets import FILE_NAME, open_secrets
from server.standby.lease import Holder
from tests.server.feedback.test_recording import receipt

NOW_S = 1_800_000_000.0


class Shop:
    """A catalogue with feedback of two shoppers, some of it folded. store: its file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "catalogue.sqlite3"
        folder.mkdir()
        self.secrets = open_secrets(folder / FILE_NAME, make=True)
        recorder = Recorder(
            self.secrets, self.secrets.pseudonyms(90), Receipts(self.secrets.receipts, 3600.0)
        )
        events = [
            pb.FeedbackEvent(
                event_id=f"e{number}",
                kind=pb.FEEDBACK_KIND_COMMENT,
                product_id=f"p{number}",
                receipt_id=receipt(self.secrets.receipts, NOW_S - 60),
                shopper_id="" if number == 9 else ("anna" if number % 2 else "bert"),
                # Number 9 names nobody, but a session of Anna's.
                session_id="visit" if number in (3, 9) else "",
                occurred_unix_us=int((NOW_S - 30) * 1e6),
                comment="nice",
            )
            for number in range(10)
        ]

        with closing(open_store(self.store)) as store:
            store.claim_lease(Holder("a", 1, 1, "boot"), expected_epoch=0, ttl_ns=10**15)
            kept = recorder.recorded(events, time.time()).events
            store.append([[NewEvent.of(event) for event in kept]], epoch=1)
            store.fold(epoch=1, wanted=lambda row: row.sequence <= 6, events_max=100)

    def run(self, main: object, *arguments: str) -> int:
        assert callable(main)
        return int(main([*arguments, "--store", str(self.store), "--json"]))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "data")


def scan(shop: Shop, capsys: pytest.CaptureFixture[str], who: str, *more: str) -> list[str]:
    """Places where the shopper is found, by name of the file."""
    capsys.readouterr()
    shop.run(commands.main, "scan", "--shopper", who, *more)
    result = json.loads(capsys.readouterr().out)
    assert result["unread"] == []
    return sorted({Path(find["place"]).name for find in result["finds"]})


def test_an_erased_shopper_is_in_no_file_any_more_and_the_other_one_is_in_all(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export, backup = tmp_path / "train.parquet", tmp_path / "backup.gz"
    assert shop.run(feedback_commands.main, "export", str(export)) == 0
    assert shop.run(catalogue_commands.main, "export", str(backup)) == 0
    assert [place.kind for place in places.places(shop.folder)] == [places.EXPORT, places.BACKUP]
    everywhere = ["backup.gz", "catalogue.sqlite3", "train.parquet"]
    assert scan(shop, capsys, "anna") == scan(shop, capsys, "bert") == everywhere

    assert shop.run(commands.main, "erase", "--shopper", "anna", "--stopped") == 0
    told = json.loads(capsys.readouterr().out)
    assert [place["events"] for place in told["places"]] == [5, 5, 5]
    assert scan(shop, capsys, "anna") == []
    assert scan(shop, capsys, "bert") == everywhere
    assert pq.read_table(export).num_rows == 5
    assert verify_store(shop.store).sound
    # The backup is still one that can be restored.
    restored = tmp_path / "other" / "catalogue.sqlite3"
    assert catalogue_commands.main(["restore", str(backup), "--store", str(restored)]) == 0


def test_a_restored_backup_from_before_brings_nobody_back(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backup = tmp_path / "old.gz"
    shop.run(catalogue_commands.main, "export", str(backup))
    aside = tmp_path / "tape.gz"
    aside.write_bytes(backup.read_bytes())
    shop.run(commands.main, "erase", "--shopper", "anna", "--stopped")
    capsys.readouterr()
    assert shop.run(catalogue_commands.main, "restore", str(aside), "--replace") == 0
    assert json.loads(capsys.readouterr().out)["erased_again"] == 5
    assert scan(shop, capsys, "anna") == []
    assert verify_store(shop.store).sound
    # The catalogue that was set aside is a place of its own.
    assert [place.kind for place in places.places(shop.folder)] == [places.BACKUP, places.COPY]


def test_what_cannot_be_looked_through_is_named(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 not at all")
    places.note(shop.folder, places.EXPORT, broken)
    assert shop.run(commands.main, "erase", "--shopper", "anna", "--stopped") == commands.EXIT_LEFT
    told = json.loads(capsys.readouterr().out)
    assert told["left"] == 1
    assert told["places"][1]["place"] == str(broken)


def test_an_export_leaves_out_floods_and_unknown_answers(shop: Shop, tmp_path: Path) -> None:
    export = tmp_path / "train.parquet"
    assert shop.run(feedback_commands.main, "export", str(export), "--per-minute-max", "4") == 0
    summary = json.loads((tmp_path / "train.parquet.json").read_text(encoding="ascii"))
    # Bert has five comments within a minute, Anna four with her name and one by her session alone.
    assert summary["left_out"]["flood"] == 5
    assert summary["outliers"] == {"more than 4 events a minute": 1}
    assert pq.read_table(export).column("comment").null_count == summary["events"] == 5


def test_the_callers_clock_counts_where_it_can_be_right() -> None:
    given_s, committed_us = 1_800_000_000, 1_800_000_100_000_000
    known = receipt(bytes(32), given_s)
    for occurred_s, clock in (
        (given_s + 50, "client"),
        (given_s - 59, "client"),
        (given_s - 3600, "server"),
        (given_s + 3700, "server"),
        (0, "server"),
    ):
        feedback = pb.Feedback(receipt_id=known, occurred_unix_us=occurred_s * 1_000_000)
        at_us, whose = happened(committed_us, feedback)
        assert whose == clock
        assert at_us == (occurred_s * 1_000_000 if clock == "client" else committed_us)
    assert (
        happened(committed_us, pb.Feedback(occurred_unix_us=committed_us - 23 * 3_600_000_000))[1] == "client"
    )
    assert (
        happened(committed_us, pb.Feedback(occurred_unix_us=committed_us - 25 * 3_600_000_000))[1] == "server"
    )


def test_a_wrong_command_line_is_refused(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["erase", "--store", str(shop.store)]) == commands.EXIT_USAGE
    assert commands.main(["scan", "--store", str(shop.store)]) == commands.EXIT_USAGE
    assert commands.main(["erase", "--nonsense"]) == commands.EXIT_USAGE
    (shop.folder / FILE_NAME).unlink()
    assert shop.run(commands.main, "scan", "--shopper", "anna") == commands.EXIT_USAGE
    assert "missing" in capsys.readouterr().err


def test_an_encrypted_backup_says_nothing_without_its_keys_and_serves_with_them(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, backup = tmp_path / "keys", tmp_path / "backup.sealed"
    other = tmp_path / "other" / "catalogue.sqlite3"
    assert commands.main(["new-key", str(keys)]) == 0
    assert shop.run(catalogue_commands.main, "export", str(backup), "--keys", str(keys)) == 0
    # Without keys: not restored, not looked through, and said so.
    assert catalogue_commands.main(["restore", str(backup), "--store", str(other)]) == commands.EXIT_USAGE
    assert "encrypted" in capsys.readouterr().err
    assert not other.exists()
    assert shop.run(commands.main, "scan", "--shopper", "anna") == commands.EXIT_LEFT
    assert "encrypted" in json.loads(capsys.readouterr().out)["unread"][0]
    assert scan(shop, capsys, "anna", "--keys", str(keys)) == ["backup.sealed", "catalogue.sqlite3"]
    # With them: rotated, a shopper taken out, restored.
    assert commands.main(["new-key", str(keys)]) == 0
    assert commands.main(["rewrap", str(backup), "--keys", str(keys)]) == 0
    assert shop.run(commands.main, "erase", "--shopper", "anna", "--stopped", "--keys", str(keys)) == 0
    assert scan(shop, capsys, "anna", "--keys", str(keys)) == []
    assert catalogue_commands.main(["restore", str(backup), "--store", str(other), "--keys", str(keys)]) == 0
    assert verify_store(other).sound
    backup.write_bytes(backup.read_bytes()[:-9])
    assert (
        catalogue_commands.main(
            ["restore", str(backup), "--store", str(tmp_path / "third"), "--keys", str(keys)]
        )
        == commands.EXIT_USAGE
    )
    assert not (tmp_path / "third").exists()
