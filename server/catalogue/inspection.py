"""Reading a store as it lies, also beside running replicas: nothing is created, migrated or written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import sqlalchemy as sa
from pysqlite3 import dbapi2 as sqlite
from sqlalchemy.pool import NullPool

from server.catalogue import encryption, schema
from server.catalogue.encryption import Encryption
from server.catalogue.errors import SchemaMismatch, StoreUnavailable
from server.catalogue.location import is_postgresql
from server.catalogue.sqlite import APPLICATION_ID, require_sqlite_file, text_of, translated

if TYPE_CHECKING:
    from server.catalogue.postgres import PostgresStore

_BUSY_TIMEOUT_S = 5.0


@contextmanager
def reading(location: str | Path, store_keys: str = "") -> Iterator[sa.Connection]:
    """A read transaction on the file, or the database, at `location`, which sees one state throughout.

    store_keys: where the keys are, if it is encrypted.

    Raises: StoreUnavailable (nothing there, not readable), SchemaMismatch (not a Muster catalogue, or one of
    another revision), StoreDamaged, CatalogueEncrypted.
    """
    if is_postgresql(str(location)):
        with closing(database(str(location), store_keys)) as store, store.viewing() as connection:
            require_current(connection, location)
            encryption.of(connection).check(connection)
            yield connection
        return
    with _reading_file(Path(location), store_keys) as connection:
        if connection.exec_driver_sql("PRAGMA application_id").scalar() != APPLICATION_ID:
            raise SchemaMismatch(f"{location} is an SQLite database, but not a Muster catalogue")
        require_current(connection, location)
        encryption.of(connection).check(connection)
        yield connection


def database(address: str, store_keys: str = "") -> PostgresStore:
    """The store on a server, whose content nobody has looked at. Raises: StoreUnavailable."""
    try:
        from server.catalogue.postgres import PostgresStore
    except ImportError as error:
        raise StoreUnavailable("a catalogue on PostgreSQL needs the extra `postgresql`") from error
    return PostgresStore.unchecked(address, store_keys)


def attempt(connection: sa.Connection) -> AbstractContextManager[object]:
    """What fails inside does not end the transaction around it."""
    return connection.begin_nested() if connection.dialect.name == "postgresql" else nullcontext()


@contextmanager
def _reading_file(path: Path, store_keys: str) -> Iterator[sa.Connection]:
    require_catalogue_file(path)
    engine = sa.create_engine(
        "sqlite://",
        module=sqlite,
        creator=lambda: _connect(path),
        poolclass=NullPool,
        execution_options={encryption.OPTION: Encryption(store_keys)},
    )
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    try:
        # Rolled back by its end: of a damaged file SQLite refuses even an empty commit.
        with translated(), engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def require_catalogue_file(path: Path) -> None:
    """The file is there and looks like an SQLite database. Raises: StoreUnavailable, SchemaMismatch,
    StoreDamaged.
    """
    if not path.is_file():
        raise StoreUnavailable(f"there is no catalogue at {path}")
    try:
        require_sqlite_file(path)
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be read: {error.strerror}") from error
    if path.stat().st_size == 0:
        raise SchemaMismatch(f"{path} is empty, not a Muster catalogue")


def require_current(connection: sa.Connection, location: str | Path) -> None:
    """It holds a Muster catalogue of this revision. Raises: SchemaMismatch, StoreDamaged."""
    if not schema.is_current(connection):
        raise SchemaMismatch(
            f"{location} has schema revision {schema.revision(connection) or 'none'}, not {schema.REVISION};"
            " start a replica of this version on it once, which migrates it"
        )


def _connect(path: Path) -> Any:
    # A log of its own that was left by a killed process is read too; without one, and where none can be made,
    # the file alone is all there is.
    alone = not _has_log(path) and not _folder_takes_files(path)
    options = "mode=ro&immutable=1" if alone else "mode=ro"
    connection = sqlite.connect(
        f"file:{quote(str(path.absolute()))}?{options}",
        uri=True,
        timeout=_BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.text_factory = text_of
    return connection


def _has_log(path: Path) -> bool:
    log = Path(f"{path}-wal")
    return log.exists() and log.stat().st_size > 0


def _folder_takes_files(path: Path) -> bool:
    return os.access(path.parent, os.W_OK | os.X_OK)
