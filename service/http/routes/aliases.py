"""The aliases of a client: read, move with conditional requests (RFC 9110 section 13), roll back."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header, Query, Response

from service.bootstrap import Services
from service.domain.client import validate_alias_name
from service.domain.version import LIVE, AliasMove, ExpectedRevision
from service.errors import AliasConflict, NothingToRollBackTo, UnknownAlias, UnknownVersion
from service.http.dependencies import AliasPath, OnlyIfAbsent, QueryNames, ServicesDep
from service.http.json_bodies import UniqueKeysRoute
from service.http.openapi import JSON, QUERY, READ, WRITE, problems
from service.http.problems import InvalidPrecondition, UnsupportedMediaType
from service.http.schemas import resources as schemas
from service.http.schemas.audit import Actor
from service.http.scopes import ANY_KEY, ClientPath, require_scope

router = APIRouter(prefix="/clients/{client}", tags=["aliases"], route_class=UniqueKeysRoute)

_ETAG: Final = re.compile(r'"((?:[0-9a-f]{8}-)?\d{1,18})"')
"""The tag of a move in double quotes. Earlier releases sent the revision alone."""

_WEAK: Final = re.compile(r'W/"[^"]*"')


async def _expected_revision(
    only_new: OnlyIfAbsent,
    if_match: Annotated[
        str | None, Header(description="move the alias only if this is its ETag; `*`: only if it exists")
    ] = None,
) -> ExpectedRevision:
    """Return what the alias must be at; "*" means that it must exist.

    Raises:
        InvalidPrecondition: both headers were sent, or one is malformed.
        AliasConflict: If-Match has a weak ETag, which by RFC 9110 never matches.
    """
    if if_match is not None and only_new:
        raise InvalidPrecondition("If-Match and If-None-Match were both sent; send one of them")
    if only_new:
        return 0
    if if_match is None or if_match.strip() == "*":
        return None if if_match is None else "*"
    if _WEAK.fullmatch(if_match.strip()):
        raise AliasConflict(
            f"If-Match is the weak ETag {if_match[:80]!r}, which never matches (RFC 9110, section 13.1.1); send the "
            "ETag as the service answered it; a proxy that compresses answers may have made it weak"
        )
    matched = _ETAG.fullmatch(if_match.strip())
    if not matched:
        raise InvalidPrecondition(
            f'If-Match is {if_match[:80]!r}; allowed: one ETag such as "4f2c81d0-3" with its quotes, or *'
        )
    return int(matched[1]) if matched[1].isdigit() else matched[1]


ExpectedRevisionDep = Annotated[ExpectedRevision, Depends(_expected_revision)]


@router.get("/aliases/{alias}", summary="Get an alias", dependencies=[ANY_KEY], responses=problems(*READ, UnknownAlias))
def get_alias(client: ClientPath, alias: AliasPath, services: ServicesDep, response: Response) -> schemas.Alias:
    """Get the version that an alias points to. The ETag header identifies its revision."""
    return _answer(services.clients.alias(client, alias), response)


@router.put(
    "/aliases/{alias}",
    summary="Move an alias",
    dependencies=[require_scope("adapt")],
    responses=problems(*WRITE, UnknownVersion, AliasConflict, InvalidPrecondition, UnsupportedMediaType, *JSON),
)
def move_alias(
    client: ClientPath,
    alias: AliasPath,
    target: schemas.AliasTarget,
    services: ServicesDep,
    response: Response,
    expected: ExpectedRevisionDep,
) -> schemas.Alias:
    """Point an alias to a version. Without a precondition it is moved in any case."""
    revision = _revision(services, client, alias, expected)
    return _answer(services.clients.move_alias(client, alias, target.version, revision), response)


@router.post(
    "/rollback",
    summary="Roll back an alias",
    dependencies=[require_scope("adapt"), Depends(QueryNames("alias"))],
    responses=problems(*WRITE, UnknownAlias, NothingToRollBackTo, AliasConflict, InvalidPrecondition, *QUERY),
)
def roll_back(
    client: ClientPath,
    services: ServicesDep,
    response: Response,
    expected: ExpectedRevisionDep,
    alias: Annotated[str, Query(description="name of the alias")] = LIVE,
) -> schemas.Alias:
    """Point an alias to the version before the current one. Repeat to go further back. Deleted versions are skipped."""
    revision = _revision(services, client, validate_alias_name(alias), expected)
    return _answer(services.clients.rollback(client, alias, revision), response)


@router.post(
    "/promote",
    summary="Promote the candidate",
    dependencies=[require_scope("adapt"), Depends(QueryNames())],
    responses=problems(*WRITE, UnknownAlias, AliasConflict, InvalidPrecondition, *QUERY),
)
def promote(
    client: ClientPath, services: ServicesDep, response: Response, expected: ExpectedRevisionDep
) -> schemas.Alias:
    """Point the alias `live` to the version that `candidate` points to. Preconditions are those of `live`.

    If it does already, nothing changes, so that a request can be repeated.

    `GET /clients/{client}/versions/{version}/shadow/{candidate}` tells what that changes.
    """
    revision = _revision(services, client, LIVE, expected)
    return _answer(services.clients.promote(client, revision), response)


def alias_response(move: AliasMove) -> schemas.Alias:
    """Return an alias after its latest move. Its ETag is the tag of that move in double quotes."""
    return schemas.Alias(
        client=move.client,
        alias=move.alias,
        version=move.version,
        previous=move.previous,
        revision=move.revision,
        etag=f'"{move.tag}"',
        moved_at=move.moved_at,
        reason=move.reason,
        by=None if move.actor is None else Actor(id=move.actor, name=move.actor_name or ""),
    )


def _revision(services: Services, client: str, alias: str, expected: ExpectedRevision) -> ExpectedRevision:
    """Return the expected revision as the use cases take it, after a check that "*" matches an existing alias."""
    if expected != "*":
        return expected
    try:
        services.clients.alias(client, alias)
    except UnknownAlias as error:
        raise AliasConflict(f"If-Match is *, but client {client!r} has no alias {alias!r}") from error
    return None


def _answer(move: AliasMove, response: Response) -> schemas.Alias:
    alias = alias_response(move)
    response.headers["ETag"] = alias.etag
    return alias
