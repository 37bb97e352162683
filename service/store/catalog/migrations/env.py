"""Alembic's entry: runs the steps on the connection it is handed, inside the transaction that is already open.

Opens no database and reads no settings; ``migrate.py`` is its only caller.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from service.store.catalog.tables import METADATA


def run() -> None:
    """Run the steps that the caller asked for."""
    connection = context.config.attributes.get("connection")
    if not isinstance(connection, Connection):
        raise TypeError("the migrations need an open connection; use service.store.migrate.upgrade")
    context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


run()
