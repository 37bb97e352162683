"""Keys for a service that requires them, such as the fixture `guarded`."""

from __future__ import annotations

from service.domain.key import Grant, Scope
from service.usecases.keys import create
from tests.in_process import Web


def key_for(web: Web, *scopes: Scope, clients: tuple[str, ...] = ("*",)) -> dict[str, str]:
    """Return headers with a new key. The clock of `guarded` makes each request read the keys again."""
    key, _ = create(web.services.kept_keys, Grant("test", scopes or ("predict", "adapt", "admin"), clients))
    return {"X-API-Key": key}
