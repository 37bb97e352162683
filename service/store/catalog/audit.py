"""The rows of the audit log. Each is inserted in the transaction that makes the change, so neither exists alone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import structlog
from sqlalchemy import Connection, event, insert, select

from service.domain.audit import CLI_ID, Actor, AuditEntry, AuditQuery, current_actor
from service.store.catalog.tables import AUDIT, RowValues, verify_row, with_checksum

_LOG: Final = structlog.get_logger("anole.audit")


def record(
    connection: Connection, at: datetime, action: str, client: str | None, details: Mapping[str, Any] | None = None
) -> None:
    """Add an entry about a change that this transaction makes.

    A service also logs it when the transaction has committed. A command prints its result and nothing else.
    """
    actor = current_actor()
    values = {
        "at": at,
        "actor": actor.id,
        "actor_name": actor.name,
        "request_id": actor.request_id,
        "action": action,
        "client": client,
        "details": dict(details or {}),
    }
    connection.execute(insert(AUDIT).values(with_checksum(AUDIT, "", values)))
    if actor.id == CLI_ID:
        return
    fields = {name: value for name, value in values.items() if name not in ("at", "details") and value}

    def log(_connection: Connection) -> None:
        _LOG.info("changed", **{**dict(details or {}), **fields})

    event.listen(connection, "commit", log)  # of this connection object, which serves one transaction


def entries(connection: Connection, query: AuditQuery) -> tuple[AuditEntry, ...]:
    """Return entries, newest first. Raises VersionCorrupt for a damaged row."""
    wanted = select(AUDIT)
    if query.clients is not None:
        wanted = wanted.where(AUDIT.c.client.in_(sorted(query.clients)))
    if query.since is not None:
        wanted = wanted.where(AUDIT.c.at >= query.since)
    if query.until is not None:
        wanted = wanted.where(AUDIT.c.at < query.until)
    if query.before is not None:
        wanted = wanted.where(AUDIT.c.id < query.before)
    rows = connection.execute(wanted.order_by(AUDIT.c.id.desc()).limit(query.limit)).mappings()
    return tuple(map(_entry, rows))


def _entry(row: RowValues) -> AuditEntry:
    verify_row(AUDIT, "", row, f"entry {row['id']} of the audit log")
    actor = Actor(row["actor"], row["actor_name"], row["request_id"])
    return AuditEntry(row["id"], row["at"], actor, row["action"], row["client"], row["details"])
