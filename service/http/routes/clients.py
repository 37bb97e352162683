"""The clients: list, read, settings, history and deletion."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from service.domain.client import ClientSettings, ClientSummary
from service.domain.version import LIVE
from service.errors import InvalidRequest, StoreUnavailable, VersionCorrupt
from service.http.dependencies import Page, Paging, ServicesDep, parse_moment
from service.http.json_bodies import UniqueKeysRoute
from service.http.openapi import JSON, QUERY, READ, WRITE, problems
from service.http.problems import InvalidField, UnsupportedMediaType
from service.http.routes.aliases import alias_response
from service.http.schemas import resources as schemas
from service.http.scopes import ANY_KEY, ClientPath, caller_of, require_scope

router = APIRouter(prefix="/clients", tags=["clients"], route_class=UniqueKeysRoute)

MAX_MOVES: Final = 2**31 - 1

_SETTINGS: Final = {"$ref": "#/components/schemas/ClientSettings"}


@router.get(
    "",
    summary="List clients",
    dependencies=[ANY_KEY],
    responses=problems(StoreUnavailable, VersionCorrupt, *QUERY),
)
def list_clients(
    request: Request,
    services: ServicesDep,
    page: Annotated[Page, Depends(Paging("drift"))],
    after: Annotated[str, Query(max_length=64, description="only clients whose names follow this one")] = "",
    drift: Annotated[bool, Query(description="whether to say which clients drift")] = False,
) -> schemas.ClientList:
    """List the clients that the key can access, ordered by name. The header `Link` leads to the next page.

    With `drift=true`, `drifting` says whether the images of a client drift, judged by the newest 20,000 of all clients
    in the last 24 hours. `GET /clients/{client}/drift` has the figures.
    """
    found = services.clients.list(caller_of(request).clients, after, page.limit + 1)
    if len(found) > page.limit:
        page.link_next(found[page.limit - 1].name)
    listed = found[: page.limit]
    drifting = services.judged.drift_of([each.name for each in listed]) if drift else {}
    return schemas.ClientList(clients=[_client(each, drifting.get(each.name)) for each in listed])


@router.get("/{client}", summary="Get a client", dependencies=[ANY_KEY], responses=problems(*READ))
def get_client(client: ClientPath, services: ServicesDep, response: Response) -> schemas.ClientInfo:
    """Get a client with its aliases. The ETag header is that of the alias `live`."""
    info = _client(services.clients.get(client))
    for alias in info.aliases:
        if alias.alias == LIVE:
            response.headers["ETag"] = alias.etag
    return info


@router.delete(
    "/{client}", summary="Delete a client", dependencies=[require_scope("admin")], responses=problems(*WRITE)
)
def delete_client(client: ClientPath, services: ServicesDep) -> schemas.DeletedClient:
    """Delete a client and everything that is stored for it: versions, samples, weights, aliases and settings."""
    erased = services.clients.delete(client)
    return schemas.DeletedClient(
        client=erased.client, versions=erased.versions, blobs=erased.blobs, bytes=erased.blobs_bytes
    )


@router.get("/{client}/settings", summary="Get settings", dependencies=[ANY_KEY], responses=problems(*READ))
def get_client_settings(client: ClientPath, services: ServicesDep) -> schemas.ClientSettings:
    """Get the settings of a client."""
    return schemas.ClientSettings.model_validate(services.clients.settings(client))


@router.put(
    "/{client}/settings",
    summary="Set settings",
    dependencies=[require_scope("admin")],
    responses=problems(*WRITE, *JSON, UnsupportedMediaType, InvalidRequest),
)
def set_client_settings(
    client: ClientPath, settings: schemas.ClientSettings, services: ServicesDep
) -> schemas.ClientSettings:
    """Replace all settings. Settings that are left out get their defaults; PATCH keeps them instead.

    The client is created if necessary.

    `retain_samples: false` deletes all stored images of the client and stores no new ones. A version then consists of
    the samples of one request (`mode=replace`) and cannot be extended.
    """
    stored = services.clients.update_settings(client, ClientSettings(**settings.model_dump()))
    return schemas.ClientSettings.model_validate(stored)


@router.patch(
    "/{client}/settings",
    summary="Change settings",
    dependencies=[require_scope("admin")],
    responses=problems(*WRITE, *JSON, UnsupportedMediaType, InvalidRequest),
    openapi_extra={"requestBody": {"content": {"application/merge-patch+json": {"schema": _SETTINGS}}}},
)
def change_client_settings(
    client: ClientPath, settings: schemas.ClientSettings, services: ServicesDep
) -> schemas.ClientSettings:
    """Change the settings that are sent, and answer with all of them. Those that are left out stay as they are.

    The body is a JSON merge patch (RFC 7396), as `application/json` or `application/merge-patch+json`.
    """
    stored = services.clients.change_settings(client, settings.model_dump(exclude_unset=True))
    return schemas.ClientSettings.model_validate(stored)


@router.get(
    "/{client}/history",
    summary="Get the history of aliases",
    dependencies=[ANY_KEY],
    responses=problems(*READ, InvalidField, *QUERY),
)
def get_client_history(
    client: ClientPath,
    services: ServicesDep,
    page: Annotated[Page, Depends(Paging("at"))],
    after: Annotated[int, Query(ge=0, le=MAX_MOVES, description="number of moves to leave out from the start")] = 0,
    at: Annotated[
        str | None,
        Query(description="a moment in ISO 8601 with an offset from UTC", examples=["2026-01-31T14:31:00Z"]),
    ] = None,
) -> schemas.History:
    """Get the moves of aliases, oldest first, and which version was live; with `at`, as of that moment.

    The header `Link` leads to the next page.
    """
    moment = None if at is None else parse_moment("at", at)
    moves = services.clients.history(client, moment, after, page.limit + 1)
    if after or len(moves) > page.limit:
        live = services.clients.live(client, moment)
    else:
        live = next((move.version for move in reversed(moves) if move.alias == LIVE), None)
    if len(moves) > page.limit:
        page.link_next(after + page.limit)
    return schemas.History(
        client=client, at=moment, live=live, moves=[alias_response(move) for move in moves[: page.limit]]
    )


def _client(summary: ClientSummary, drifting: bool | None = None) -> schemas.ClientInfo:
    return schemas.ClientInfo(
        client=summary.name,
        created_at=summary.created_at,
        versions=summary.versions,
        latest=summary.latest,
        live=summary.live,
        aliases=[alias_response(move) for _, move in sorted(summary.aliases.items())],
        drifting=drifting,
    )
