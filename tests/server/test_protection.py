"""Settings of encryption, callers and rates: safe unless the operator says otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rankcore
from muster.v1 import admin_pb2, catalogue_pb2, deploy_pb2, ranking_pb2
from server import config
from server.protection import is_loopback

REQUIRED = {"bundle": "bundle", "data_dir": "data"}
PLAIN = {"tls.allow_plaintext": "true"}
TLS = {"tls.certificate": "c.pem", "tls.key": "k.pem"}


def refusal(**overrides: Any) -> str:
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    with pytest.raises(config.ConfigurationError) as caught:
        config.load(None, {**REQUIRED, **named})
    return "; ".join(caught.value.problems)


def test_on_loopback_nothing_needs_to_be_said() -> None:
    settings = config.load(None, {**REQUIRED, "listen": "[::1]:7461"})
    assert settings.auth.mode == "loopback"


@pytest.mark.parametrize("listen", ["0.0.0.0:7461", "192.0.2.1:7461", "[::]:7461", "replica.example:7461"])
def test_beyond_loopback_encryption_and_callers_must_be_settled(listen: str) -> None:
    told = refusal(listen=listen)
    assert "tls.allow_plaintext" in told and "auth.mode" in told
    assert "auth.mode" not in refusal(listen=listen, auth__mode="off")
    assert "tls.allow_plaintext" not in refusal(listen=listen, tls__allow_plaintext="true")
    for said in ({**PLAIN, "auth.mode": "off"}, {**TLS, "auth.mode": "required", "auth.keys": "k.json"}):
        assert config.load(None, {**REQUIRED, "listen": listen, **said}).listen == listen


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"tls__certificate": "c.pem"}, "belong together"),
        ({"tls__client_auth": "required"}, "tls.client_ca"),
        ({"auth__mode": "required"}, "nobody could call"),
        ({"auth__certificates": "dns:a=read"}, "tls.client_auth"),
        ({"quota__callers": "ui"}, "NAME=CALLS_PER_S"),
        ({"quota__callers": "ui=0"}, "NAME=CALLS_PER_S"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, str], why: str) -> None:
    assert why in refusal(**given)


def test_files_of_a_settings_file_are_relative_to_it(tmp_path: Path) -> None:
    path = tmp_path / "replica.toml"
    path.write_text(
        '[tls]\ncertificate = "tls/c.pem"\nkey = "tls/k.pem"\n[auth]\nkeys = "/etc/keys.json"\n'
        '[quota]\ncalls_per_s = 5\ncallers = ["big=100/7"]\n',
        encoding="utf-8",
    )
    settings = config.load(path, REQUIRED)
    assert settings.tls.certificate == tmp_path / "tls/c.pem"
    assert settings.auth.keys == Path("/etc/keys.json")
    assert settings.quota.for_front() == {"each": (5.0, 10.0), "named": [("big", 100.0, 7.0)]}


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("localhost", True),
        ("127.3.2.1", True),
        ("[::1]", True),
        ("::", False),
        ("10.0.0.1", False),
        ("x", False),
    ],
)
def test_loopback_is_told_from_everything_else(host: str, ours: bool) -> None:
    assert is_loopback(host) is ours


def test_every_method_of_the_contract_asks_for_a_scope_of_its_own() -> None:
    """A method that is new and was forgotten in the front asks for `admin`: told here before callers do."""
    scopes = {
        f"{service.full_name}/{method.name}": rankcore.front_scopes(f"/{service.full_name}/{method.name}")
        for file in (ranking_pb2, catalogue_pb2, admin_pb2, deploy_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    by_scope: dict[str | None, set[str]] = {}
    for name, scope in scopes.items():
        by_scope.setdefault(scope, set()).add(name.removeprefix("muster.v1."))
    assert by_scope.pop("write") == {"CatalogueService/Apply"}
    assert by_scope.pop("admin,drill") == {
        f"AdminService/{name}" for name in ("TransferLease", "BeginDrill", "EndDrill", "AbortDrill")
    }
    assert by_scope.pop("read,write,feedback,admin,drill") == {
        "AdminService/Status",
        "AdminService/BundleStatus",
        "AdminService/DrillStatus",
    }
    assert all(name.startswith("AdminService/") for name in by_scope.pop("admin"))
    by_scope.pop("feedback", None)
    assert set(by_scope) == {"read"}
    assert rankcore.front_scopes("/grpc.health.v1.Health/Check") is None
