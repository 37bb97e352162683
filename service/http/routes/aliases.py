"""The aliases of a client: read, move under a precondition, roll back."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response

from service.domain.names import validate_alias_name
from service.domain.version import LIVE, AliasMove
from service.http import responses as views
from service.http.dependencies import AliasPath, ClientPath, ServicesDep, problems
from service.http.preconditions import Precondition, etag, move, precondition
from service.http.schemas import resources as schemas

router = APIRouter(prefix="/clients/{client}", tags=["aliases"])


async def _wanted(
    if_match: Annotated[
        str | None, Header(description="move it only if this is still its ETag; `*`: only if it exists")
    ] = None,
    if_none_match: Annotated[str | None, Header(description="`*`: move it only if it does not exist yet")] = None,
) -> Precondition:
    return precondition(if_match, if_none_match)


WantedDep = Annotated[Precondition, Depends(_wanted)]


@router.get("/aliases/{alias}", summary="Read an alias", responses=problems(404, 422, 503))
def read_alias(client: ClientPath, alias: AliasPath, services: ServicesDep, response: Response) -> schemas.Alias:
    """Where an alias points; the ETag header is its revision."""
    return _answer(services.lifecycle.alias(client, alias), response)


@router.put("/aliases/{alias}", summary="Move an alias", responses=problems(404, 412, 415, 422, 503))
def put_alias(
    client: ClientPath,
    alias: AliasPath,
    target: schemas.AliasTarget,
    services: ServicesDep,
    response: Response,
    wanted: WantedDep,
) -> schemas.Alias:
    """Point an alias at a version. Without a precondition the alias is moved whatever it points at."""
    return _answer(move(services.lifecycle, client, alias, target.version, wanted), response)


@router.post("/rollback", summary="Roll an alias back", responses=problems(404, 409, 422, 503))
def roll_back(
    client: ClientPath,
    services: ServicesDep,
    response: Response,
    alias: Annotated[str, Query(description="which alias")] = LIVE,
) -> schemas.Alias:
    """Point an alias at the version before the current one; again goes further back. Deleted versions are skipped."""
    return _answer(services.lifecycle.rollback(client, validate_alias_name(alias)), response)


def _answer(moved: AliasMove, response: Response) -> schemas.Alias:
    response.headers["ETag"] = etag(moved)
    return views.alias(moved)
