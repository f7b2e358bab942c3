from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.catalogue.location import check_address, is_postgresql, without_passwords

WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789-._~", min_size=1, max_size=20)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql+psycopg://muster@db.example:5432/muster",
        "postgresql://muster@/muster?host=/run/postgresql",
        "postgresql+psycopg:///muster?host=a:5432&host=b:5432&target_session_attrs=read-write",
    ],
)
def test_an_address_of_a_server_is_taken_as_it_is(address: str) -> None:
    assert check_address(address) == address
    assert is_postgresql(address)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("/srv/catalogue.sqlite3", "must be empty or"),
        ("mysql://a@b/c", "cannot be on 'mysql'"),
        ("sqlite:///catalogue.sqlite3", "or nothing for an SQLite file"),
        ("postgresql+asyncpg://a@b/c", r"cannot be on 'postgresql\+asyncpg'"),
        ("postgresql+psycopg://a@b:port/c", "must have the form"),
        ("postgresql+psycopg://a@b", "must name a database"),
        ("postgresql+psycopg://a:secret@b/c", "must not hold a password"),
        ("postgresql+psycopg://a:@b/c", "must not hold a password"),
        ("postgresql+psycopg://a@b/c?password=secret", "must not hold a password"),
    ],
)
def test_another_address_is_refused_with_a_reason(address: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check_address(address)
    assert "secret" not in str(caught.value)


@given(role=WORD, password=WORD, host=WORD, database=WORD)
def test_no_password_of_an_address_is_left_in_a_text(
    role: str, password: str, host: str, database: str
) -> None:
    secret = f"<{password}>"
    for address in (
        f"postgresql://{role}:{secret}@{host}/{database}",
        f"postgresql://{role}@{host}/{database}?password={secret}&sslmode=require",
        f"postgresql://:{secret}@{host}/{database}",
    ):
        shown = without_passwords(f"store = {address!r} is refused")
        assert secret not in shown
        assert database in shown


def test_a_text_without_addresses_stays() -> None:
    assert without_passwords("'127.0.0.1:99999' at a:b@c") == "'127.0.0.1:99999' at a:b@c"
