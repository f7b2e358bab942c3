"""Tokens that must open nothing, judged by a library that is not the replicas'."""

from __future__ import annotations

from pathlib import Path

import jwt
import pytest

from drills.rig.forged import BODIES, Forged, kinds
from drills.rig.issuer import AUDIENCE, ISSUER, Issuer


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    made = Issuer(tmp_path)
    made.publish()
    return made


def all_kinds(issuer: Issuer) -> list[Forged]:
    return list(kinds(issuer, stolen="s", reader="r", overheard="o"))


def accepted(issuer: Issuer, token: str) -> bool:
    keys = jwt.PyJWKSet.from_json(issuer.keys.read_text(encoding="utf-8"))
    try:
        key = keys[jwt.get_unverified_header(token)["kid"]]
        jwt.decode(token, key, algorithms=["EdDSA"], audience=AUDIENCE, issuer=ISSUER)
    except (jwt.PyJWTError, KeyError):
        return False
    return True


def test_a_good_token_is_good_by_the_published_keys(issuer: Issuer) -> None:
    assert accepted(issuer, issuer.token("decent", "read"))
    assert b"PRIVATE" not in issuer.keys.read_bytes()


BY_CLAIMS = {"a token that never ends", "nobody's token"}
"""What replicas ask beyond that library."""


def test_no_forged_token_is_good(issuer: Issuer) -> None:
    forged = [one for one in all_kinds(issuer) if one.token is not None and one.name not in BY_CLAIMS]
    for kind in forged:
        assert kind.token is not None
        assert not accepted(issuer, kind.token(3)), kind.name
    assert len(forged) == 15


def test_every_kind_asks_for_something_that_would_be_done(issuer: Issuer) -> None:
    found = all_kinds(issuer)
    assert len({kind.name for kind in found}) == len(found)
    assert {kind.method for kind in found} == set(BODIES)


def test_who_is_revoked_stands_in_the_list(issuer: Issuer) -> None:
    issuer.revoke("stolen")
    assert issuer.revoked.read_text(encoding="utf-8") == "subject stolen\n"
