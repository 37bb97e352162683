"""The time of day as the store takes it: for what is shown and for ages, never for order."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The time of day, in UTC."""
    return datetime.now(UTC)
