"""The session of a browser: a cookie that has the API key, and the checks that no page of another site uses it.

The service keeps no state of sessions, so that every worker knows them all, and a revoked key ends its sessions.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope

from service.http.problems import CsrfRejected

COOKIE: Final = "anole_session"

CONSOLE_HEADER: Final = "X-Anole-Console"
"""A header that browsers send to another site only after a preflight request, which is refused."""

_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def session_key(scope: Scope) -> bytes | None:
    """Return the key in the session cookie, or None."""
    cookies = cookie_parser("; ".join(Headers(scope=scope).getlist("cookie")))
    key = cookies.get(COOKIE)
    return key.encode("latin-1") if key else None


def check_session_request(scope: Scope) -> None:
    """Check that the page of this service sent a request that changes something, if it is authenticated by the cookie.

    Raises:
        CsrfRejected: the method is not safe, and the header is missing or a browser sent it for another site.
    """
    if scope["method"] in _SAFE_METHODS:
        return
    if Headers(scope=scope).get(CONSOLE_HEADER) != "1":
        raise CsrfRejected(
            f"the request is authenticated by the cookie {COOKIE!r} and lacks the header '{CONSOLE_HEADER}: 1'; add "
            "it, or send the key as 'X-API-Key: KEY'"
        )
    check_same_origin(scope)


def check_same_origin(scope: Scope) -> None:
    """Check what a browser says about the page that sent a request.

    Raises:
        CsrfRejected: it is a page of another origin.
    """
    headers = Headers(scope=scope)
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if site not in (None, "same-origin") or (origin is not None and not is_own_origin(origin.lower(), scope)):
        raise CsrfRejected(
            "a page of another origin sent this request of a session; open the page of this service itself. A proxy in "
            "front of it must pass the Host header on unchanged"
        )


def is_own_origin(origin: str, scope: Scope) -> bool:
    """Whether an origin, in lower case, has the scheme, host and port of the request."""
    scheme, _, address = origin.partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    if port is None or scheme not in _schemes(scope):
        return False
    return address.removesuffix(port) == Headers(scope=scope).get("host", "").lower().removesuffix(port)


def _schemes(scope: Scope) -> set[str]:
    """Return the schemes that the browser may use: a proxy that speaks HTTPS to it may not say so to the service."""
    forwarded = _forwarded_scheme(scope)
    if forwarded:
        return {forwarded}
    return {"https"} if scope["scheme"] == "https" else {"http", "https"}


def _forwarded_scheme(scope: Scope) -> str:
    return Headers(scope=scope).get("x-forwarded-proto", "").partition(",")[0].strip().lower()


def is_https(scope: Scope) -> bool:
    """Whether the browser uses HTTPS, as far as the request tells. A proxy may speak HTTP to the service."""
    origin = Headers(scope=scope).get("origin", "")
    return "https" in (scope["scheme"], _forwarded_scheme(scope), origin.partition("://")[0])
