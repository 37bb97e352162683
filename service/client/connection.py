"""What both clients share: how they connect."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Generator
from typing import Final

import httpx

from service.client.errors import InvalidInput

DEFAULT_URL: Final = "http://127.0.0.1:8000"
TIMEOUT: Final = httpx.Timeout(60.0, connect=5.0)


@contextlib.contextmanager
def valid_address(url: str) -> Generator[None]:
    """Turn the errors of httpx about an address, or about a proxy in the environment, into InvalidInput."""
    try:
        yield
    except httpx.InvalidURL as error:
        raise InvalidInput(f"{url!r} is not a URL ({error}); give one such as {DEFAULT_URL}") from error
    except (ValueError, ImportError) as error:
        raise InvalidInput(f"the proxy for {url} that the environment names cannot be used: {error}") from error


def uses_proxy(url: str) -> bool:
    """Return whether requests may go through a proxy that the environment names: not those to this machine."""
    host = httpx.URL(url).host
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"
