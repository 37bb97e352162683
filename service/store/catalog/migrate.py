"""Brings a catalog to this release's tables, or refuses one it does not understand. Knows no query of the catalog.

All steps run in one writing transaction, at whose end every row is sealed anew: a start that is killed leaves the old
tables, and of two processes that start at once the second waits and finds the work done.
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
from service.store.catalog.checks import seal_all
from service.store.catalog.database import TABLES, Database

_SCRIPTS: Final = "service.store.catalog:migrations"
_ONE_AT_A_TIME: Final = threading.Lock()  # Alembic keeps the running migration in a global of its module


def upgrade(database: Database) -> None:
    """Make or change the tables so that this release can use them; does nothing if they are already so.

    Raises:
        StoreIncompatible: a newer release wrote the catalog, or it is not a catalog of this project.
        StoreUnavailable: the database cannot be used.
    """
    settings = Config()
    settings.set_main_option("script_location", _SCRIPTS)
    scripts = ScriptDirectory.from_config(settings)
    with database.reading() as connection:
        if _revision(connection) == scripts.get_current_head():
            return
    with _ONE_AT_A_TIME, database.writing(TABLES) as connection:
        _refuse_unknown(connection, scripts)
        settings.attributes["connection"] = connection
        command.upgrade(settings, "head")
        seal_all(connection)


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_unknown(connection: Connection, scripts: ScriptDirectory) -> None:
    found = _revision(connection)
    known = {script.revision for script in scripts.walk_revisions()}
    if found is not None and found not in known:
        raise StoreIncompatible(
            f"the catalog is at revision {found!r} and this release knows {', '.join(sorted(known))}; a newer release "
            "wrote it: install that release again, or restore a backup made before the update"
        )
    tables = inspect(connection).get_table_names()
    if found is None and tables:
        raise StoreIncompatible(
            f"the database holds {', '.join(sorted(tables)[:5])} and is not a catalog of this project; "
            "name an empty folder, or one that this service has used before"
        )
