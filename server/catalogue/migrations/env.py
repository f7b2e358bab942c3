"""Alembic's entry: runs the revisions in the transaction it is given; there is no other way to run them."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
