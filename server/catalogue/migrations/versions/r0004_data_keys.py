"""The keys that rows are encrypted with, each wrapped by a key-encryption key that is not in the store.

The code of the revision before reads no encrypted rows: name keys once every replica runs the newer one.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "data_key",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("drawn_under", sa.Text, nullable=False),
        sa.Column("wrapped_by", sa.Text, nullable=False),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
        sa.Column("first_sequence", sa.BigInteger, nullable=False),
        sa.Column("created_unix_us", sa.BigInteger, nullable=False),
    )
