"""What the catalog needs of a database: read and write transactions."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from service.errors import VersionCorrupt

ALL_CLIENTS: Final = "*"
"""The scope of a transaction that may change everything, the tables themselves included. No client has this name."""


class Database(Protocol):
    """Transactions. Leaving a context commits, an exception rolls back; database errors become StoreUnavailable."""

    def reading(self) -> AbstractContextManager[Connection]:
        """Open one consistent snapshot of everything that is committed.

        Raises:
            StoreUnavailable: busy for too long, or not readable.
        """
        ...

    def writing(self, scope: str, *, erasing: bool = False) -> AbstractContextManager[Connection]:
        """Open a transaction that excludes other writers of the same scope until it commits.

        Args:
            scope: a client's name, if only rows of that client are read and changed; or `ALL_CLIENTS`.
            erasing: also remove what the transaction deletes from the database's files, as soon as the database can.

        Raises:
            StoreFull: no space left.
            StoreUnavailable: busy for too long, or not writable.
        """
        ...

    def revision(self) -> int | None:
        """Return a number that changes with every commit of any process.

        None where the database cannot tell much faster than a query runs; this is the default.

        Raises:
            StoreUnavailable: as `reading`.
        """
        return None

    def problems(self) -> tuple[str, ...]:
        """Return the damage that the database finds in its own files and references; empty if there is none."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


def strict_json(value: Any) -> str:
    """Encode JSON that every database accepts: no NaN, no infinity. Keys keep their order."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def integrity_failure(error: IntegrityError) -> VersionCorrupt:
    """Translate a violated constraint. Writers of one client exclude each other, so a row must have been damaged."""
    reason = str(error.orig).strip().partition("\n")[0]
    return VersionCorrupt(f"rows of the catalog are inconsistent ({reason}); nothing was recorded; restore a backup")
