"""Authentication and scopes: which routes need a key, and that nothing is read before it is checked."""

from __future__ import annotations

import itertools
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from models.errors import AnoleError
from service.domain.key import Scope
from service.http.app import ROUTERS, create_app
from service.http.middleware.auth import PUBLIC
from service.http.openapi import guarded_routes
from service.settings import Settings
from service.usecases.keys import KeyCache
from service.usecases.readiness import Readiness
from tests.in_process import PNG, Web
from tests.unit.service.http.guarded import key_for

LIMIT_S = 30
FORM = {"Content-Type": "multipart/form-data; boundary=x"}
EXPORT = {"Content-Type": "application/octet-stream"}
IDS = {
    "client": "line",
    "version": "1",
    "before": "1",
    "candidate": "1",
    "after": "1",
    "alias": "live",
    "name": "tiny",
    "job": "0" * 32,
    "digest": "d" * 64,
    "file": "app.js",
    "folder": "core",
    "script": "ui.js",
}
PUBLIC_ROUTES = {
    *("/", "/livez", "/readyz", "/session", "/openapi.json", "/docs", "/docs/start.js", "/docs/{name}"),
    *("/console/{file}", "/console/{folder}/{script}", "/v2", "/v2/health/live", "/v2/health/ready"),
}

ROUTES = {
    (method, route.path): route
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute)
    for method in sorted(route.methods or ())
}
SCOPES = {
    (method, path): scope for router in ROUTERS for path, methods, scope in guarded_routes(router) for method in methods
}
GUARDED = sorted(route for route in ROUTES if route[1] not in PUBLIC_ROUTES)


def filled(path: str, **ids: str) -> str:
    return path.format(**{**IDS, **ids})


def test_every_route_is_public_or_declares_the_scope_that_it_requires() -> None:
    assert len(ROUTES) > 20
    assert set(SCOPES) == set(GUARDED)
    assert {path for _, path in ROUTES if PUBLIC.fullmatch(filled(path))} == PUBLIC_ROUTES - {"/openapi.json"}


def test_the_application_has_no_other_routes(settings: Settings) -> None:
    described = create_app(settings).openapi()["paths"]
    hidden = {route for route in ROUTES if not ROUTES[route].include_in_schema}
    assert {(method.upper(), path) for path in described for method in described[path]} == set(ROUTES) - hidden
    assert {path for _, path in hidden} <= PUBLIC_ROUTES


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_every_route_that_is_not_public_requires_a_key(guarded: Web, method: str, path: str) -> None:
    response = guarded(method, filled(path))
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert response.headers["x-request-id"]
    if method != "HEAD":
        assert response.json()["code"] == "key_missing"


@pytest.mark.parametrize(
    "path", ["/nothing", "/docs/a/b", "/docs/../clients", "/livez/", "/clients\n", "/livez\n", "/DOCS"]
)
def test_every_other_path_requires_a_key(guarded: Web, path: str) -> None:
    response = guarded("GET", path.replace("\n", "%0A"))
    assert response.status_code == 401


@pytest.mark.parametrize("path", sorted(PUBLIC_ROUTES))
def test_public_routes_require_no_key(guarded: Web, path: str) -> None:
    assert guarded("GET", filled(path, name="swagger-ui.css")).status_code == 200


def test_a_request_without_a_key_is_rejected_before_its_body_is_read(guarded: Web) -> None:
    read: list[bytes] = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            read.append(b"")
            yield bytes(1024)

    for path in ("/adapt", "/predict"):
        assert guarded("POST", path, content=endless(), headers=FORM).status_code == 401
    assert read == []


def test_a_key_may_be_sent_in_either_header(guarded: Web) -> None:
    key = key_for(guarded)["X-API-Key"]
    for headers in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}, {"authorization": f"bearer  {key} "}):
        assert guarded("GET", "/clients", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-api-key", b"")],
        [(b"x-api-key", "schlüssel".encode())],
        [(b"x-api-key", b"\xff\xfe")],
        [(b"authorization", b"Basic YTpi")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"KEY")],
        [(b"x-api-key", b"KEY"), (b"x-api-key", b"anole_abcdefgh_" + b"x" * 43)],
        [(b"x-api-key", b"KEY"), (b"authorization", b"Bearer other")],
    ],
)
def test_malformed_or_several_keys_are_rejected(guarded: Web, headers: list[tuple[bytes, bytes]]) -> None:
    key = key_for(guarded)["X-API-Key"].encode()
    sent = [(name, value.replace(b"KEY", key)) for name, value in headers]
    response = guarded("GET", "/clients", headers=sent)
    assert (response.status_code, response.json()["code"]) == (401, "key_refused")


def test_a_revoked_key_is_rejected(guarded: Web) -> None:
    headers = key_for(guarded)
    assert guarded("GET", "/clients", headers=headers).status_code == 200
    guarded.services.kept_keys.revoke(headers["X-API-Key"][:14])
    assert guarded("GET", "/clients", headers=headers).json()["code"] == "key_refused"


NEEDS: dict[tuple[str, str], Scope | None] = {
    ("POST", "/predict"): "predict",
    ("POST", "/adapt"): "adapt",
    ("POST", "/clients/{client}/upgrade"): "adapt",
    ("POST", "/clients/{client}/corrections"): "adapt",
    ("GET", "/jobs/{job}"): "adapt",
    ("DELETE", "/jobs/{job}"): "adapt",
    ("GET", "/jobs/{job}/events"): "adapt",
    ("PUT", "/clients/{client}/aliases/{alias}"): "adapt",
    ("POST", "/clients/{client}/rollback"): "adapt",
    ("POST", "/clients/{client}/promote"): "adapt",
    ("GET", "/audit"): "admin",
    ("GET", "/clients/{client}/predictions"): None,
    ("GET", "/clients/{client}/drift"): None,
    ("GET", "/clients/{client}/versions/{version}/shadow/{candidate}"): None,
    ("GET", "/clients/{client}/versions/{version}/weights"): "admin",
    ("GET", "/clients/{client}/versions/{version}/export"): "admin",
    ("POST", "/clients/{client}/versions"): "admin",
    ("DELETE", "/clients/{client}"): "admin",
    ("DELETE", "/clients/{client}/versions/{version}"): "admin",
    ("GET", "/clients"): None,
    ("GET", "/clients/{client}"): None,
    ("GET", "/clients/{client}/versions"): None,
    ("GET", "/clients/{client}/versions/{version}"): None,
    ("GET", "/clients/{client}/versions/{before}/diff/{after}"): None,
    ("GET", "/clients/{client}/history"): None,
    ("GET", "/clients/{client}/settings"): None,
    ("PUT", "/clients/{client}/settings"): "admin",
    ("PATCH", "/clients/{client}/settings"): "admin",
    ("GET", "/clients/{client}/aliases/{alias}"): None,
    ("GET", "/clients/{client}/samples"): None,
    ("GET", "/clients/{client}/samples/{digest}"): "adapt",
    ("GET", "/models"): None,
    ("GET", "/models/{name}"): None,
    ("GET", "/metrics"): None,
    ("GET", "/v2/models/{client}"): None,
    ("GET", "/v2/models/{client}/ready"): None,
    ("GET", "/v2/models/{client}/versions/{version}"): None,
    ("GET", "/v2/models/{client}/versions/{version}/ready"): None,
    ("POST", "/v2/models/{client}/infer"): "predict",
    ("POST", "/v2/models/{client}/versions/{version}/infer"): "predict",
}


def test_every_route_requires_the_scope_in_this_list() -> None:
    assert SCOPES == NEEDS


@pytest.mark.parametrize(("route", "scope"), NEEDS.items())
def test_a_key_without_the_required_scope_is_rejected(
    guarded: Web, route: tuple[str, str], scope: Scope | None
) -> None:
    method, path = route
    for held in ("predict", "adapt", "admin"):
        as_json = method in {"PUT", "PATCH"} or path.endswith("/corrections")
        content_type = EXPORT if path.endswith("/versions") else FORM
        headers = {**key_for(guarded, held), **(content_type if method == "POST" and not as_json else {})}
        response = guarded(method, filled(path), headers=headers, json={} if as_json else None)
        if scope is None or held == scope:
            assert response.status_code not in {401, 403}
        else:
            assert (response.status_code, response.json()["code"]) == (403, "scope_missing")


def test_requests_that_wait_for_the_same_read_of_the_keys_read_them_once(web: Web) -> None:
    count = 20

    class Watched(KeyCache):
        """Lets the first read of the keys end when every request has found the cached keys too old."""

        looks, all_wait = itertools.count(1), threading.Event()

        @property
        def fresh(self) -> bool:
            found = super().fresh
            if next(self.looks) == count:
                self.all_wait.set()
            return found

        def read(self) -> None:
            assert self.all_wait.wait(LIMIT_S)
            super().read()

    headers, kept = key_for(web, "predict"), web.services.kept_keys
    web.services.keys = Watched(kept, open_without_keys=False, clock=lambda: 0.0)
    reads = kept.reads
    with ThreadPoolExecutor(count) as pool:
        responses = list(pool.map(lambda _: web("GET", "/models", headers=headers), range(count)))
    assert {response.status_code for response in responses} == {200}
    assert kept.reads == reads + 1


def test_a_service_with_keys_does_not_say_publicly_why_a_check_failed(guarded: Web) -> None:
    def fails() -> None:
        raise AnoleError("/srv/data is gone")

    guarded.services.readiness = Readiness({"store": fails, "start": lambda: None})
    response = guarded("GET", "/readyz")
    assert response.status_code == 503
    assert response.json()["checks"] == {"store": "failed", "start": "ok", "draining": "ok"}


def test_the_landing_page_says_that_no_key_is_required(web: Web) -> None:
    assert web("GET", "/").json()["access"] == "open"


def test_the_landing_page_says_that_a_key_is_required(guarded: Web) -> None:
    assert guarded("GET", "/").json()["access"] == "key"


def test_a_body_with_two_lengths_is_rejected(web: Web) -> None:
    headers = [(b"content-length", b"3"), (b"transfer-encoding", b"chunked"), (b"content-type", b"image/png")]
    response = web("POST", "/predict?client=a", content=PNG, headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "head_ambiguous")
    assert response.headers["connection"] == "close"


def test_the_description_says_which_key_each_route_requires(web: Web) -> None:
    described = web("GET", "/openapi.json").json()
    assert set(described["components"]["securitySchemes"]) == {"key", "bearer", "session"}
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            guarded = (method.upper(), path) in SCOPES
            assert ("security" in operation) == guarded, path
            checks_key = guarded or (method, path) == ("post", "/session")
            assert ({"401", "403", "429"} <= set(operation["responses"])) == checks_key
            assert not guarded or (SCOPES[method.upper(), path] or "any API key") in operation["description"]


def test_the_description_is_generated_once(settings: Settings) -> None:
    app: FastAPI = create_app(settings)
    assert app.openapi() is app.openapi()
