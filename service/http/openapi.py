"""The application with what the door adds to its description: keys, and the answers that it gives on every route."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.dependencies import problems
from service.http.middleware.auth import PUBLIC, permission_for
from service.http.problems import MEDIA_TYPE

_SCHEMES: Final[dict[str, Any]] = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "the same key, as a bearer token"},
}
_SCHEMA: Final = {"$ref": "#/components/schemas/ProblemDetails"}


class Application(FastAPI):
    """FastAPI whose description says where a key is needed, and for what; and with a surrounding of its own.

    Middleware that is added to the framework runs inside layers of it, which every request would pass first.
    """

    _entrance: ASGIApp | None = None

    def surround(self, surrounding: Callable[[ASGIApp], ASGIApp]) -> None:
        """Let what `surrounding` makes of this application answer in its place."""
        self._entrance = surrounding(super().__call__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        scope["app"] = self
        await (self._entrance or super().__call__)(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """The description, made once."""
        if self.openapi_schema is None:
            described = super().openapi()
            described.setdefault("components", {})["securitySchemes"] = _SCHEMES
            for path, operations in described["paths"].items():
                for method, operation in operations.items():
                    if not PUBLIC.fullmatch(path):
                        _describe(operation, permission_for(method.upper(), path))
        return self.openapi_schema or {}


def _describe(operation: dict[str, Any], scope: str | None) -> None:
    operation["security"] = [{"key": []}, {"bearer": []}, {}]
    needs = "any key" if scope is None else f"a key with the scope `{scope}`"
    operation["description"] = f"{operation.get('description', '')}\n\nNeeds {needs}, unless the service is open."
    for status, answer in problems(401, 403, 429).items():
        described = {"description": answer["description"], "content": {MEDIA_TYPE: {"schema": _SCHEMA}}}
        operation["responses"].setdefault(str(status), described)
