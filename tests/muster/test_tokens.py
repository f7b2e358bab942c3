"""Keys and tokens for small shops."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muster import tokens


def test_a_token_says_what_was_asked_for_and_is_signed_with_the_key(tmp_path: Path) -> None:
    name = tokens.make_key(tmp_path / "key.pem", tmp_path / "keys.json")
    wanted = tokens.Wanted("ui", ["read", "feedback"], 60, audience="muster/a", issuer="us", once=True)
    token = tokens.issue(tmp_path / "key.pem", wanted)
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "kid": name, "typ": "JWT"}
    (key,) = tokens.read_key_set(tmp_path / "keys.json")
    claims = jwt.decode(token, jwt.PyJWK(key), algorithms=["EdDSA"], audience="muster/a", issuer="us")
    assert (claims["sub"], claims["scope"], claims["once"]) == ("ui", "read feedback", True)
    assert claims["exp"] - claims["iat"] == 60


def test_the_private_key_is_its_owners_and_is_not_in_the_set(tmp_path: Path) -> None:
    tokens.make_key(tmp_path / "key.pem", tmp_path / "keys.json")
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    assert "d" not in tokens.read_key_set(tmp_path / "keys.json")[0]


def test_keys_are_added_and_taken_out_and_the_last_one_stays(tmp_path: Path) -> None:
    key_set = tmp_path / "keys.json"
    first = tokens.make_key(tmp_path / "1.pem", key_set)
    second = tokens.make_key(tmp_path / "2.pem", key_set)
    assert [key["kid"] for key in tokens.read_key_set(key_set)] == [first, second]
    tokens.remove_key(key_set, first)
    with pytest.raises(tokens.TokenError, match="last key"):
        tokens.remove_key(key_set, second)
    with pytest.raises(tokens.TokenError, match="no key"):
        tokens.remove_key(key_set, first)


def test_a_key_file_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    tokens.make_key(tmp_path / "key.pem", tmp_path / "keys.json")
    before = (tmp_path / "key.pem").read_bytes(), (tmp_path / "keys.json").read_bytes()
    with pytest.raises(tokens.TokenError):
        tokens.make_key(tmp_path / "key.pem", tmp_path / "keys.json")
    assert before == ((tmp_path / "key.pem").read_bytes(), (tmp_path / "keys.json").read_bytes())


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"keys": 7}', '{"keys": [7]}', "[" * 100_000])
def test_what_is_no_key_set_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(tokens.TokenError, match="not a JSON Web Key set"):
        tokens.read_key_set(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"subject": "a b"}, "subject"),
        ({"scopes": ["root"]}, "scope"),
        ({"scopes": []}, "scope"),
        ({"lifetime_s": 0}, "one second"),
        ({"once": True}, "one replica"),
    ],
)
def test_a_token_that_no_replica_would_take_is_not_made(change: dict[str, object], why: str) -> None:
    asked: dict[str, object] = {"subject": "ui", "scopes": ["read"], "lifetime_s": 60, **change}
    with pytest.raises(tokens.TokenError, match=why):
        tokens.Wanted(**asked)  # type: ignore[arg-type]


def test_the_name_of_a_key_is_its_thumbprint() -> None:
    # RFC 8037, A.3.
    x = base64.urlsafe_b64decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
    assert tokens.key_id(x) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["keys", "kid", "x"]), inner),
    ).map(lambda value: json.dumps(value).encode())
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_set_of_keys_is_read_or_refused_whatever_it_holds(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(data)
    try:
        keys = tokens.read_key_set(path)
    except tokens.TokenError:
        return
    assert all(isinstance(key, dict) for key in keys)
    with pytest.raises(tokens.TokenError):
        tokens.remove_key(path, "absent")
    assert path.read_bytes() == data
