"""Files are sealed and unsealed where they lie, and nothing is lost on the way."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.privacy import commands, sealing
from server.privacy.envelope import FRAME_BYTES, MAGIC, EnvelopeRefused, HeldKeys, is_envelope
from server.privacy.scan import Scan
from server.privacy.sealing import Sealable, files_of, seal, unseal

KEYS = HeldKeys([("a" * 8, bytes(range(32)))])
OTHERS = HeldKeys([("b" * 8, bytes(32))])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run, with texts in several forms and depths."""
    folder = tmp_path / "run"
    (folder / "tables" / "deep").mkdir(parents=True)
    (folder / "card.json").write_text('{"shopper": "anna"}')
    (folder / "empty").write_bytes(b"")
    (folder / "tables" / "large.bin").write_bytes(os.urandom(3 * FRAME_BYTES + 7))
    with gzip.open(folder / "tables" / "packed.gz", "wb") as file:
        file.write(b"anna")
    pq.write_table(pa.table({"shopper": ["anna", "bert"]}), folder / "tables" / "deep" / "clicks.parquet")
    return folder


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_comes_back_as_it_was_and_says_nothing_in_between(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, times = content_of(run), {path: path.stat().st_mtime_ns for path in run.rglob("*.json")}
    keys = str(tmp_path / "keys")
    assert commands.main(["new-key", keys]) == 0
    assert commands.main(["seal", str(run), "--keys", keys]) == 0
    assert "5 files sealed, 0 in an envelope already" in capsys.readouterr().out
    assert sorted(content_of(run)) == sorted(name + sealing.SUFFIX for name in before)
    assert all(is_envelope(path) and path.stat().st_mode & 0o077 == 0 for path in run.rglob("*.sealed"))
    assert not any(b"anna" in data for data in content_of(run).values())
    # Again: nothing is left to do; what comes later is sealed.
    (run / "later").write_text("bert")
    assert commands.main(["seal", str(run), "--keys", keys]) == 0
    assert commands.main(["unseal", str(run), "--keys", keys]) == 0
    assert content_of(run) == before | {"later": b"bert"}
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_scan_with_the_keys_finds_what_is_sealed_in_whatever_form(run: Path) -> None:
    for file in files_of(run):
        seal(file, KEYS)
    blind = Scan({"name": "anna"})
    blind.folder(run)
    assert (blind.result.finds, len(blind.result.unread)) == ((), 5)
    seeing = Scan({"name": "anna"}, KEYS)
    seeing.folder(run)
    found = {Path(find.place).name for find in seeing.result.finds}
    assert found == {"card.json.sealed", "packed.gz.sealed", "clicks.parquet.sealed"}
    assert seeing.result.unread == ()


@pytest.mark.parametrize("work", ["seal", "unseal"])
def test_a_stop_at_any_point_leaves_a_file_that_the_same_command_goes_on_with(
    run: Path, work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (run / "tables" / "large.bin").read_bytes()
    [file] = [file for file in files_of(run) if file.plain.name == "large.bin"]
    if work == "unseal":
        seal(file, KEYS)
    do = {"seal": seal, "unseal": unseal}[work]
    calls = ("replace", "unlink")
    for name in calls:
        real = getattr(Path, name)

        def stopped(
            self: Path, *given: object, name: str = name, real: object = real, **more: object
        ) -> object:
            if not self.name.startswith(".") or name == "replace":
                raise InterruptedError
            return real(self, *given, **more)  # type: ignore[operator]

        with monkeypatch.context() as patched:
            patched.setattr(Path, name, stopped)
            with pytest.raises(InterruptedError):
                do(file, KEYS)
        assert file.plain.exists() or file.sealed.exists()
        assert not [path for path in run.rglob(".*") if name == "unlink"]
    assert do(file, KEYS)
    unseal(file, KEYS)
    assert file.plain.read_bytes() == before


def test_an_envelope_that_was_changed_exchanged_or_meant_for_others_loses_nothing(run: Path) -> None:
    first, second = Sealable(run / "card.json", "file:card.json"), Sealable(run / "empty", "file:empty")
    seal(first, KEYS)
    seal(second, KEYS)
    for wrong, keys in ((first, OTHERS), (Sealable(first.plain, "file:other"), KEYS)):
        with pytest.raises(EnvelopeRefused, match=r"card\.json\.sealed"):
            unseal(wrong, keys)
    whole = first.sealed.read_bytes()
    first.sealed.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(EnvelopeRefused, match="was changed"):
        unseal(first, KEYS)
    assert not first.plain.exists()
    first.sealed.write_bytes(whole)
    first.plain.write_text("something else")
    for work in (seal, unseal):
        with pytest.raises(EnvelopeRefused, match="does not hold what"):
            work(first, KEYS)
    assert first.plain.read_text() == "something else"
    assert first.sealed.read_bytes() == whole


def test_links_and_what_is_not_there_are_refused_by_name(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = str(tmp_path / "keys")
    assert commands.main(["seal", str(run)]) == commands.EXIT_USAGE
    assert "--keys" in capsys.readouterr().err
    commands.main(["new-key", keys])
    assert commands.main(["seal", str(run / "nothing"), "--keys", keys]) == commands.EXIT_USAGE
    assert "nothing is not there" in capsys.readouterr().err
    (run / "link").symlink_to(run / "card.json")
    before = content_of(run)
    assert commands.main(["seal", str(run), "--keys", keys]) == commands.EXIT_USAGE
    assert "link is a link" in capsys.readouterr().err
    assert content_of(run) == before


@given(
    content=st.binary(max_size=300).filter(lambda content: not content.startswith(MAGIC)),
    name=st.text("abc.", min_size=1, max_size=6).filter(lambda name: name.strip(".")),
)
def test_any_file_of_any_name_comes_back(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / name).write_bytes(content)
    [file] = files_of(folder / name)
    assert seal(file, KEYS)
    [same] = files_of(file.sealed)
    assert same == file
    assert unseal(same, KEYS)
    assert content_of(folder) == {name: content}
