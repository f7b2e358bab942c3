from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from drills.journal import Journal, read_history, write_result


def test_a_history_reads_back_as_it_was_written(tmp_path: Path) -> None:
    with Journal(tmp_path / "deep" / "run.jsonl", drill="x", seed=3, settings={"a": 1}) as journal:
        journal.write("fault", fault="kill", replica="a")
        journal.extend([{"kind": "read", "intended_s": 0.5, "status": "OK"}])
        written = journal.history()
    history = read_history(journal.path)
    assert history == written
    header = history.first("run")
    assert header is not None
    assert (header["drill"], header["seed"], header["settings"]) == ("x", 3, {"a": 1})
    assert [record["status"] for record in history.of("read")] == ["OK"]
    assert history.first("log_end") is None


def test_times_count_from_the_start_of_the_run(tmp_path: Path) -> None:
    now = [100.0]
    with Journal(tmp_path / "run.jsonl", clock=lambda: now[0]) as journal:
        now[0] = 102.5
        journal.write("fault", fault="kill")
        journal.write("fault", fault="earlier", at_s=journal.elapsed_s(101.0))
    assert [record["at_s"] for record in journal.history().of("fault")] == [2.5, 1.0]


def test_half_a_record_at_the_end_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text('{"kind":"run","at_s":0}\n{"kind":"rea', encoding="utf-8")
    assert [record["kind"] for record in read_history(path).records] == ["run"]


@pytest.mark.parametrize("line", ["not json", "[1]", '{"at_s":1}'])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(f'{{"kind":"run"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2"):
        read_history(path)


def test_several_threads_may_write(tmp_path: Path) -> None:
    with Journal(tmp_path / "run.jsonl") as journal:
        threads = [
            threading.Thread(target=lambda: [journal.write("read", status="OK") for _ in range(100)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(read_history(journal.path).of("read")) == 400


def test_a_result_replaces_the_one_before(tmp_path: Path) -> None:
    write_result(tmp_path, {"verdict": "held"})
    path = write_result(tmp_path, {"verdict": "deviated"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"verdict": "deviated"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]
