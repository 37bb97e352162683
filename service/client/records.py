"""Requests for what a service has recorded, as values that both clients send; see ``requests.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict

from service.client.request import Request
from service.client.requests import PAGE, page_of, path_of
from service.http.schemas.audit import AuditEntry, AuditList
from service.http.schemas.predictions import DriftReport, LoggedPredictionList, ShadowReport
from service.http.schemas.resources import Alias


class Wanted(TypedDict, total=False):
    """What entries of the prediction log must have; see `Client.predictions`."""

    part: str | None
    image: str | None
    station: str | None
    label: str | None
    verdict: str | None
    version: int | None
    since: datetime | None
    until: datetime | None


def audit(
    name: str | None, since: datetime | None, until: datetime | None, found: Sequence[AuditEntry]
) -> Request[list[AuditEntry]]:
    """GET /audit, the page after the entries that were found."""
    content = page_of(found[-1].id if found else 0)
    content["params"].update(_given({"client": name, "from": since, "to": until}))
    return Request("GET", "/audit", lambda body: AuditList.model_validate_json(body).entries, content)


def predictions(name: str, wanted: Wanted, limit: int, after: int | None) -> Request[LoggedPredictionList]:
    """GET /clients/{client}/predictions, a page of at most `limit` entries after the one of that id."""
    names = {"since": "from", "until": "to"}
    given = _given({**{names.get(key, key): value for key, value in wanted.items()}, "after": after})
    params = {"limit": min(limit, PAGE), **given}
    path = path_of(name, "predictions")
    return Request("GET", path, LoggedPredictionList.model_validate_json, {"params": params})


def shadow(name: str, version: int, candidate: int, after: int | None) -> Request[ShadowReport]:
    """GET /clients/{client}/versions/{version}/shadow/{candidate}, a page of the changed images."""
    path = path_of(name, "versions", str(version), "shadow", str(candidate))
    return Request("GET", path, ShadowReport.model_validate_json, page_of(after or 0))


def drift(name: str, hours: int) -> Request[DriftReport]:
    """GET /clients/{client}/drift."""
    return Request("GET", path_of(name, "drift"), DriftReport.model_validate_json, {"params": {"hours": hours}})


def promote(name: str) -> Request[Alias]:
    """POST /clients/{client}/promote."""
    return Request("POST", path_of(name, "promote"), Alias.model_validate_json)


def _given(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the values that are not None as texts of a query."""
    texts = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}
    return {name: str(value) for name, value in texts.items() if value is not None}
