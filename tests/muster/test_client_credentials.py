"""What a client shows and whom it believes; the calls themselves are in tests/server/test_identity.py."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from muster.client import Client, Credentials, InvalidRequest
from muster.client import credentials as module


def test_the_environment_says_nothing_by_default_and_everything_if_asked() -> None:
    assert Credentials.from_environment({}) == Credentials()
    told = Credentials.from_environment(
        {"MUSTER_TLS_CA": "ca.pem", "MUSTER_TOKEN_FILE": "token", "MUSTER_TLS_CERT": "", "HOME": "/"}
    )
    assert told == Credentials(tls_ca="ca.pem", token_file="token")


@pytest.mark.parametrize(
    "given",
    [
        {"tls_ca": "ca", "tls_cert": "c"},
        {"tls_cert": "c", "tls_key": "k"},
        {"tls_server_name": "muster"},
        {"token": "t", "token_file": "f"},
    ],
)
def test_what_contradicts_itself_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        Credentials(**given)  # type: ignore[arg-type]


def test_a_token_never_leaves_the_machine_unencrypted() -> None:
    with pytest.raises(InvalidRequest, match="unencrypted"):
        Client("127.0.0.1:1,shop.example:1", credentials=Credentials(token="t"))
    with Client("127.0.0.1:1,localhost:2", credentials=Credentials(token="t")) as client:
        assert client.credentials.token == "t"


def test_a_token_is_not_shown() -> None:
    assert "s3cret" not in repr(Credentials(token="s3cret"))


def test_a_token_file_is_read_again_and_a_broken_one_leaves_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    path.write_text("one\n", encoding="ascii")
    source = Credentials(token_file=path)._token_source()
    assert source is not None and source() == "one"
    now_s = time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now_s)
    for later, text, want in ((0.5, "two", "one"), (2, "two", "two"), (4, "", "two"), (6, "a b", "two")):
        path.write_text(text, encoding="ascii")
        now_s_later = now_s + later
        monkeypatch.setattr(module.time, "monotonic", lambda moment=now_s_later: moment)
        assert source() == want


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"ca\.pem"):
        Credentials(tls_ca=tmp_path / "ca.pem").channel("127.0.0.1:1", [])
    with pytest.raises(InvalidRequest, match="token"):
        Credentials(token_file=tmp_path / "token").channel("127.0.0.1:1", [])
