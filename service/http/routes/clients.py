"""GET /clients and what hangs below one client: itself, its history, its deletion."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response

from service.domain.version import LIVE
from service.http import responses as views
from service.http.dependencies import ClientPath, ServicesDep, problems
from service.http.errors import FieldInvalid
from service.http.preconditions import etag
from service.http.schemas import resources as schemas

router = APIRouter(prefix="/clients", tags=["clients"])


@router.get("", summary="List the clients", responses=problems(503))
def list_clients(services: ServicesDep) -> schemas.ClientList:
    """Every client, by name."""
    return schemas.ClientList(clients=[views.client(summary) for summary in services.lifecycle.clients()])


@router.get("/{client}", summary="Read a client", responses=problems(404, 422, 503))
def read_client(client: ClientPath, services: ServicesDep, response: Response) -> schemas.ClientInfo:
    """A client with its aliases; the ETag header is that of `live`."""
    summary = services.lifecycle.client(client)
    if LIVE in summary.aliases:
        response.headers["ETag"] = etag(summary.aliases[LIVE])
    return views.client(summary)


@router.delete("/{client}", summary="Delete a client", responses=problems(404, 422, 503))
def delete_client(client: ClientPath, services: ServicesDep) -> schemas.DeletedClient:
    """Erase everything a client has: versions, samples, weights, aliases and their log, settings; says how much."""
    return views.erased(services.lifecycle.delete_client(client))


@router.get("/{client}/history", summary="Read the log of alias moves", responses=problems(404, 422, 503))
def read_history(
    client: ClientPath,
    services: ServicesDep,
    at: Annotated[
        str | None, Query(description="a moment, ISO 8601 with its offset from UTC", examples=["2026-01-31T14:31:00Z"])
    ] = None,
) -> schemas.History:
    """Every move of every alias, oldest first, and which version was live; with `at`, as it was at that moment."""
    moment = None if at is None else _moment(at)
    moves = services.lifecycle.history(client, moment)
    live = next((move.version for move in reversed(moves) if move.alias == LIVE), None)
    return views.history(client, moment, live, moves)


def _moment(text: str) -> datetime:
    """Read a moment. Small letters, and a plus sign that the query turned into a blank, are understood.

    Raises:
        FieldInvalid: no ISO 8601 moment, or one without an offset, which could be meant in any time zone.
    """
    allowed = "allowed is ISO 8601 with an offset from UTC, such as 2026-01-31T14:31:00Z or 2026-01-31T15:31:00+01:00"
    try:
        moment = datetime.fromisoformat(re.sub(r" (?=\d{2}:?\d{2}$)", "+", text.upper()))
    except ValueError as error:
        raise FieldInvalid(f"field 'at' is {text[:80]!r}; {allowed}") from error
    if moment.tzinfo is None:
        raise FieldInvalid(f"field 'at' is {text!r}, without an offset; {allowed}")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise FieldInvalid(f"field 'at' is {text!r}, beyond the years 1 to 9999 in UTC; {allowed}") from error
