"""The judge of leaks, and the search that it relies on."""

from __future__ import annotations

import base64
import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drills.experiment import Verdict
from drills.journal import History, Record
from drills.judges.leak import LEAK_FIGURES, judge_leaks
from drills.rig.canaries import Search, draw, draw_stored
from muster.privacy.scrub import scrub
from tests.drills.judges.records import ENDED, acknowledged, fault, header, log, read


def test_canaries_are_others_for_another_seed_and_look_like_what_they_stand_for() -> None:
    one, same, other = draw(1), draw(1), draw(2)
    assert one == same
    assert not {canary.text for canary in one} & {canary.text for canary in other}
    for canary in one:
        if canary.name in ("email", "phone", "card", "identity", "token"):
            assert scrub(f"this is {canary.text} of mine").text == f"this is [{canary.name}] of mine"


def test_texts_that_a_store_keeps_are_of_no_person_and_others_for_another_seed() -> None:
    one, other = draw_stored(1), draw_stored(2)
    assert one == draw_stored(1)
    assert not {canary.text for canary in one} & {canary.text for canary in other}
    assert len({canary.name for canary in one} | {canary.name for canary in draw(1)}) == len(one) + len(
        draw(1)
    )
    for seed in range(50):
        for canary in draw_stored(seed):
            assert scrub(f"a remark; {canary.text}").text.endswith(canary.text)


@pytest.mark.parametrize("form", ["raw", "base64", "hex", "gzip", "parquet"])
def test_a_canary_is_found_in_a_file_in_whatever_form(tmp_path: Path, form: str) -> None:
    canary = draw(3)[0]
    inner = b"before " + canary.text.encode() + b" after"
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    if form == "parquet":
        pq.write_table(pa.table({"a": [canary.text] * 100}), path, compression="zstd")
    else:
        path.write_bytes(
            {
                "raw": inner,
                "base64": base64.b64encode(inner),
                "hex": inner.hex().encode(),
                "gzip": gzip.compress(inner),
            }[form]
        )
    search = Search(draw(3))
    search.folder(tmp_path)
    assert {(leak.place, leak.canary) for leak in search.leaks} == {("folder/file", canary.name)}
    assert search.files == 1
    assert search.unread == []


def test_one_that_spans_two_parts_is_found_and_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    canary = draw(4)[0]
    (tmp_path / "large").write_bytes(bytes((1 << 20) - 5) + canary.text.encode())
    (tmp_path / "clean").write_bytes(b"nothing of that kind" * 1000)
    search = Search(draw(4))
    search.folder(tmp_path)
    assert {leak.place for leak in search.leaks} == {"large"}


def test_what_cannot_be_unpacked_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.gz").write_bytes(b"\x1f\x8b\x08\x00 broken")
    search = Search(draw(5))
    search.folder(tmp_path)
    assert len(search.unread) == 1


def history(*more: Record, recorded: int = 40, files: int = 50, unread: tuple[str, ...] = ()) -> History:
    sent = fault(10.0, "canaries", canaries=11, recorded=recorded, asked=20)
    searched: Record = {
        "kind": "searched",
        "at_s": 12.0,
        "files": files,
        "bytes": 2**21,
        "unread": list(unread),
    }
    return History((header(), sent, read(11.0), acknowledged(1, 5.0), *log(1), ENDED, searched, *more))


LEAK: Record = {"kind": "leak", "at_s": 12.0, "place": "data/x", "canary": "email", "form": "hex"}


@pytest.mark.parametrize(
    ("given", "verdict", "words"),
    [
        (history(), Verdict.HELD, ""),
        (history(LEAK), Verdict.DEVIATED, "the email was found in data/x, written as hex"),
        (history(recorded=0), Verdict.INCONCLUSIVE, "nothing to leak"),
        (history(files=3), Verdict.INCONCLUSIVE, "only 3 files"),
        (history(unread=("a: OSError",)), Verdict.INCONCLUSIVE, "not looked through: a: OSError"),
    ],
)
def test_the_verdict_follows_from_what_was_found(given: History, verdict: Verdict, words: str) -> None:
    judgement = judge_leaks(given)
    assert judgement.verdict is verdict, judgement.reasons
    assert words in "; ".join(judgement.reasons)
    assert set(judgement.figures) == set(LEAK_FIGURES)


def test_without_a_search_nothing_is_known() -> None:
    records = [record for record in history().records if record["kind"] != "searched"]
    assert judge_leaks(History(tuple(records))).verdict is Verdict.INCONCLUSIVE


KEPT = ["attribute", "brand", "category", "comment", "description", "title"]


def encrypted(*more: Record, kept: list[str] = KEPT, folded: bool = True, files: int = 3) -> History:
    given = history(*more)
    sent = next(record for record in given.records if record["kind"] == "fault")
    sent["stored"] = len(KEPT)
    searched: Record = {
        "kind": "store_searched",
        "at_s": 12.0,
        "files": files,
        "bytes": 2**20,
        "unread": [],
        "kept": kept,
        "folded": folded,
    }
    return History((*given.records, searched))


@pytest.mark.parametrize(
    ("given", "verdict", "words"),
    [
        (encrypted(), Verdict.HELD, ""),
        (
            encrypted({**LEAK, "canary": "title", "place": "data/catalogue.sqlite3-wal"}),
            Verdict.DEVIATED,
            "the title was found in data/catalogue.sqlite3-wal",
        ),
        (encrypted(kept=["title"]), Verdict.INCONCLUSIVE, "of 6 marked texts the store keeps only: title"),
        (encrypted(folded=False), Verdict.INCONCLUSIVE, "nothing is known of the snapshot"),
        (encrypted(files=0), Verdict.INCONCLUSIVE, "no file that could be looked through"),
    ],
)
def test_of_an_encrypted_store_what_it_keeps_must_be_in_it_and_not_be_found(
    given: History, verdict: Verdict, words: str
) -> None:
    judgement = judge_leaks(given)
    assert judgement.verdict is verdict, judgement.reasons
    assert words in "; ".join(judgement.reasons)
    assert judgement.figures["kept"] == (1 if "only: title" in words else len(KEPT))


def test_an_encrypted_store_that_was_not_looked_through_is_not_held() -> None:
    records = [record for record in encrypted().records if record["kind"] != "store_searched"]
    assert "were not looked through" in judge_leaks(History(tuple(records))).reasons[0]
