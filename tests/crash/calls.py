"""Reports every writing call of a store to a watcher, by replacing functions of this process.

It wraps functions of the module os, writes of objects, and the statements and commits of the database. Only ``strace``
sees what SQLite does to its files within one commit (``system_calls.py``, ``recording.py``). The functions are not
restored: use it in processes that are killed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any, Final, Protocol

import obstore
from sqlalchemy import Engine, event
from sqlalchemy.engine.default import DefaultDialect

WRITES: Final = ("fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir", "utime", "ftruncate", "truncate")
OBJECT_WRITES: Final = ("put", "delete")
_READS: Final = ("SELECT", "PRAGMA")


class Watcher(Protocol):
    """Receives the calls."""

    def before(self, name: str, *arguments: Any) -> None:
        """Called before a call. A write counts as two calls, one for each half."""
        ...

    def after(self, name: str, result: Any, *arguments: Any) -> None:
        """Called after a call."""
        ...


def watch(watcher: Watcher) -> None:
    """Report every writing call of this process to the watcher from now on."""
    for name in WRITES:
        setattr(os, name, _watched(name, getattr(os, name), watcher))
    for name in OBJECT_WRITES:
        setattr(obstore, name, _watched(name, getattr(obstore, name), watcher))
    open_created = _watched("open", os.open, watcher)
    original_open = os.open

    def open_watched(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        creates = flags & os.O_CREAT and flags & getattr(os, "O_TMPFILE", 0) != getattr(os, "O_TMPFILE", -1)
        handle: int = (open_created if creates else original_open)(path, flags, *arguments, **named)
        if not creates:
            watcher.after("look", handle, path, flags)
        return handle

    def fdopen(handle: int, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if mode == "wb":
            return io.BufferedWriter(_WatchedFile(handle, watcher))
        return open(handle, mode, *arguments, **named)

    os.open = open_watched
    os.fdopen = fdopen  # type: ignore[assignment]
    DefaultDialect.do_commit = _watched("commit", DefaultDialect.do_commit, watcher)  # type: ignore[method-assign]
    event.listen(Engine, "before_cursor_execute", _statements_to(watcher))


class _WatchedFile(io.FileIO):
    """A file that reports each write, in two halves."""

    def __init__(self, handle: int, watcher: Watcher) -> None:
        super().__init__(handle, "wb")
        self._watcher = watcher

    def write(self, content: Any) -> int:
        whole = bytes(content)
        at, middle = self.tell(), len(whole) // 2
        for part in (whole[:middle], whole[middle:]):
            self._watcher.before("write", self.fileno(), at, part)
            super().write(part)
            self._watcher.after("write", None, self.fileno(), at, part)
            at += len(part)
        return len(whole)


def _watched(name: str, real: Callable[..., Any], watcher: Watcher) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        watcher.before(name, *arguments)
        result = real(*arguments, **named)
        watcher.after(name, result, *arguments)
        return result

    return call


def _statements_to(watcher: Watcher) -> Callable[..., None]:
    def executed(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if not statement.lstrip().upper().startswith(_READS):
            watcher.before("statement", statement.split(maxsplit=1)[0])

    return executed
