"""SQLite as the catalog's database: journal, locks and errors.

* **Journal.** SQLite 3.7.0 to 3.51.2 can corrupt a database in WAL mode when several connections write and checkpoint
  (the "WAL-reset" bug, fixed in 3.51.3). WAL is used from 3.51.3 on. Older versions use the rollback journal and keep
  its file, because syncing a file whose size does not change is several times faster. Python comes with its own
  SQLite, so the version is checked when the file is opened.
* **Durability.** ``synchronous=EXTRA``: a commit returns when journal and database are on the disk.
* **Locks.** Writers begin IMMEDIATE, so a reader never becomes a writer and two writers cannot deadlock. Threads of one
  process wait for a lock in Python, processes for SQLite's lock; both waits end after `busy_timeout_s`.
* **Failed syncs** end all writes; see `SyncFailures`.
* **Full disks.** A deletion frees room, but needs some for the journal first. A file of `RESERVE_BYTES` beside the
  catalog keeps it; it is deleted when a deletion finds less room than that, and made again later.
* **Erasure.** ``secure_delete`` overwrites deleted rows, and a deletion empties the journal, which holds old pages.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy import exc as sql_errors
from sqlalchemy.pool import ConnectionPoolEntry

from service.errors import StoreFull, StoreUnavailable
from service.store.catalog.tables import integrity_failure, strict_json
from service.store.ports import Database, SyncFailures

FIRST_VERSION_SAFE_WITH_WAL: Final = (3, 51, 3)
POOL_SIZE: Final = 8
MAX_CONNECTIONS: Final = 32
RESERVE_BYTES: Final = 256 << 10

_READ_ONLY: Final = "opened while the disk was read-only"
_WAL_HEADER: Final = b"\2\2"
"""Bytes 18 and 19 of a file in WAL mode; see https://sqlite.org/fileformat2.html, section 1.3."""

_JOURNAL_LIMIT_BYTES: Final = 1 << 20
_JOURNAL_PAUSE_MS: Final = 100
"""Longest pause before the next attempt to change the journal mode; see `SqliteDatabase._set_journal`."""
"""Between the first two attempts. Each further pause is longer by as much, so that all take about two seconds."""

_SYNC_ERRORS: Final = frozenset({"SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC"})


def journal_mode(sqlite_version: tuple[int, ...]) -> str:
    """Return the journal mode that is safe with several connections in that SQLite version: "wal" or "persist"."""
    return "wal" if sqlite_version >= FIRST_VERSION_SAFE_WITH_WAL else "persist"


class SqliteDatabase(Database):
    """A database file, shared by any number of threads and processes of one machine.

    Args:
        path: the file; it is created if missing, its folder is not.
        sync: False trades durability for speed: a power loss may lose or damage the catalog. For measurements only.
        busy_timeout_s: how long to wait for other writers, in seconds.
        sync_failures: shared with the store's other parts; by default a new one.
        reserve: keep room for deletions on a full disk.
    """

    def __init__(
        self,
        path: Path,
        *,
        sync: bool = True,
        busy_timeout_s: float = 5.0,
        sync_failures: SyncFailures | None = None,
        reserve: bool = False,
    ) -> None:
        self._path = path
        self._reserve = path.with_name(f"{path.name}-reserve") if reserve else None
        self._renew_reserve()
        self._sync = sync
        self._busy_timeout_s = busy_timeout_s
        self._write_lock = threading.Lock()
        self._sync_failures = sync_failures or SyncFailures()
        self._revision_lock = threading.Lock()
        self._revision_reader: sqlite3.Connection | None = None
        self._engine = create_engine(
            URL.create("sqlite+pysqlite", database=str(path)),
            creator=self._connect,
            pool_size=POOL_SIZE,
            max_overflow=MAX_CONNECTIONS - POOL_SIZE,
            pool_timeout=busy_timeout_s,
            json_serializer=strict_json,
        )
        event.listen(self._engine, "connect", self._prepare)
        event.listen(self._engine, "checkout", self._renew)
        event.listen(self._engine, "begin", _begin)
        self._writer = self._engine.execution_options(anole_begin="BEGIN IMMEDIATE")
        self._checkpointer = self._engine.execution_options(anole_begin=None)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self._translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self, scope: str, *, erasing: bool = False) -> Iterator[Connection]:
        """See `Database.writing`. There is one writer at a time, whatever the scope."""
        self._sync_failures.check(str(self._path))
        if not self._write_lock.acquire(timeout=self._busy_timeout_s):
            raise self._busy()
        try:
            if erasing:
                self._release_reserve()
            with self._translated():
                with self._writer.begin() as connection:
                    limit_bytes = 0 if erasing else _JOURNAL_LIMIT_BYTES
                    connection.exec_driver_sql(f"PRAGMA journal_size_limit={limit_bytes}")
                    yield connection
                if erasing:
                    self._empty_wal()
                    self._renew_reserve()
        finally:
            self._write_lock.release()

    def _release_reserve(self) -> None:
        """Delete the reserve if the disk is full."""
        if self._reserve is not None and shutil.disk_usage(self._path.parent).free < RESERVE_BYTES:
            with suppress(OSError):  # the disk is read-only
                self._reserve.unlink(missing_ok=True)

    def _renew_reserve(self) -> None:
        """Make the reserve if it is missing and there is plenty of room."""
        if self._reserve is None or (self._reserve.exists() and self._reserve.stat().st_size == RESERVE_BYTES):
            return
        if shutil.disk_usage(self._path.parent).free >= 4 * RESERVE_BYTES:
            with suppress(OSError):  # the disk is read-only
                self._reserve.write_bytes(bytes(RESERVE_BYTES))

    def _empty_wal(self) -> None:
        """Move the write-ahead log, if there is one, into the database and empty it, as far as readers allow."""
        with self._checkpointer.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def revision(self) -> int | None:
        """See `Database.revision`. SQLite counts commits in the file; a connection sees those of all others."""
        if not os.access(self._path, os.W_OK):  # a connection opened now would not see later commits
            return None
        with self._translated(), self._revision_lock:
            if self._revision_reader is None:
                self._revision_reader = self._connect()
            number: int = self._revision_reader.execute("PRAGMA data_version").fetchone()[0]
            return number

    @contextmanager
    def snapshot(self) -> Iterator[Database]:
        """See `Database.snapshot`. With the rollback journal a reader holds up commits, so this copies the file."""
        with tempfile.TemporaryDirectory(prefix="anole-snapshot-") as folder:
            path = Path(folder) / self._path.name
            self.copy_to(path)
            with closing(SqliteDatabase(path, sync=False)) as copy:
                yield copy

    def problems(self) -> tuple[str, ...]:
        with self.reading() as connection:
            structure = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check")]
            references = [
                f"table {row[0]}: row {row[1]} refers to a missing row of {row[2]}"
                for row in connection.exec_driver_sql("PRAGMA foreign_key_check")
            ]
        return tuple([line for line in structure if line != "ok"] + references)

    def copy_to(self, path: Path) -> None:
        """Copy the database page by page into a new file, as of one moment. Commits wait until it is done."""
        with self.reading() as connection, closing(sqlite3.connect(path)) as copy:
            source: Any = connection.connection.driver_connection
            source.backup(copy)

    def close(self) -> None:
        self._engine.dispose()
        with self._revision_lock:
            if self._revision_reader is not None:
                self._revision_reader.close()
                self._revision_reader = None

    def _connect(self) -> sqlite3.Connection:
        """Open the file. On a read-only disk SQLite reads a file in WAL mode only if told that nothing changes it."""
        unchanging = not os.access(self._path, os.W_OK) and _is_checkpointed(self._path)
        return sqlite3.connect(
            self._path.absolute().as_uri() + ("?immutable=1" if unchanging else ""),
            uri=True,
            timeout=self._busy_timeout_s,
            isolation_level=None,  # the driver must not begin transactions by itself; see _begin
            check_same_thread=False,
        )

    def _renew(self, _connection: object, record: ConnectionPoolEntry, _proxy: object) -> None:
        """Replace a connection that was opened while the disk was read-only, once the disk is writable again."""
        if record.info[_READ_ONLY] and os.access(self._path, os.W_OK):
            raise sql_errors.DisconnectionError("the disk can be written again")

    def _prepare(self, connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
        """Set up a new connection; pragmas apply to one connection."""
        record.info[_READ_ONLY] = not os.access(self._path, os.W_OK)
        connection.text_factory = _text
        if not record.info[_READ_ONLY]:
            self._set_journal(connection, journal_mode(sqlite3.sqlite_version_info))
        connection.execute(f"PRAGMA synchronous={'EXTRA' if self._sync else 'OFF'}")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA secure_delete=ON")

    def _set_journal(self, connection: sqlite3.Connection, wanted: str) -> None:
        """Set the journal mode. To switch to or from WAL, SQLite needs the file alone and does not wait for that.

        Processes that start together would keep each other from having it alone if they tried in step, so that each
        waits for a random time.
        """
        deadline_s = time.monotonic() + self._busy_timeout_s
        while time.monotonic() < deadline_s:
            try:
                if connection.execute(f"PRAGMA journal_mode={wanted}").fetchone()[0] == wanted:
                    return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
            connection.execute("BEGIN IMMEDIATE")  # waits for the current writer
            connection.execute("COMMIT")
            threading.Event().wait(secrets.randbelow(_JOURNAL_PAUSE_MS) / 1e3)
        connection.close()
        raise StoreUnavailable(
            f"the journal mode of the catalog {self._path} cannot be changed to {wanted!r}, which SQLite "
            f"{sqlite3.sqlite_version} needs, while other processes have it open (with another SQLite version); stop "
            "them, then try again"
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise the store's errors for the database's."""
        try:
            yield
        except sql_errors.TimeoutError as error:
            raise self._busy() from error
        except sql_errors.IntegrityError as error:
            raise integrity_failure(error) from error
        except sql_errors.DBAPIError as error:
            raise self._translate(error.orig) from error
        except sqlite3.Error as error:
            raise self._translate(error) from error
        except UnicodeDecodeError as error:  # SQLite's message quotes damaged text
            raise self._damaged(str(error)) from error

    def _translate(self, error: BaseException | None) -> Exception:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code, without the extension
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        if name in _SYNC_ERRORS:
            self._sync_failures.record(name)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return self._busy()
        if code == sqlite3.SQLITE_FULL:
            return StoreFull(f"no space left for the catalog {self._path}; nothing was recorded; free some space")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return self._damaged(f"{name}: {error}")
        if isinstance(error, sqlite3.OperationalError):
            return StoreUnavailable(f"the catalog {self._path} cannot be used ({name}: {error}); nothing was recorded")
        return error if isinstance(error, Exception) else StoreUnavailable(f"the catalog {self._path} failed: {error}")

    def _damaged(self, reason: str) -> StoreUnavailable:
        return StoreUnavailable(f"the catalog {self._path} is damaged ({reason}); stop the service, restore a backup")

    def _busy(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"the catalog {self._path} was locked by other writers for more than {self._busy_timeout_s:g} s; "
            "nothing was recorded; try again"
        )


def _is_checkpointed(path: Path) -> bool:
    """Whether the file exists, is in WAL mode, and its write-ahead log is empty."""
    log = path.with_name(f"{path.name}-wal")
    if not path.is_file() or (log.is_file() and log.stat().st_size):
        return False
    with path.open("rb") as file:
        return file.read(20)[18:] == _WAL_HEADER


def _text(content: bytes) -> str:
    """Decode text that may not be valid UTF-8, so that a changed bit damages one row and not the whole read."""
    return content.decode("utf-8", "surrogateescape")


def _begin(connection: Connection) -> None:
    statement = connection.get_execution_options().get("anole_begin", "BEGIN")
    if statement is not None:
        connection.exec_driver_sql(statement)
