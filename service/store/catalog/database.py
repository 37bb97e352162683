"""What the catalog needs of a database: transactions to read and to write in. Knows no table and no product."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from service.errors import VersionCorrupt

TABLES: Final = "*"
"""The scope of a change of the tables themselves; no client can be called that."""


class Database(Protocol):
    """Transactions. Leaving a context commits and an exception undoes; database errors come out as StoreUnavailable."""

    def reading(self) -> AbstractContextManager[Connection]:
        """One consistent snapshot of everything committed before it.

        Raises:
            StoreUnavailable: busy for too long, or not readable.
        """
        ...

    def writing(self, scope: str, *, erasing: bool = False) -> AbstractContextManager[Connection]:
        """A transaction that no other writer of the scope overlaps; what it reads of it stays true until it commits.

        A scope is a client's name, and whatever a transaction changes is that client's; or `TABLES`, for all there is.

        With `erasing`, what it deletes leaves the database's files too, as soon as that database lets it.

        Raises:
            StoreFull: no space left.
            StoreUnavailable: busy for too long, or not writable.
        """
        ...

    def changes(self) -> int | None:
        """A number that differs from an earlier one if anything was committed in between, by whichever process.

        None where the database cannot tell that in a fraction of what a query takes; so it is unless overridden.

        Raises:
            StoreUnavailable: as `reading`.
        """
        return None

    def problems(self) -> tuple[str, ...]:
        """What the database finds wrong with its own files and references; empty if it is whole."""
        ...

    def close(self) -> None:
        """Let go of all connections."""
        ...


def strict_json(value: Any) -> str:
    """JSON that every database takes: no NaN, no infinity; keys stay in their order."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def contradiction(error: IntegrityError) -> VersionCorrupt:
    """What a broken rule between rows means: writers of one client exclude each other, so a row must have changed."""
    said = str(error.orig).strip().partition("\n")[0]
    return VersionCorrupt(f"rows of the catalog contradict each other ({said}); nothing was recorded; restore a backup")
