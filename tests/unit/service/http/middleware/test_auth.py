"""The door: no route without a key, no body byte before it, no scope too many, no sign of another's client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from models.errors import AnoleError
from service.domain.key import Scope
from service.http.app import create_app
from service.http.middleware.auth import PUBLIC, permission_for
from service.settings import Settings, load_settings
from service.usecases.readiness import Readiness
from tests.in_process import PNG, Web
from tests.unit.service.http.guarded import key_for

FORM = {"Content-Type": "multipart/form-data; boundary=x"}
IDS = {"client": "line", "version": "1", "before": "1", "after": "1", "alias": "live", "name": "tiny", "job": "0" * 32}
OPEN_TO_ALL = {"/", "/livez", "/readyz", "/openapi.json", "/docs", "/docs/start.js", "/docs/{name}"}


def routes_of(routes: Any) -> Iterator[tuple[str, str]]:
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from routes_of(inner.routes)
        else:
            yield from ((method, route.path) for method in sorted(route.methods))


ROUTES = sorted(set(routes_of(create_app(load_settings()).routes)))


def filled(path: str, **ids: str) -> str:
    return path.format(**{**IDS, **ids})


def test_the_routes_are_known() -> None:
    assert len(ROUTES) > 20
    assert {path for _, path in ROUTES if PUBLIC.fullmatch(filled(path))} == OPEN_TO_ALL


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route[1] not in OPEN_TO_ALL])
def test_no_route_answers_without_a_key(guarded: Web, method: str, path: str) -> None:
    answer = guarded(method, filled(path))
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["x-request-id"]
    if method != "HEAD":
        assert answer.json()["code"] == "key_missing"


@pytest.mark.parametrize(
    "path", ["/nothing", "/docs/a/b", "/docs/../clients", "/livez/", "/clients\n", "/livez\n", "/DOCS"]
)
def test_no_other_address_answers_without_a_key(guarded: Web, path: str) -> None:
    answer = guarded("GET", path.replace("\n", "%0A"))
    assert answer.status_code == 401


@pytest.mark.parametrize("path", sorted(OPEN_TO_ALL))
def test_the_public_routes_need_none(guarded: Web, path: str) -> None:
    assert guarded("GET", path.format(name="swagger-ui.css")).status_code == 200


def test_a_request_without_a_key_is_refused_before_a_byte_of_its_body_is_read(guarded: Web) -> None:
    read: list[bytes] = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            read.append(b"")
            yield bytes(1024)

    for path in ("/adapt", "/predict"):
        assert guarded("POST", path, content=endless(), headers=FORM).status_code == 401
    assert read == []


def test_a_key_is_taken_from_either_header(guarded: Web) -> None:
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
def test_headers_that_are_no_one_good_key_are_refused(guarded: Web, headers: list[tuple[bytes, bytes]]) -> None:
    key = key_for(guarded)["X-API-Key"].encode()
    sent = [(name, value.replace(b"KEY", key)) for name, value in headers]
    answer = guarded("GET", "/clients", headers=sent)
    assert (answer.status_code, answer.json()["code"]) == (401, "key_refused")


def test_a_revoked_key_is_refused(guarded: Web) -> None:
    headers = key_for(guarded)
    assert guarded("GET", "/clients", headers=headers).status_code == 200
    guarded.services.kept_keys.revoke(headers["X-API-Key"][:14])
    assert guarded("GET", "/clients", headers=headers).json()["code"] == "key_refused"


NEEDS: dict[tuple[str, str], Scope | None] = {
    ("POST", "/predict"): "predict",
    ("POST", "/adapt"): "adapt",
    ("GET", "/jobs/{job}"): "adapt",
    ("DELETE", "/jobs/{job}"): "adapt",
    ("GET", "/jobs/{job}/events"): "adapt",
    ("PUT", "/clients/{client}/aliases/{alias}"): "adapt",
    ("POST", "/clients/{client}/rollback"): "adapt",
    ("GET", "/clients/{client}/versions/{version}/weights"): "admin",
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
    ("GET", "/clients/{client}/aliases/{alias}"): None,
    ("GET", "/models"): None,
    ("GET", "/models/{name}"): None,
    ("GET", "/metrics"): None,
}


def test_every_route_needs_what_this_list_says_and_a_new_one_needs_admin() -> None:
    for method, path in ROUTES:
        if path not in OPEN_TO_ALL:
            assert permission_for(method, filled(path)) == NEEDS.get((method, path), "admin"), (method, path)
    for method, path in [("GET", "/new"), ("PATCH", "/clients/line"), ("BREW", "/clients"), ("POST", "/predict/x")]:
        assert permission_for(method, path) == "admin"
    weights = "/clients/line/versions/1/weights"
    for path in (f"{weights}\n", f"{weights}/", f"/{weights}", "/clients/a/b/versions"):
        assert permission_for("GET", path) == "admin"


@pytest.mark.parametrize(("route", "scope"), NEEDS.items())
def test_a_key_without_the_scope_is_refused_and_one_with_it_is_not(
    guarded: Web, route: tuple[str, str], scope: Scope | None
) -> None:
    method, path = route
    for held in ("predict", "adapt", "admin"):
        answer = guarded(method, filled(path), headers=key_for(guarded, held))
        if scope is None or held == scope:
            assert answer.status_code not in {401, 403}
        else:
            assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")


def test_a_guarded_service_tells_strangers_that_a_check_failed_and_not_why(guarded: Web) -> None:
    def fails() -> None:
        raise AnoleError("/srv/data is gone")

    guarded.services.readiness = Readiness({"store": fails, "start": lambda: None})
    answer = guarded("GET", "/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"] == {"store": "failed", "start": "ok", "draining": "ok"}


def test_an_open_service_says_so(web: Web) -> None:
    assert web("GET", "/").json()["access"] == "open"


def test_a_guarded_service_says_so(guarded: Web) -> None:
    assert guarded("GET", "/").json()["access"] == "key"


def test_a_body_with_two_lengths_is_refused(web: Web) -> None:
    headers = [(b"content-length", b"3"), (b"transfer-encoding", b"chunked"), (b"content-type", b"image/png")]
    answer = web("POST", "/predict?client=a", content=PNG, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "head_ambiguous")
    assert answer.headers["connection"] == "close"


def test_the_description_says_what_every_route_needs(web: Web) -> None:
    described = web("GET", "/openapi.json").json()
    assert set(described["components"]["securitySchemes"]) == {"key", "bearer"}
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            guarded = not PUBLIC.fullmatch(path)
            assert ("security" in operation) == guarded, path
            assert ({"401", "403", "429"} <= set(operation["responses"])) == guarded
            assert not guarded or (permission_for(method.upper(), path) or "any key") in operation["description"]


def test_the_description_is_the_application_s_own(settings: Settings) -> None:
    app: FastAPI = create_app(settings)
    assert app.openapi() is app.openapi()
