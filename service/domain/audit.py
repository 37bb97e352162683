"""The audit log: who changed what, and when. Entries are added and never changed, also if their client is deleted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change.

    Attributes:
        id: the prefix of an API key; or "anonymous" for a request to a service that needs no key, "cli" for a command
            that opens the store itself, "service" for the service itself.
        name: purpose of the key, for people; or the user of the command; otherwise empty.
        request_id: of the HTTP request, or None.
    """

    id: str
    name: str = ""
    request_id: str | None = None


ANONYMOUS_ID: Final = "anonymous"
CLI_ID: Final = "cli"

_SERVICE: Final = Actor("service")
_ACTOR: Final[ContextVar[Actor]] = ContextVar("anole_actor")


def current_actor() -> Actor:
    """Return who makes the changes of this thread or task."""
    return _ACTOR.get(_SERVICE)


@contextmanager
def acting_as(actor: Actor) -> Iterator[None]:
    """Record the changes that are made within the context as those of `actor`."""
    token = _ACTOR.set(actor)
    try:
        yield
    finally:
        _ACTOR.reset(token)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An entry of the audit log.

    Attributes:
        id: 1, 2, 3 … in the order of the changes.
        at: UTC.
        actor: who made the change.
        action: such as "alias.move"; docs/judged.md lists all.
        client: name of the client that was changed, or None for a change of the service, such as a new key.
        details: what was changed, as JSON data.
    """

    id: int
    at: datetime
    actor: Actor
    action: str
    client: str | None
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which entries to return, newest first.

    Attributes:
        clients: only those of these clients; None: all, also those of no client.
        since: only those made no earlier; None: from the first.
        until: only those made earlier; None: to the last.
        before: only entries with a lower id; None: from the newest.
        limit: number of entries at most.
    """

    clients: frozenset[str] | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: int | None = None
    limit: int = 1000
