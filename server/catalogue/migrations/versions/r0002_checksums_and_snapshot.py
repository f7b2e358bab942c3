"""Checksums of the log's rows, and the snapshot that the oldest events are folded into.

The code of the revision before leaves `checksum` empty and knows no snapshot: it runs on until events are
folded for the first time, which only the code of this revision does.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def _sequence() -> sa.Column[int]:
    # On SQLite a key of this type is the row's own number, and costs nothing.
    return sa.Column(
        "sequence",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=False,
    )


def upgrade() -> None:
    op.add_column("log", sa.Column("checksum", sa.LargeBinary))
    op.create_table(
        "snapshot",
        _sequence(),
        sa.Column("changed_sequence", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("product_id", sa.Text, nullable=False, unique=True),
        sa.Column("committed_unix_us", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("checksum", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "snapshot_state",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("products", sa.BigInteger, nullable=False),
        sa.Column("rows_checksum", sa.LargeBinary, nullable=False),
        sa.Column("checksum", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "folded_event",
        _sequence(),
        sa.Column("event_id", sa.Text, nullable=False, unique=True),
        sa.Column("committed_unix_us", sa.BigInteger, nullable=False),
    )
