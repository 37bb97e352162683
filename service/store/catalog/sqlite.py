"""SQLite as the catalog's database: journal, locks and errors. Knows no table of the catalog.

Decisions, with their reasons:

* **Journal.** SQLite 3.7.0 to 3.51.2 can corrupt a database in WAL mode when several connections write and checkpoint
  (the "WAL-reset" bug, fixed in 3.51.3). From 3.51.3 on WAL is used; before, the rollback journal, whose file is kept
  and overwritten, because syncing a file that neither grows nor shrinks is several times faster. Python brings its
  own SQLite, so the version is looked at when the file is opened.
* **Durability.** ``synchronous=EXTRA``: a commit returns when journal and database are on the disk.
* **Locks.** Writers begin IMMEDIATE, so no reader is ever upgraded and two writers cannot deadlock. Threads of one
  process queue at a lock of ours, processes at SQLite's; either wait ends after `busy_timeout_s`.
* **Failed syncs** are final; see ``durability.py``.
* **Erasure.** Deleting a client means that its data is gone: ``secure_delete`` overwrites deleted rows, and a deletion
  empties the journal, which holds the pages as they were.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy import exc as sql_errors
from sqlalchemy.pool import ConnectionPoolEntry

from service.errors import StoreFull, StoreUnavailable
from service.store.catalog.database import Database, contradiction, strict_json
from service.store.durability import Durability

FIRST_VERSION_SAFE_WITH_WAL: Final = (3, 51, 3)
CONNECTIONS_KEPT: Final = 8
CONNECTIONS_AT_MOST: Final = 32

_READ_ONLY: Final = "opened while the disk was read-only"
_JOURNAL_KEPT_BYTES: Final = 1 << 20
_JOURNAL_ATTEMPTS: Final = 20
_FAILED_SYNCS: Final = frozenset({"SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC"})


def journal_mode(sqlite_version: tuple[int, ...]) -> str:
    """The journal that is safe with several connections in that version of SQLite: "wal" or "persist"."""
    return "wal" if sqlite_version >= FIRST_VERSION_SAFE_WITH_WAL else "persist"


class SqliteDatabase(Database):
    """A database file, opened by any number of threads and processes of one machine.

    Args:
        path: the file; made if it is not there, its folder must be.
        sync: False trades durability for speed: a power loss may lose or damage the catalog. For measurements only.
        busy_timeout_s: how long to wait for other writers, in seconds.
        durability: of the store that it belongs to; its own unless given.
    """

    def __init__(
        self, path: Path, *, sync: bool = True, busy_timeout_s: float = 5.0, durability: Durability | None = None
    ) -> None:
        self._path = path
        self._sync = sync
        self._busy_timeout_s = busy_timeout_s
        self._gate = threading.Lock()
        self._durability = durability or Durability()
        self._watch = threading.Lock()
        self._watcher: sqlite3.Connection | None = None
        self._engine = create_engine(
            URL.create("sqlite+pysqlite", database=str(path)),
            connect_args={"timeout": busy_timeout_s},
            pool_size=CONNECTIONS_KEPT,
            max_overflow=CONNECTIONS_AT_MOST - CONNECTIONS_KEPT,
            pool_timeout=busy_timeout_s,
            json_serializer=strict_json,
        )
        event.listen(self._engine, "connect", self._prepare)
        event.listen(self._engine, "checkout", self._renew)
        event.listen(self._engine, "begin", _begin)
        self._writer = self._engine.execution_options(anole_begin="BEGIN IMMEDIATE")
        self._log_keeper = self._engine.execution_options(anole_begin=None)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """See `Database.reading`."""
        with self._translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self, scope: str, *, erasing: bool = False) -> Iterator[Connection]:
        """See `Database.writing`; there is one writer at a time, whatever the scope."""
        self._durability.refuse_after_failure(str(self._path))
        if not self._gate.acquire(timeout=self._busy_timeout_s):
            raise self._busy()
        try:
            with self._translated():
                with self._writer.begin() as connection:
                    kept_bytes = 0 if erasing else _JOURNAL_KEPT_BYTES
                    connection.exec_driver_sql(f"PRAGMA journal_size_limit={kept_bytes}")
                    yield connection
                if erasing:
                    self._empty_log()
        finally:
            self._gate.release()

    def _empty_log(self) -> None:
        """Move the write-ahead log into the database and empty it, as far as readers let it; without one, nothing."""
        with self._log_keeper.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def changes(self) -> int | None:
        """See `Database.changes`: commits are counted in the file, and one that never writes sees all of them."""
        with self._translated(), self._watch:
            if self._watcher is None:
                self._watcher = sqlite3.connect(
                    self._path, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False
                )
            number: int = self._watcher.execute("PRAGMA data_version").fetchone()[0]
            return number

    def problems(self) -> tuple[str, ...]:
        """See `Database.problems`."""
        with self.reading() as connection:
            structure = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check")]
            references = [
                f"table {row[0]}: row {row[1]} refers to a row of {row[2]} that is not there"
                for row in connection.exec_driver_sql("PRAGMA foreign_key_check")
            ]
        return tuple([line for line in structure if line != "ok"] + references)

    def copy_to(self, path: Path) -> None:
        """Copy the database, as of one moment, into a new file, page by page; commits wait as long as that takes."""
        with self.reading() as connection, closing(sqlite3.connect(path)) as copy:
            source: Any = connection.connection.driver_connection
            source.backup(copy)

    def close(self) -> None:
        """See `Database.close`."""
        self._engine.dispose()
        with self._watch:
            if self._watcher is not None:
                self._watcher.close()
                self._watcher = None

    def _renew(self, _connection: object, record: ConnectionPoolEntry, _proxy: object) -> None:
        """A connection that was opened while the disk was read-only stays so: it is replaced once the disk is not."""
        if record.info[_READ_ONLY] and os.access(self._path, os.W_OK):
            raise sql_errors.DisconnectionError("the disk can be written again")

    def _prepare(self, connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
        """Set up a fresh connection; the pragmas hold for that connection alone."""
        record.info[_READ_ONLY] = not os.access(self._path, os.W_OK)
        connection.text_factory = _text
        connection.isolation_level = None  # the driver must not begin or commit anything by itself: see _begin
        self._set_journal(connection, journal_mode(sqlite3.sqlite_version_info))
        connection.execute(f"PRAGMA synchronous={'EXTRA' if self._sync else 'OFF'}")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA secure_delete=ON")

    def _set_journal(self, connection: sqlite3.Connection, wanted: str) -> None:
        """Set the journal; to or from WAL that is a change of the file, for which SQLite does not wait its turn."""
        for _ in range(_JOURNAL_ATTEMPTS):
            try:
                if connection.execute(f"PRAGMA journal_mode={wanted}").fetchone()[0] == wanted:
                    return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
            connection.execute("BEGIN IMMEDIATE")  # waits for whoever is at it
            connection.execute("COMMIT")
        connection.close()
        raise StoreUnavailable(
            f"the catalog {self._path} cannot be given the journal {wanted!r} that SQLite {sqlite3.sqlite_version} "
            "needs while others have it open; stop the other processes (they run another SQLite), then try again"
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the database's errors into the store's; see `_translate`."""
        try:
            yield
        except sql_errors.TimeoutError as error:
            raise self._busy() from error
        except sql_errors.IntegrityError as error:
            raise contradiction(error) from error
        except sql_errors.DBAPIError as error:
            raise self._translate(error.orig) from error
        except sqlite3.Error as error:
            raise self._translate(error) from error
        except UnicodeDecodeError as error:  # of SQLite's own words, which repeat what is damaged
            raise self._damaged(str(error)) from error

    def _translate(self, error: BaseException | None) -> Exception:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code; extended ones tell where it happened
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        if name in _FAILED_SYNCS:
            self._durability.failed(name)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return self._busy()
        if code == sqlite3.SQLITE_FULL:
            return StoreFull(f"no space left for the catalog {self._path}; nothing was recorded; free some space")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return self._damaged(f"{name}: {error}")
        if isinstance(error, sqlite3.OperationalError):
            return StoreUnavailable(f"the catalog {self._path} cannot be used ({name}: {error}); nothing was recorded")
        return error if isinstance(error, Exception) else StoreUnavailable(f"the catalog {self._path} failed: {error}")

    def _damaged(self, said: str) -> StoreUnavailable:
        return StoreUnavailable(f"the catalog {self._path} is damaged ({said}); stop the service and restore a backup")

    def _busy(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"the catalog {self._path} was locked by other writers for more than {self._busy_timeout_s:g} s; "
            "nothing was recorded; try again"
        )


def _text(content: bytes) -> str:
    """Text that a changed bit made undecodable is given on, so that its row is found damaged and not the database."""
    return content.decode("utf-8", "surrogateescape")


def _begin(connection: Connection) -> None:
    statement = connection.get_execution_options().get("anole_begin", "BEGIN")
    if statement is not None:
        connection.exec_driver_sql(statement)
