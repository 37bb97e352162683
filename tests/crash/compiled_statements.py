"""Shares compiled statements between all stores of a process and its forks. Compiling is most of a short run's time.

SQLAlchemy keeps compiled statements with an engine and its dialect, and opening a store creates both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import create_engine

from service.store.catalog import sqlite as database_sqlite


def share_compiled_statements() -> Callable[[], None]:
    """Let all stores of this process share a dialect and its compiled statements; return a function that ends this."""
    shared: list[Any] = []

    def create_shared(*arguments: Any, **named: Any) -> Any:
        engine = create_engine(*arguments, **named)
        if not shared:
            shared.append(engine)
        engine.dialect, engine._compiled_cache = shared[0].dialect, shared[0]._compiled_cache
        return engine

    def undo() -> None:
        database_sqlite.create_engine = create_engine  # type: ignore[attr-defined]

    database_sqlite.create_engine = create_shared  # type: ignore[attr-defined]
    return undo
