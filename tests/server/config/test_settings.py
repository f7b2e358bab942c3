"""Settings hold together, or are refused by name; what follows from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from server import config
from tests.server.config.refused import REQUIRED, refusal


def test_settings_are_frozen() -> None:
    settings = config.load(None, REQUIRED)
    with pytest.raises(ValidationError):
        settings.listen = "127.0.0.1:1"
    with pytest.raises(ValidationError):
        settings.lease.ttl_ms = 1


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


def test_a_data_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = config.load(None, {**REQUIRED, "data_dir": str(tmp_path / "file" / "data")})
    with pytest.raises(config.ConfigurationError, match="cannot be written"):
        config.prepare_data_dir(settings)


def test_the_data_folder_is_made_and_left_clean(tmp_path: Path) -> None:
    settings = config.load(None, {**REQUIRED, "data_dir": str(tmp_path / "new" / "data")})
    config.prepare_data_dir(settings)
    assert [path.name for path in settings.data_dir.rglob("*")] == ["generations"]


def test_the_lease_is_renewed_well_inside_its_life() -> None:
    lease = config.load(None, {**REQUIRED, "lease.ttl_ms": 100}).lease
    assert lease.check_ms < lease.renew_ms < lease.ttl_ms / 2


def test_without_an_address_the_store_is_a_file_of_the_data_folder(tmp_path: Path) -> None:
    settings = config.load(None, {"bundle": "b", "data_dir": str(tmp_path)})
    assert settings.store_location == str(tmp_path / "catalogue.sqlite3")
    assert settings.store_config("a").password_file is None


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
