"""Statements compiled once for all stores of a process and of those forked from it: most of a short life's work.

SQLAlchemy keeps what it compiled with the engine and its dialect, and every opening of a store makes both anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import create_engine

from service.store.catalog import sqlite as database_sqlite


def keep_statements() -> Callable[[], None]:
    """From now on all stores of this process share one dialect and what was compiled for it; returns how to undo it."""
    kept: list[Any] = []

    def made(*arguments: Any, **named: Any) -> Any:
        engine = create_engine(*arguments, **named)
        if not kept:
            kept.append(engine)
        engine.dialect, engine._compiled_cache = kept[0].dialect, kept[0]._compiled_cache
        return engine

    def undo() -> None:
        database_sqlite.create_engine = create_engine  # type: ignore[attr-defined]

    database_sqlite.create_engine = made  # type: ignore[attr-defined]
    return undo
