"""Keys with the whole service: clients of other keys seem missing, and a revoked key is rejected within seconds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from service import bootstrap
from service.domain.key import Grant
from service.http.app import create_app
from service.settings import Settings
from service.usecases.keys import FRESH_S, KeyCache, create
from tests.generated import striped
from tests.in_process import Web, started

FILES = [("samples", (f"{index}.png", content)) for index, content in enumerate(striped(2, 4) + striped(2, 13))]
LABELS = ["fine", "fine", "coarse", "coarse"]
ROUTES = [
    ("GET", "/clients/{client}"),
    ("GET", "/clients/{client}/versions"),
    ("GET", "/clients/{client}/versions/1"),
    ("GET", "/clients/{client}/versions/1/weights"),
    ("GET", "/clients/{client}/history"),
    ("GET", "/clients/{client}/aliases/live"),
    ("PUT", "/clients/{client}/aliases/live"),
    ("POST", "/clients/{client}/rollback"),
    ("GET", "/clients/{client}/settings"),
    ("DELETE", "/clients/{client}/versions/1"),
    ("DELETE", "/clients/{client}"),
    ("POST", "/predict?client={client}"),
]


class Guarded:
    """A service, its keys, and the clock that decides when it reads them again."""

    def __init__(self, web: Web, settings: Settings) -> None:
        self.web = web
        self.settings = settings
        self.now = 0.0

    def key(self, *clients: str) -> dict[str, str]:
        with bootstrap.open_keys(self.settings) as keys:
            key, _ = create(keys, Grant("test", ("predict", "adapt", "admin"), clients))
        self.now += FRESH_S
        return {"X-API-Key": key}


@pytest.fixture
def guarded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    created: list[Guarded] = []
    monkeypatch.setattr(
        bootstrap,
        "KeyCache",
        lambda keys, **options: KeyCache(keys, **options, clock=lambda: created[0].now if created else 0.0),
    )
    services = bootstrap.build(settings)
    with started(create_app(settings, lambda _: services), services) as web:
        created.append(Guarded(web, settings))
        yield created[0]


@pytest.fixture(scope="module")
def two_keys(shared_settings: Settings) -> Iterator[tuple[Web, dict[str, str], dict[str, str]]]:
    """A service and the headers of two keys. The client `another` of the second key has a version."""
    with bootstrap.open_keys(shared_settings) as keys:
        key, other_key = (
            {"X-API-Key": create(keys, Grant("test", ("predict", "adapt", "admin"), (client,)))[0]}
            for client in ("mine", "another")
        )
    with started(create_app(shared_settings, bootstrap.build)) as web:
        fields = {"client": "another", "labels": LABELS, "publish": "always"}
        assert web("POST", "/adapt", data=fields, files=FILES, headers=other_key).status_code == 201
        yield web, key, other_key


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_the_client_of_another_key_is_answered_like_a_missing_one(
    two_keys: tuple[Web, dict[str, str], dict[str, str]], method: str, path: str
) -> None:
    web, key, other_key = two_keys
    responses = []
    for client in ("another", "missing"):
        options: dict[str, Any] = {"json": {"version": 1}} if method == "PUT" else {}
        image = {"content": striped(1, 4)[0], "headers": {**key, "Content-Type": "image/png"}}
        options = image if path.startswith("/predict") else {**options, "headers": key}
        response = web(method, path.format(client=client), **options)
        responses.append((response.status_code, response.content.replace(client.encode(), b"CLIENT")))
    assert responses[0] == responses[1]
    assert responses[0][0] == 404
    assert web("GET", "/clients/another", headers=other_key).status_code == 200


def test_a_running_service_rejects_a_key_that_was_revoked(guarded: Guarded) -> None:
    assert guarded.web("GET", "/clients").status_code == 200  # no key exists yet, so the service is open
    headers = guarded.key("*")
    assert guarded.web("GET", "/clients").status_code == 401
    assert guarded.web("GET", "/clients", headers=headers).status_code == 200
    with bootstrap.open_keys(guarded.settings) as keys:
        keys.revoke(headers["X-API-Key"][:14])
    guarded.now += FRESH_S
    assert guarded.web("GET", "/clients", headers=headers).status_code == 401
