"""One order of sources, everything checked at once, each refusal saying what and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from server import config
from tests.server.config.refused import REQUIRED, refusal

ROOT = Path(__file__).parents[3]


def write(folder: Path, text: str) -> Path:
    path = folder / "replica.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("file", "environment", "flag", "expected"),
    [
        (None, None, None, 500),
        (600, None, None, 600),
        (600, 700, None, 700),
        (600, 700, 800, 800),
        (None, 700, None, 700),
        (600, None, 800, 800),
    ],
)
def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(
    file: int | None,
    environment: int | None,
    flag: int | None,
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if environment is not None:
        monkeypatch.setenv("MUSTER_LEASE__TTL_MS", str(environment))
    path = write(tmp_path, f"[lease]\nttl_ms = {file}\n" if file is not None else "")
    settings = config.load(path, {**REQUIRED, "lease.ttl_ms": flag})
    assert settings.lease.ttl_ms == expected


def test_sections_are_merged_setting_by_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_RANKING__WORKERS", "3")
    path = write(tmp_path, "[ranking]\nqueue_max = 7\n")
    settings = config.load(path, {**REQUIRED, "ranking": {"chunk_pairs": 4}})
    assert (settings.ranking.workers, settings.ranking.queue_max, settings.ranking.chunk_pairs) == (3, 7, 4)


def test_folders_in_the_file_are_relative_to_it_and_flags_are_not(tmp_path: Path) -> None:
    path = write(tmp_path, 'bundle = "models/x"\ndata_dir = "/somewhere"\n')
    settings = config.load(path, {"port_file": "port"})
    assert settings.bundle == tmp_path / "models/x"
    assert settings.data_dir == Path("/somewhere")
    assert settings.port_file == Path("port")


def test_another_program_s_environment_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_DATA", "/data")
    assert config.load(None, REQUIRED).data_dir == Path("data")


def test_every_problem_is_reported_with_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_LEASE__TTL_MS", "soon")
    path = write(tmp_path, 'bundle = "b"\n[rpc]\nthreads = 0\nfibres = 3\n')
    problems = refusal(path, {})
    assert len(problems) == 4
    text = "\n".join(problems)
    assert f"rpc.threads = 0 (from file {path})" in text
    assert f"rpc.fibres (from file {path}): no such setting" in text
    assert "lease.ttl_ms = 'soon' (from environment MUSTER_LEASE__TTL_MS)" in text
    assert "data_dir: required" in text


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"listen = ", "not TOML"),
        (b"replica = '\xff'", "not UTF-8 at byte 11"),
        (None, "no such file"),
    ],
)
def test_an_unreadable_file_is_refused(content: bytes | None, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "replica.toml"
    if content is not None:
        path.write_bytes(content)
    [problem] = refusal(path, REQUIRED)
    assert sentence in problem
    assert str(path) in problem


@pytest.mark.parametrize("sample", sorted(ROOT.glob("deploy/*.toml")), ids=lambda path: path.name)
def test_the_sample_settings_are_accepted(sample: Path) -> None:
    assert config.load(sample).bundle.name


def test_the_file_of_the_password_is_relative_to_the_settings_that_name_it(tmp_path: Path) -> None:
    address = "postgresql+psycopg://muster@db:5432/muster"
    (tmp_path / "replica.toml").write_text(
        f'bundle = "b"\ndata_dir = "d"\n[catalogue]\nstore = "{address}"\nstore_password_file = "secret"\n'
    )
    settings = config.load(tmp_path / "replica.toml")
    assert settings.store_location == address
    opened = settings.store_config("a")
    assert (opened.password_file, opened.client) == (tmp_path / "secret", "a")
