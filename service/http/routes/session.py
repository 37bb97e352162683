"""The session of a browser: log in with an API key, which a cookie then holds, ask who one is, and log out.

These routes need no key. Wrong keys are limited like all requests without a valid key.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.types import Scope

from service.domain.key import ANONYMOUS, EVERY_CLIENT, SCOPES, Caller
from service.errors import KeyMissing, KeyRefused, RateExceeded, StoreUnavailable
from service.http.dependencies import ServicesDep
from service.http.json_bodies import UniqueKeysRoute
from service.http.middleware.auth import credentials
from service.http.openapi import JSON, problems
from service.http.problems import BodyTooSlow, CsrfRejected, UnsupportedMediaType
from service.http.schemas import session as schemas
from service.http.session import COOKIE, check_same_origin, check_session_request, is_https, session_key
from service.usecases.keys import KeyCache

router = APIRouter(prefix="/session", tags=["session"], route_class=UniqueKeysRoute)


@router.get("", summary="Who am I", responses=problems(RateExceeded, StoreUnavailable))
def get_session(request: Request, services: ServicesDep) -> schemas.SessionInfo:
    """Tell whether the service requires keys, and what the key of this request, if it has a valid one, may do."""
    services.keys.refresh()
    caller = _caller(services.keys, request.scope)
    return schemas.SessionInfo(
        keys_required=not services.keys.open,
        authenticated=caller is not None and caller is not ANONYMOUS,
        name=None if caller is None else caller.name or None,
        scopes=[] if caller is None else [scope for scope in SCOPES if scope in caller.scopes],
        clients=[] if caller is None else [EVERY_CLIENT] if caller.clients is None else sorted(caller.clients),
    )


@router.post(
    "",
    status_code=204,
    summary="Log in",
    responses=problems(
        *(KeyRefused, CsrfRejected, RateExceeded, StoreUnavailable),
        *(*JSON, BodyTooSlow, UnsupportedMediaType),
    ),
)
def log_in(login: schemas.Login, request: Request, response: Response, services: ServicesDep) -> None:
    """Check an API key and put it into the cookie `anole_session`, which scripts of the page cannot read.

    The browser then sends it with every request. Those that change something need the header `X-Anole-Console: 1` too,
    and a page of this service that sends them.
    """
    check_same_origin(request.scope)
    services.keys.refresh()
    key = login.key.strip()  # people paste keys
    services.keys.holder(key.encode("utf-8", "surrogatepass"))
    response.set_cookie(COOKIE, key, httponly=True, samesite="strict", secure=is_https(request.scope))


@router.delete("", status_code=204, summary="Log out", responses=problems(CsrfRejected, RateExceeded))
def log_out(request: Request, response: Response) -> None:
    """Remove the cookie. The key stays valid, until it is revoked."""
    if session_key(request.scope) is not None:
        check_session_request(request.scope)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=is_https(request.scope))


def _caller(keys: KeyCache, scope: Scope) -> Caller | None:
    """Return who sends the request, or None without a valid key on a service that requires one."""
    try:
        return keys.caller(credentials(scope)[0])
    except (KeyMissing, KeyRefused):
        return None
