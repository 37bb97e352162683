"""Verdicts as rows of an SQLite file."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

from service.bridge.config import SqliteSink
from service.bridge.sinks.base import Sink
from service.bridge.verdict import Verdict

_CREATE = """CREATE TABLE IF NOT EXISTS verdicts (
    id TEXT PRIMARY KEY, number INTEGER, time TEXT, source TEXT, name TEXT, result TEXT, state TEXT, label TEXT,
    confidence REAL, known INTEGER, class_number INTEGER, client TEXT, version INTEGER, error TEXT
)"""
_INSERT = """INSERT OR IGNORE INTO verdicts VALUES (
    :id, :number, :time, :source, :name, :result, :state, :label,
    :confidence, :known, :class_number, :client, :version, :error
)"""


class Sqlite(Sink):
    """A table `verdicts`. The id of the picture is its key, so a verdict that comes twice is stored once.

    Args:
        config: the file.
    """

    connection_errors = (OSError, sqlite3.Error)

    def __init__(self, config: SqliteSink) -> None:
        super().__init__(config.name)
        self._path = config.path

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Create the table if it does not exist."""
        await asyncio.to_thread(self._execute, _CREATE, {})
        yield

    async def send(self, verdict: Verdict) -> None:
        """Insert a row."""
        await asyncio.to_thread(self._execute, _INSERT, verdict.fields())

    def _execute(self, statement: str, values: dict[str, object]) -> None:
        with closing(sqlite3.connect(self._path)) as connection, connection:
            connection.execute(statement, values)
