"""Where a store is, as a setting says it: a file, or the address of a PostgreSQL server."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

POSTGRESQL = ("postgresql", "postgresql+psycopg")
_FORM = "postgresql+psycopg://ROLE@HOST:PORT/DATABASE"
_PASSWORDS = re.compile(r"(?<=://)([^/?#\s'\"]*?):[^/?#\s'\"]*@|\b(password=)[^&\s'\"]*")


def is_postgresql(location: str) -> bool:
    """The location is an address of a PostgreSQL server; otherwise it is a path."""
    return location.partition("://")[0] in POSTGRESQL


def may_exist(location: str) -> bool:
    """False: there is no store yet; of one on a server only the server can tell."""
    return is_postgresql(location) or Path(location).exists()


def check_address(location: str) -> str:
    """An address of a server as it was given. Raises: ValueError, one sentence without any password."""
    scheme, separator, _ = location.partition("://")
    if not separator:
        raise ValueError(f"must be empty or {_FORM}")
    if scheme not in POSTGRESQL:
        raise ValueError(f"cannot be on {scheme!r}; give {_FORM}, or nothing for an SQLite file in data_dir")
    try:
        parts = urlsplit(location)
        parts.port  # noqa: B018  # read to be checked
    except ValueError as error:
        raise ValueError(f"must have the form {_FORM}") from error
    if parts.password is not None or "password" in parse_qs(parts.query, keep_blank_values=True):
        raise ValueError(
            "must not hold a password: give catalogue.store_password_file, or the environment PGPASSWORD"
        )
    if not parts.path.strip("/"):
        raise ValueError(f"must name a database: {_FORM}")
    return location


def without_passwords(text: str) -> str:
    """The text with the passwords of the addresses in it replaced."""
    return _PASSWORDS.sub(lambda found: f"{found[2]}***" if found[2] else f"{found[1]}:***@", text)
