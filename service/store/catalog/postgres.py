"""PostgreSQL as the catalog's database: snapshots, locks and errors.

* **Locks.** A writer first takes an advisory lock named after its scope and holds it until it commits. So writers of
  one client wait for each other, nothing is retried, and writers of different clients run side by side. Threads of one
  process wait for a lock in Python first, so that a client's waiting writers hold one connection of each process.
* **Snapshots.** A reader runs REPEATABLE READ: all its statements see one moment, and it waits for no writer. A writer
  runs READ COMMITTED, so what it reads once it has the lock includes every earlier write.
* **Durability.** A commit returns when the server has it on its disk, even if the server's default is otherwise.
* **Recovery.** A connection is tested before it is used, so a restarted server fails no request.
* **Erasure.** Deleted rows leave the tables at once and the server's files with its next vacuum. The server's own logs
  and backups are outside this project.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakValueDictionary

from sqlalchemy import URL, Connection, create_engine, event, text
from sqlalchemy import exc as sql_errors

from service.errors import InvalidSettings, StoreFull, StoreUnavailable
from service.store.catalog.tables import integrity_failure, strict_json
from service.store.ports import ALL_CLIENTS, Database

POOL_SIZE: Final = 8
MAX_CONNECTIONS: Final = 32

_CONNECT_TIMEOUT_S: Final = 5
_STATEMENT_TIMEOUT_S: Final = 60
_IDLE_TIMEOUT_S: Final = 120
_DISK_FULL: Final = "53100"
_LOCK_TIMEOUTS: Final = frozenset({"55P03", "57014", "40P01", "40001"})
_DAMAGED: Final = "XX"
_LOCK_CLIENT: Final = text(
    "SELECT pg_advisory_xact_lock_shared(hashtextextended(:all, 0)), pg_advisory_xact_lock(hashtextextended(:one, 0))"
)
_LOCK_ALL: Final = text("SELECT pg_advisory_xact_lock(hashtextextended(:all, 0))")


class PostgresDatabase(Database):
    """A database on a PostgreSQL server, shared by any number of threads, processes and machines.

    Args:
        url: ``postgresql://…``, with any of the options of libpq.
        sync: False trades durability for speed: a crash of the server may lose the last commits. For measurements only.
        busy_timeout_s: how long to wait for other writers of the same scope, in seconds.

    Raises:
        InvalidSettings: the driver is not installed.
    """

    def __init__(self, url: URL, *, sync: bool = True, busy_timeout_s: float = 5.0) -> None:
        self._shown = url.set(query={}).render_as_string(hide_password=True)
        self._sync = sync
        self._busy_timeout_s = busy_timeout_s
        self._scope_locks: WeakValueDictionary[str, _ScopeLock] = WeakValueDictionary()
        self._scope_locks_guard = threading.Lock()
        try:
            self._engine = create_engine(
                url.set(drivername="postgresql+psycopg"),
                connect_args={"connect_timeout": _CONNECT_TIMEOUT_S, "application_name": "anole"},
                pool_size=POOL_SIZE,
                max_overflow=MAX_CONNECTIONS - POOL_SIZE,
                pool_timeout=busy_timeout_s,
                pool_pre_ping=True,
                json_serializer=strict_json,
            )
        except ImportError as error:
            raise InvalidSettings(
                f"the catalog {self._shown} needs the driver psycopg ({error}): pip install -c constraints.txt "
                "-e '.[shared]' in a checkout of Anole"
            ) from error
        event.listen(self._engine, "connect", self._prepare)
        self._reader = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._writer = self._engine.execution_options(isolation_level="READ COMMITTED")

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self._translated(), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def writing(self, scope: str, *, erasing: bool = False) -> Iterator[Connection]:
        scope_lock = self._scope_lock(scope)
        if not scope_lock.lock.acquire(timeout=self._busy_timeout_s):
            raise self._busy()
        try:
            with self._translated(), self._writer.begin() as connection:
                if scope == ALL_CLIENTS:
                    connection.execute(_LOCK_ALL, {"all": _lock_name(ALL_CLIENTS)})
                else:
                    connection.execute(_LOCK_CLIENT, {"all": _lock_name(ALL_CLIENTS), "one": _lock_name(scope)})
                yield connection
        finally:
            scope_lock.lock.release()

    def problems(self) -> tuple[str, ...]:
        """See `Database.problems`. The server enforces references and has its own tools to check files."""
        with self.reading() as connection:
            connection.execute(text("SELECT 1"))
        return ()

    def close(self) -> None:
        self._engine.dispose()

    def _scope_lock(self, scope: str) -> _ScopeLock:
        """Return the lock for which this process's writers of that scope wait; it exists while one of them uses it."""
        with self._scope_locks_guard:
            return self._scope_locks.setdefault(scope, _ScopeLock())

    def _prepare(self, connection: Any, _record: object) -> None:
        """Set up a new connection; the settings apply to that connection."""
        limits = {
            "lock_timeout": f"{int(self._busy_timeout_s * 1000)}ms",
            "statement_timeout": f"{_STATEMENT_TIMEOUT_S}s",
            "idle_in_transaction_session_timeout": f"{_IDLE_TIMEOUT_S}s",
        }
        with connection.cursor() as cursor:
            for name, value in limits.items():
                cursor.execute("SELECT set_config(%s, %s, false)", (name, value))
            cursor.execute("SHOW synchronous_commit")
            if (cursor.fetchone()[0] == "off") == self._sync:
                cursor.execute("SELECT set_config('synchronous_commit', %s, false)", ("on" if self._sync else "off",))
        connection.commit()

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
            raise self._translate(error) from error

    def _translate(self, error: sql_errors.DBAPIError) -> Exception:
        state = getattr(error.orig, "sqlstate", None) or ""
        reason = str(error.orig).strip().partition("\n")[0]
        if state in _LOCK_TIMEOUTS:
            return self._busy()
        if state == _DISK_FULL:
            return StoreFull(f"no space left for the catalog {self._shown}; nothing was recorded; free some space")
        if state.startswith(_DAMAGED):
            return StoreUnavailable(f"the catalog {self._shown} is damaged ({reason}); restore a backup")
        if isinstance(error, sql_errors.OperationalError | sql_errors.InterfaceError | sql_errors.InternalError):
            return StoreUnavailable(f"the catalog {self._shown} cannot be used ({reason}); nothing was recorded")
        return error.orig if isinstance(error.orig, Exception) else error

    def _busy(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"the catalog {self._shown} was locked by other writers for more than {self._busy_timeout_s:g} s; "
            "nothing was recorded; try again"
        )


class _ScopeLock:
    """A lock that a WeakValueDictionary can hold."""

    __slots__ = ("__weakref__", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()


def _lock_name(scope: str) -> str:
    return f"anole/{scope}"
