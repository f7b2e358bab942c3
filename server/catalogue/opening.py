"""Opening the store that an address names, whichever kind it is."""

from __future__ import annotations

import os

from server.catalogue.errors import SchemaMismatch, StoreUnavailable
from server.catalogue.location import check_address, is_postgresql, may_exist
from server.catalogue.store import Store, StoreConfig


def open_store(location: str | os.PathLike[str], config: StoreConfig | None = None) -> Store:
    """Open the catalogue at `location`, creating what is not there; check what is there.

    location: a file, or `postgresql+psycopg://ROLE@HOST/DATABASE`. Several replicas may open (and create) the
    same one at once.
    Raises: StoreUnavailable (folder not writable, server not reachable, locked, no such kind of store),
    SchemaMismatch (not a Muster catalogue, a newer one, or not the one asked for), StoreDamaged (truncated,
    corrupt, events missing), DiskFull.
    """
    text = os.fspath(location)
    if "://" in text:
        try:
            check_address(text)
        except ValueError as error:
            raise StoreUnavailable(f"the store's address {error}") from error
    wanted = config.cluster_id if config is not None else ""
    if wanted and not may_exist(text):
        raise SchemaMismatch(f"there is no catalogue at {text}, and catalogue.cluster_id asks for {wanted}")
    store = _open(location, config)
    if wanted and store.cluster_id != wanted:
        store.close()
        raise SchemaMismatch(
            f"{store.location} holds catalogue {store.cluster_id}, catalogue.cluster_id asks for {wanted};"
            " give this cluster a store of its own, or the setting the name of the catalogue that it serves"
        )
    return store


def _open(location: str | os.PathLike[str], config: StoreConfig | None) -> Store:
    if not is_postgresql(os.fspath(location)):
        from server.catalogue.sqlite import SqliteStore

        return SqliteStore.open(location, config)
    try:
        from server.catalogue.postgres import PostgresStore
    except ImportError as error:
        raise StoreUnavailable(
            "a store on PostgreSQL needs the extra `postgresql` (pip install 'muster[postgresql]')"
        ) from error
    return PostgresStore.open(os.fspath(location), config)
