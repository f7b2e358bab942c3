"""The tables of the store, and its schema's revisions.

`meta` says what this catalogue is, `log` holds the events (their sequences have no gaps), `lease` says who
may write; `snapshot`, `snapshot_state` and `folded_event` hold what the oldest events came to, `feedback` the
feedback among them; `data_key` holds the keys that rows are encrypted with, wrapped.
The tables here are as the newest revision of `migrations/versions` leaves them.

    expand      a revision may add a table, or a column that may be empty or has a default: the code of the
                revision before it runs on, beside the new code, on the migrated schema
    contract    what no code uses any more is dropped one release later
"""

from __future__ import annotations

import importlib
import logging
import secrets
import time
from pathlib import Path

import sqlalchemy as sa

from server.catalogue.errors import SchemaMismatch, StoreDamaged

logger = logging.getLogger(__name__)

# The newest revision in `migrations/versions`.
REVISION = "0004"
_FIRST_REVISION = "0001"
# Where Alembic keeps the revision of a catalogue.
VERSION_TABLE = "alembic_version"
# The one revision that catalogues from before that table have, by the value of `schema_version` in `meta`.
_REVISION_BY_SCHEMA_VERSION = {"1": "0001"}
_MIGRATIONS = Path(__file__).with_name("migrations")

# What `schema_version` in `meta` says once events were folded. The code from before the version table reads
# "1" alone: a catalogue whose first events are in the snapshot is not one that it could serve.
SCHEMA_VERSION_WITH_SNAPSHOT = "2"

LEASE_NAME = "primary"


def _sequence() -> sa.Column[int]:
    # On SQLite a key of type INTEGER is the row's own number, and costs nothing.
    return sa.Column(
        "sequence",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=False,
    )


metadata = sa.MetaData()
meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
log = sa.Table(
    "log",
    metadata,
    _sequence(),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("event_id", sa.Text, nullable=False, unique=True),
    sa.Column("committed_unix_us", sa.BigInteger, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    # Empty in rows that the code of revision 0001 wrote, until a primary seals them.
    sa.Column("checksum", sa.LargeBinary),
)
snapshot = sa.Table(
    "snapshot",
    metadata,
    _sequence(),
    sa.Column("changed_sequence", sa.BigInteger, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("product_id", sa.Text, nullable=False, unique=True),
    sa.Column("committed_unix_us", sa.BigInteger, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("checksum", sa.LargeBinary, nullable=False),
    info={"since": "0002"},
)
snapshot_state = sa.Table(
    "snapshot_state",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("products", sa.BigInteger, nullable=False),
    sa.Column("rows_checksum", sa.LargeBinary, nullable=False),
    sa.Column("checksum", sa.LargeBinary, nullable=False),
    info={"since": "0002"},
)
folded_event = sa.Table(
    "folded_event",
    metadata,
    _sequence(),
    sa.Column("event_id", sa.Text, nullable=False, unique=True),
    sa.Column("committed_unix_us", sa.BigInteger, nullable=False),
    info={"since": "0002"},
)
feedback = sa.Table(
    "feedback",
    metadata,
    _sequence(),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("committed_unix_us", sa.BigInteger, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("checksum", sa.LargeBinary),
    info={"since": "0003"},
)
data_key = sa.Table(
    "data_key",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    # The key-encryption key that was the newest when this one was drawn, and the one that wraps it now.
    sa.Column("drawn_under", sa.Text, nullable=False),
    sa.Column("wrapped_by", sa.Text, nullable=False),
    sa.Column("wrapped", sa.LargeBinary, nullable=False),
    sa.Column("first_sequence", sa.BigInteger, nullable=False),
    sa.Column("created_unix_us", sa.BigInteger, nullable=False),
    info={"since": "0004"},
)
lease = sa.Table(
    "lease",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("pid_start_ticks", sa.BigInteger, nullable=False),
    sa.Column("boot_id", sa.Text, nullable=False),
    sa.Column("expires_monotonic_ns", sa.BigInteger, nullable=False),
)


def revision(connection: sa.Connection) -> str | None:
    """The revision of the catalogue, or None where it has no tables yet.

    Raises: StoreDamaged where tables are missing; SchemaMismatch where the catalogue does not say.
    """
    present = set(sa.inspect(connection).get_table_names())
    if VERSION_TABLE not in present and not set(metadata.tables) & present:
        return None
    found = _FIRST_REVISION
    if VERSION_TABLE in present:
        said = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
        if said is None:
            return None
        found = str(said)
    missing = sorted(tables_of(found) - present)
    if missing:
        raise StoreDamaged(
            f"the catalogue has lost its tables {', '.join(missing)}; restore it from a backup"
        )
    if VERSION_TABLE in present:
        return found
    version = connection.execute(sa.select(meta.c.value).where(meta.c.key == "schema_version")).scalar()
    adopted = _REVISION_BY_SCHEMA_VERSION.get(str(version))
    if adopted is None:
        raise SchemaMismatch(
            f"the catalogue has schema version {version or 'none'}, this Muster reads revision {REVISION};"
            " nothing was changed"
        )
    return adopted


def tables_of(revision: str) -> set[str]:
    """The tables that a catalogue of a revision has."""
    return {
        name
        for name, table in metadata.tables.items()
        if table.info.get("since", _FIRST_REVISION) <= revision
    }


def cluster_id(connection: sa.Connection) -> str:
    """Names this catalogue for good; drawn when it was created."""
    return str(connection.execute(sa.select(meta.c.value).where(meta.c.key == "cluster_id")).scalar_one())


def name_catalogue(transaction: sa.Connection) -> None:
    """Draw the name of a new catalogue."""
    transaction.execute(
        sa.insert(meta),
        [
            {"key": "cluster_id", "value": secrets.token_hex(8)},
            {"key": "created_unix_us", "value": str(time.time_ns() // 1000)},
        ],
    )


def is_current(connection: sa.Connection) -> bool:
    """Nothing is to be migrated or written down. Takes no lock. Raises: as `revision`; SchemaMismatch."""
    found = revision(connection)
    if found == REVISION:
        return sa.inspect(connection).has_table(VERSION_TABLE)
    if found is not None and found not in _known_revisions():
        raise SchemaMismatch(
            f"the catalogue has schema revision {found}, which is newer than this Muster's {REVISION}; start"
            " a newer Muster, nothing was changed"
        )
    return False


def load_migrations() -> None:
    """Do what takes long and needs no lock. Before a transaction that calls `migrate`."""
    importlib.import_module("alembic.command")
    logging.getLogger("alembic").setLevel(logging.WARNING)


def migrate(transaction: sa.Connection) -> None:
    """Bring the catalogue to the newest revision, in the transaction given, which holds the write lock.

    A new one is created, one from before the version table is adopted as it is. Idempotent, so that of
    replicas that start together each may call it. Raises: as `is_current`.
    """
    if is_current(transaction):
        return
    # Here, not above: a start without a migration need not load them.
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": transaction})
    config.set_main_option("script_location", str(_MIGRATIONS))
    found = revision(transaction)
    if found is not None and not sa.inspect(transaction).has_table(VERSION_TABLE):
        command.stamp(config, found)
    command.upgrade(config, "head")
    logger.info("the catalogue's schema is now at revision %s, it was at %s", REVISION, found or "none")


def _known_revisions() -> set[str]:
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory(str(_MIGRATIONS)).walk_revisions()}
