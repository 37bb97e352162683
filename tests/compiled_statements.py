"""Shares compiled statements between all stores of a process and its forks. Compiling is most of a short test's time.

SQLAlchemy keeps compiled statements with an engine and its dialect, and opening a store creates both.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import create_engine

from service.store.catalog import postgres, sqlite


def share_compiled_statements(patch: pytest.MonkeyPatch) -> None:
    """Let all stores of one kind share a dialect and its compiled statements, until the patch is undone."""
    for module in (sqlite, postgres):
        _share(module, patch)


def _share(module: ModuleType, patch: pytest.MonkeyPatch) -> None:
    first: list[Any] = []

    def create_shared(*arguments: Any, **named: Any) -> Any:
        engine = create_engine(*arguments, **named)
        if not first or not hasattr(first[0].dialect, "default_isolation_level"):  # which its first connection sets
            first[:] = [engine]
        engine.dialect, engine._compiled_cache = first[0].dialect, first[0]._compiled_cache
        return engine

    patch.setattr(module, "create_engine", create_shared)
