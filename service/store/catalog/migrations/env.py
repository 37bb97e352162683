"""Alembic's entry point: runs the migrations on the connection and in the transaction of ``migrate.py``."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from service.store.catalog.tables import METADATA


def run() -> None:
    """Run the requested migrations."""
    connection = context.config.attributes.get("connection")
    if not isinstance(connection, Connection):
        raise TypeError("the migrations need an open connection; use service.store.catalog.migrate.upgrade")
    context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


run()
