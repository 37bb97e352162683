"""Authorization: the scope that a route requires, and the clients that an API key can access.

`AuthMiddleware` has put the caller into the request before.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, cast

from fastapi import Depends, Path, Request
from starlette.types import Scope as ASGIScope

from service.domain.client import validate_client_name
from service.domain.key import Caller, Scope
from service.errors import ScopeMissing, UnknownClient
from service.http.log_fields import log_fields

CALLER: Final = "anole.caller"
"""Key of the caller in the ASGI scope."""


class RequiredScope:
    """A dependency that rejects keys without the scope.

    Args:
        scope: the required scope; None: any valid key.
    """

    def __init__(self, scope: Scope | None) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> None:
        """Check the caller's scopes.

        Raises:
            ScopeMissing: the key does not have the scope.
        """
        if self.scope is not None and self.scope not in caller_of(request).scopes:
            raise ScopeMissing(f"this request requires a key with the scope {self.scope!r}; the key does not have it")


def require_scope(scope: Scope) -> Any:
    """Return the dependency of a route that requires a key with `scope`."""
    return Depends(RequiredScope(scope))


ANY_KEY: Final[Any] = Depends(RequiredScope(None))
"""The dependency of a route that any valid key may call."""


def caller_of(request: Request) -> Caller:
    """Return who sent the request."""
    return cast(Caller, request.scope[CALLER])


def caller_id(scope: ASGIScope) -> str:
    """Return what tells callers apart: the prefix of the key, or the address where no key is needed."""
    caller: Caller | None = scope.get(CALLER)
    return (caller.prefix if caller else "") or str((scope.get("client") or ("",))[0])


def accessible_client(request: Request, client: str) -> str:
    """Return `client` if the caller's key can access it.

    The response for another key's client is the same as for a client that does not exist, because nothing is looked up.

    Raises:
        InvalidName: not a client name.
        UnknownClient: the key cannot access the client.
    """
    name = validate_client_name(client)
    if not caller_of(request).can_access(name):
        raise UnknownClient(name)
    log_fields(request.scope, client=name)
    return name


async def _client_in_path(
    request: Request,
    client: Annotated[str, Path(description="name of a client", openapi_examples={"demo": {"value": "demo"}})],
) -> str:
    return accessible_client(request, client)


ClientPath = Annotated[str, Depends(_client_in_path)]
"""The client in a path, checked against the caller's key."""
