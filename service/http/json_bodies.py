"""JSON bodies: an object that has a key twice is rejected, because its reader would silently drop one of the values."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from service.http.problems import DuplicateField
from service.http.uploads import shown


class UniqueKeysRoute(APIRoute):
    """A route whose JSON body has each key of an object once."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return a handler that reads the body with this check."""
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            return await handle(_Request(request.scope, request.receive))

        return checked


class _Request(Request):
    async def json(self) -> Any:
        """Parse the body. Raises DuplicateField, and ValueError if it is not JSON."""
        return json.loads(await self.body(), object_pairs_hook=_unique)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise DuplicateField(f"the body has the key {shown(name)} twice in one object; give it once")
        found[name] = value
    return found
