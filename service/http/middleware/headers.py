"""What a request's headers may not say, whatever it asks for. It knows no resource and no key.

An open service is meant for whoever sits at this machine. A page of any site, shown in a browser there, can send
requests to it too; such a request tells on itself, by its Origin, or by the name under which the page reached us.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final

from starlette.types import Scope

from service.http.errors import HeadAmbiguous, OriginRefused

_HOST: Final = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")


def refuse_ambiguous(scope: Scope) -> None:
    """Refuse a body with two lengths, and anything but one Host: a request may be hidden in what follows.

    Raises:
        HeadAmbiguous: says which.
    """
    names = [name for name, _ in scope["headers"]]
    if b"transfer-encoding" in names and b"content-length" in names:
        raise HeadAmbiguous("the body comes with Content-Length and with Transfer-Encoding; send one of them")
    for name in (b"content-length", b"transfer-encoding", b"host"):
        if names.count(name) > 1:
            raise HeadAmbiguous(f"the header {name.decode()} comes {names.count(name)} times; send it once")
    host = _header(scope, b"host")
    if host is None and scope.get("http_version") == "1.0":
        return
    if host is None or not _HOST.fullmatch(host):
        raise HeadAmbiguous("the Host header is missing or names no host; send the address you connected to")


def refuse_other_sites(scope: Scope) -> None:
    """Refuse what a browser sends for another site's page; for services that ask for no key.

    Raises:
        OriginRefused: the Origin is another than the address asked, or that address is a name that anybody may own.
    """
    host = _header(scope, b"host") or ""
    origin = _header(scope, b"origin")
    if origin is not None and origin.partition("://")[2] != host:
        raise OriginRefused("a page of another site sent this; the service has no key to tell its own callers by")
    if host and not _is_address(host):
        raise OriginRefused(
            f"the service was reached under the name {host[:80]!r}; while it asks for no key, use its address, such as "
            "127.0.0.1, or localhost; or make a key with `anole keys create`"
        )


def _is_address(host: str) -> bool:
    found = _HOST.fullmatch(host)
    name = found["name"].strip("[]") if found else ""
    try:
        ip_address(name)
    except ValueError:
        return name.lower() == "localhost"
    return True


def _header(scope: Scope, wanted: bytes) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), None)
