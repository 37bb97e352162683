"""Requests for what a service has recorded, as values that both clients send; see ``requests.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from service.client.request import Request
from service.client.requests import page_of
from service.http.schemas.audit import AuditEntry, AuditList


def audit(
    name: str | None, since: datetime | None, until: datetime | None, found: Sequence[AuditEntry]
) -> Request[list[AuditEntry]]:
    """GET /audit, the page after the entries that were found."""
    content = page_of(found[-1].id if found else 0)
    content["params"].update(_given({"client": name, "from": since, "to": until}))
    return Request("GET", "/audit", lambda body: AuditList.model_validate_json(body).entries, content)


def _given(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the values that are not None as texts of a query."""
    texts = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}
    return {name: str(value) for name, value in texts.items() if value is not None}
