"""The log, the lease, and what the catalogue is."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    meta = op.create_table(
        "meta",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "log",
        # On SQLite a key of type INTEGER is the row's own number, and costs nothing.
        sa.Column(
            "sequence",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False, unique=True),
        sa.Column("committed_unix_us", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("pid", sa.BigInteger, nullable=False),
        sa.Column("pid_start_ticks", sa.BigInteger, nullable=False),
        sa.Column("boot_id", sa.Text, nullable=False),
        sa.Column("expires_monotonic_ns", sa.BigInteger, nullable=False),
    )
    # The code from before the version table looks for this.
    op.bulk_insert(meta, [{"key": "schema_version", "value": "1"}])
