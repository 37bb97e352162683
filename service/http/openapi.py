"""The OpenAPI description: which problems each route can respond with, and which key it requires."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from models import errors as learning
from service.errors import (
    ClientDeleted,
    DeadlinePassed,
    DecoderUnavailable,
    IdempotencyInFlight,
    IdempotencyMismatch,
    InvalidName,
    InvalidRequest,
    KeyMissing,
    KeyRefused,
    Overloaded,
    ParentSuperseded,
    RateExceeded,
    SamplesNotKept,
    ScopeMissing,
    StoreFull,
    StoreUnavailable,
    TooFewClasses,
    TooManyClasses,
    TooManySamples,
    UnknownCheckpoint,
    UnknownClient,
    VersionCorrupt,
)
from service.http.problems import (
    MEDIA_TYPE,
    PROBLEMS,
    BodyTooLarge,
    BodyTooSlow,
    ConflictingFields,
    CsrfRejected,
    DuplicateField,
    FileTooLarge,
    InvalidField,
    MalformedForm,
    MissingField,
    OriginRejected,
    TooManyParts,
    UnknownField,
    UnsupportedMediaType,
)
from service.http.schemas.base import ProblemDetails
from service.http.scopes import RequiredScope
from service.http.session import COOKIE

DESCRIPTION: Final = """Few-shot image classification.

Send a few labelled images to `/adapt` to make a version for a client. Send images to `/predict` to classify them.

Errors are RFC 9457 problems with a stable `code`. Besides the codes that each route lists, every response can
have the code `bad_request`, `head_ambiguous` or `head_too_long` (400), `body_too_slow` (408), `body_too_large` (413),
`internal_error` (500) or `overloaded` (503)."""

READ: Final = (InvalidName, UnknownClient, StoreUnavailable, VersionCorrupt)
"""Errors of routes that read from a client."""

WRITE: Final = (*READ, StoreFull)
"""Errors of routes that change a client."""

UPLOAD: Final = (
    MalformedForm,
    TooManyParts,
    MissingField,
    UnknownField,
    DuplicateField,
    InvalidField,
    ConflictingFields,
    BodyTooSlow,
    BodyTooLarge,
    FileTooLarge,
    UnsupportedMediaType,
    Overloaded,
    DeadlinePassed,
)
"""Errors of routes that read uploads and wait for work."""

IMAGES: Final = (
    learning.ImageEmpty,
    learning.ImageCorrupt,
    learning.ImageUndecodable,
    learning.ImageDepthMismatch,
    learning.ImageFormatUnsupported,
    learning.ImageTooLarge,
    learning.ImageTooSmall,
    DecoderUnavailable,
)
"""Errors of routes that decode images."""

ADAPT: Final = (
    *WRITE,
    Overloaded,
    DeadlinePassed,
    TooManySamples,
    TooManyClasses,
    SamplesNotKept,
    UnknownCheckpoint,
    ClientDeleted,
    ParentSuperseded,
    learning.AdaptationDiverged,
)
"""Errors of routes that make a version."""

ADAPT_ONCE: Final = (*ADAPT, TooFewClasses, InvalidRequest, IdempotencyInFlight, IdempotencyMismatch)
"""Errors of routes that make a version from samples of the request, and take an idempotency key."""

PARAMETERS: Final = RequestValidationError
"""The error of an invalid parameter or JSON body."""

JSON: Final = (PARAMETERS, DuplicateField)
"""Errors of routes with a JSON body."""

QUERY: Final = (PARAMETERS, UnknownField, DuplicateField)
"""Errors of routes that check the names in the query."""

_GUARDED: Final = (KeyMissing, KeyRefused, OriginRejected, RateExceeded, StoreUnavailable)
_SCHEMES: Final[dict[str, Any]] = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "the same key as a bearer token"},
    "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "the key of a browser, POST /session"},
}
_SCHEMA: Final = {"$ref": "#/components/schemas/ProblemDetails"}

Responses = dict[int | str, dict[str, Any]]


def problems(*errors: type[Exception]) -> Responses:
    """Document the errors of a route: one response per status, with an example for each code."""
    responses: Responses = {}
    _add(responses, errors)
    return responses


def _add(responses: dict[Any, dict[str, Any]], errors: Iterable[type[Exception]], *, as_text: bool = False) -> None:
    for error in errors:
        problem = PROBLEMS[error]
        status = str(problem.status) if as_text else problem.status
        response = responses.setdefault(status, {"content": {}})
        content = response["content"].setdefault(MEDIA_TYPE, {"schema": _SCHEMA, "examples": {}})
        example = {
            "type": f"urn:anole:problem:{problem.code}",
            "title": problem.title,
            "status": problem.status,
            "code": problem.code,
            "detail": (error.__doc__ or problem.title).partition("\n")[0],
            "instance": "/path/of/the/request",
        }
        content["examples"][problem.code] = {"summary": problem.title, "value": example}
        response["description"] = f"Problem with the code {' or '.join(f'`{code}`' for code in content['examples'])}"


class Application(FastAPI):
    """FastAPI with a description that says which key each route requires.

    Attributes:
        routers: the included routers.
    """

    routers: Sequence[APIRouter] = ()

    @functools.cached_property
    def description_json(self) -> bytes:
        """The description as JSON."""
        return json.dumps(self.openapi(), ensure_ascii=False, separators=(",", ":")).encode()

    def openapi(self) -> dict[str, Any]:
        """Return the description. It is generated once."""
        if self.openapi_schema is None:
            described = super().openapi()
            scopes = {
                (path, method.lower()): scope
                for router in self.routers
                for path, methods, scope in guarded_routes(router)
                for method in methods
            }
            components = described.setdefault("components", {})
            components["securitySchemes"] = _SCHEMES
            components.setdefault("schemas", {})["ProblemDetails"] = ProblemDetails.model_json_schema()
            for path, operations in described["paths"].items():
                for method, operation in operations.items():
                    _drop_default_validation_error(operation["responses"])
                    if (path, method) in scopes:
                        _describe_key(operation, scopes[path, method], changes=method != "get")
            for unused in ("HTTPValidationError", "ValidationError"):
                components["schemas"].pop(unused, None)
        return self.openapi_schema or {}


def guarded_routes(router: APIRouter) -> Iterable[tuple[str, set[str], str | None]]:
    """Yield path, methods and required scope (None: any key) of the routes that require a key."""
    for route in router.routes:
        if isinstance(route, APIRoute):
            for dependency in route.dependencies:
                if isinstance(dependency.dependency, RequiredScope):
                    yield route.path, route.methods or set(), dependency.dependency.scope


def _drop_default_validation_error(responses: dict[str, Any]) -> None:
    """Drop the 422 of FastAPI's own format, which it adds to routes that declare no 422."""
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]


def _describe_key(operation: dict[str, Any], scope: str | None, *, changes: bool) -> None:
    needs = "any API key" if scope is None else f"an API key with the scope `{scope}`"
    operation["security"] = [{"key": []}, {"bearer": []}, {"session": []}, {}]
    operation["description"] = f"{operation.get('description', '')}\n\nRequires {needs}, unless the service is open."
    errors = [*_GUARDED, *([] if scope is None else [ScopeMissing]), *([CsrfRejected] if changes else [])]
    _add(operation["responses"], errors, as_text=True)
