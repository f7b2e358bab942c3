"""Settings: one order of sources, everything checked at once, each refusal saying what and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from server import config

ROOT = Path(__file__).parents[2]
REQUIRED = {"bundle": "bundle", "data_dir": "data"}


def refusal(path: Path | None, overrides: dict[str, Any]) -> list[str]:
    with pytest.raises(config.ConfigurationError) as caught:
        config.load(path, overrides)
    return caught.value.problems


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


def test_settings_are_frozen() -> None:
    settings = config.load(None, REQUIRED)
    with pytest.raises(ValidationError):
        settings.listen = "127.0.0.1:1"
    with pytest.raises(ValidationError):
        settings.lease.ttl_ms = 1


def test_folders_in_the_file_are_relative_to_it_and_flags_are_not(tmp_path: Path) -> None:
    path = write(tmp_path, 'bundle = "models/x"\ndata_dir = "/somewhere"\n')
    settings = config.load(path, {"port_file": "port"})
    assert settings.bundle == tmp_path / "models/x"
    assert settings.data_dir == Path("/somewhere")
    assert settings.port_file == Path("port")


def test_another_program_s_environment_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_DATA", "/data")
    assert config.load(None, REQUIRED).data_dir == Path("data")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"lease.ttl_ms": 50}, "lease.ttl_ms = 50 (from flag): Input should be greater than or equal to 100"),
        ({"lease.ttl": 500}, "lease.ttl (from flag): no such setting"),
        ({"listen": "localhost"}, "must be host:port"),
        ({"listen": "localhost:70000"}, "must be host:port"),
        ({"metrics.listen": "9461"}, "must be host:port"),
        ({"replica": "a b"}, "replica = 'a b' (from flag)"),
        ({"ranking.reserve_ms": "nan"}, "ranking.reserve_ms"),
        ({"log.level": "loud"}, "log.level = 'loud'"),
        ({"rpc.message_threads": 0}, "greater than or equal to 1"),
        ({"ranking.default_deadline_ms": 20000}, "must not be above ranking.deadline_max_ms (10000)"),
        ({"ranking.reserve_ms": 60, "ranking.default_deadline_ms": 100}, "no plan could fit"),
        ({"catalogue.poll_ms": 200}, "must be at most a quarter of lease.ttl_ms (500)"),
        ({"lease.check_every_ms": 126}, "must be at most a quarter of lease.ttl_ms (500)"),
        ({"ranking.price_gain": 0}, "ranking.price_gain = 0 (from flag): Input should be greater than"),
        (
            {"catalogue.staleness_max_ms": 50, "catalogue.poll_ms": 6},
            "at least ten times catalogue.poll_ms (6)",
        ),
        ({"generation.delta_products_max": 100}, "must be above generation.delta_products_min (500)"),
        ({"rpc.threads": 1024, "rpc.requests_in_flight_max": 1000}, "at least rpc.threads"),
    ],
)
def test_a_bad_setting_is_refused_by_name(overrides: dict[str, Any], sentence: str) -> None:
    assert sentence in "\n".join(refusal(None, {**REQUIRED, **overrides}))


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


def test_a_data_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = config.load(None, {**REQUIRED, "data_dir": str(tmp_path / "file" / "data")})
    with pytest.raises(config.ConfigurationError, match="cannot be written"):
        config.prepare_data_dir(settings)


def test_the_data_folder_is_made_and_left_clean(tmp_path: Path) -> None:
    settings = config.load(None, {**REQUIRED, "data_dir": str(tmp_path / "new" / "data")})
    config.prepare_data_dir(settings)
    assert [path.name for path in settings.data_dir.rglob("*")] == ["generations"]


@pytest.mark.parametrize(
    ("address", "parts"), [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:7461", ("[::1]", 7461))]
)
def test_an_address_is_split_at_its_last_colon(address: str, parts: tuple[str, int]) -> None:
    assert config.split_address(address) == parts


def test_the_lease_is_renewed_well_inside_its_life() -> None:
    lease = config.load(None, {**REQUIRED, "lease.ttl_ms": 100}).lease
    assert lease.check_ms < lease.renew_ms < lease.ttl_ms / 2


def test_the_reference_page_is_current() -> None:
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert page == config.reference(), "run: python -m server.config > docs/configuration.md"


@pytest.mark.parametrize("sample", sorted(ROOT.glob("deploy/*.toml")), ids=lambda path: path.name)
def test_the_sample_settings_are_accepted(sample: Path) -> None:
    assert config.load(sample).bundle.name


# --- where the store is -----------------------------------------------------------------------------------


def test_without_an_address_the_store_is_a_file_of_the_data_folder(tmp_path: Path) -> None:
    settings = config.load(None, {"bundle": "b", "data_dir": str(tmp_path)})
    assert settings.store_location == str(tmp_path / "catalogue.sqlite3")
    assert settings.store_config("a").password_file is None


def test_the_file_of_the_password_is_relative_to_the_settings_that_name_it(tmp_path: Path) -> None:
    address = "postgresql+psycopg://muster@db:5432/muster"
    (tmp_path / "replica.toml").write_text(
        f'bundle = "b"\ndata_dir = "d"\n[catalogue]\nstore = "{address}"\nstore_password_file = "secret"\n'
    )
    settings = config.load(tmp_path / "replica.toml")
    assert settings.store_location == address
    opened = settings.store_config("a")
    assert (opened.password_file, opened.client) == (tmp_path / "secret", "a")


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("postgresql+psycopg://muster:s3cret@db/muster", "must not hold a password"),
        ("postgresql+psycopg://muster@db/muster?password=s3cret", "must not hold a password"),
        ("mysql://muster:s3cret@db/muster", "cannot be on 'mysql'"),
        ("postgresql+psycopg://muster@db", "must name a database"),
        ("catalogue.sqlite3", "must be empty or"),
    ],
)
def test_an_address_that_no_store_can_have_is_refused_without_its_password(
    address: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSTER_CATALOGUE__STORE", address)
    [problem] = refusal(None, REQUIRED)
    assert sentence in problem
    assert "MUSTER_CATALOGUE__STORE" in problem
    assert "s3cret" not in problem
