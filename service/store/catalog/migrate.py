"""Upgrades a catalog to this release's tables, or rejects a catalog that this release does not know.

All steps run in one transaction, which also renews every row's checksum. If the process is killed, the old tables
remain; if two processes start at once, the second waits and finds the work done.
"""

from __future__ import annotations

import threading
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from service.errors import StoreIncompatible
from service.store.catalog.integrity import renew_checksums
from service.store.ports import ALL_CLIENTS, Database

_SCRIPTS: Final = "service.store.catalog:migrations"
_ALEMBIC_LOCK: Final = threading.Lock()  # Alembic keeps the running migration in a global of its module


def is_new(database: Database) -> bool:
    """Whether the database has no tables. Raises StoreUnavailable if it cannot be read."""
    with database.reading() as connection:
        return not inspect(connection).get_table_names()


def is_current(database: Database) -> bool:
    """Whether the tables are those of this release. Raises StoreUnavailable if the database cannot be read."""
    with database.reading() as connection:
        return _revision(connection) == ScriptDirectory.from_config(_config()).get_current_head()


def upgrade(database: Database) -> None:
    """Create or change the tables for this release; do nothing if they are up to date.

    Raises:
        StoreIncompatible: a newer release wrote the catalog, or the database is not a catalog of this project.
        StoreUnavailable: the database cannot be used.
    """
    if is_current(database):
        return
    config = _config()
    scripts = ScriptDirectory.from_config(config)
    with _ALEMBIC_LOCK, database.writing(ALL_CLIENTS) as connection:
        _reject_unknown(connection, scripts)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        renew_checksums(connection)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", _SCRIPTS)
    return config


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _reject_unknown(connection: Connection, scripts: ScriptDirectory) -> None:
    found = _revision(connection)
    known = {script.revision for script in scripts.walk_revisions()}
    if found is not None and found not in known:
        raise StoreIncompatible(
            f"the catalog is at revision {found!r} and this release supports {', '.join(sorted(known))}; a newer "
            "release wrote it: install that release again, or restore a backup made before the update"
        )
    tables = inspect(connection).get_table_names()
    if found is None and tables:
        raise StoreIncompatible(
            f"the database holds the tables {', '.join(sorted(tables)[:5])} and is not a catalog of this project; name "
            "an empty folder, or one that this service has used before"
        )
