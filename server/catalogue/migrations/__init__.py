"""The revisions of the catalogue's schema, run by Alembic from `server.catalogue.schema.migrate`."""
