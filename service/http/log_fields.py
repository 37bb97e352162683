"""The fields of a request's log line beside method, path, status and duration. docs/judged.md lists them all."""

from __future__ import annotations

from typing import Any, Final

from starlette.types import Scope

LOG_FIELDS: Final = "anole.log_fields"
"""Key in the ASGI scope of the fields."""


def log_fields(scope: Scope, **fields: Any) -> None:
    """Add fields to the log line of a request."""
    scope.setdefault(LOG_FIELDS, {}).update(fields)
