"""Who changed what."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from service.http.schemas.base import Answer


class Actor(Answer):
    """Who made a change."""

    id: str = Field(
        description="prefix of an API key; `anonymous`: a request to a service that needs no key; `cli`: a command "
        "that opened the store itself; `service`: the service itself",
        examples=["anole_k3v9q2ab"],
    )
    name: str = Field(description="purpose of the key, or the user of the command; may be empty", examples=["line 7"])


class AuditEntry(Answer):
    """A change, and who made it."""

    id: int = Field(description="1, 2, 3 … in the order of the changes", examples=[412])
    at: datetime
    actor: Actor
    request_id: str | None = Field(
        description="`X-Request-ID` of the response; null for changes that no request made",
        examples=["2f0c6a0b1d4e5f607182000000000017"],
    )
    action: str = Field(description="what was done", examples=["alias.move"])
    client: str | None = Field(description="the client that was changed, if any", examples=["line-7"])
    details: dict[str, Any] = Field(
        description="what was changed", examples=[{"alias": "live", "version": 2, "previous": 1, "reason": "set"}]
    )


class AuditList(Answer):
    """Entries of the audit log, newest first."""

    entries: list[AuditEntry]


class AuditRow(Answer):
    """An entry as a row of a CSV file."""

    id: int
    at: datetime
    actor: str
    actor_name: str
    request_id: str | None
    action: str
    client: str | None
    details: dict[str, Any]
