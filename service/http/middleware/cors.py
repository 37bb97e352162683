"""CORS: lets pages of named origins call the service from a browser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from service.http.problems import PROBLEMS, OriginRejected, problem_response

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
REQUEST_HEADERS: Final = ("X-API-Key", "Authorization", "Idempotency-Key", "If-Match", "If-None-Match", "Prefer")
RESPONSE_HEADERS: Final = ("ETag", "Location", "Preference-Applied", "Retry-After", "X-Request-ID")


class ProblemCorsMiddleware(CORSMiddleware):
    """Starlette's middleware, which rejects a preflight request with a problem instead of a text."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Respond to a preflight request."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        detail = (
            f"a page of {request_headers['origin'][:80]!r} may not send this request; allowed are the origins in "
            f"ANOLE_CORS_ORIGINS, the methods {', '.join(METHODS)} and the headers {', '.join(self.allow_headers)}"
        )
        return problem_response(PROBLEMS[OriginRejected], detail, "/", {"Vary": response.headers["Vary"]})


def cors(origins: Sequence[str]) -> list[Middleware]:
    """Return the middleware for the allowed origins; none if there are no origins."""
    if not origins:
        return []
    return [
        Middleware(
            ProblemCorsMiddleware,
            allow_origins=origins,
            allow_methods=METHODS,
            allow_headers=REQUEST_HEADERS,
            expose_headers=RESPONSE_HEADERS,
        )
    ]
