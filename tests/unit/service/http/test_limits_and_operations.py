"""Body limits, headers, metrics, logs, readiness, and the description at /docs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from anyio.from_thread import start_blocking_portal

from models.errors import AnoleError
from service.http.app import create_app
from service.usecases.readiness import Readiness
from tests.in_process import Web

PNG = b"\x89PNG"
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def test_a_body_with_too_large_a_content_length_is_rejected_unread(web: Web) -> None:
    read: list[bytes] = []

    async def chunks() -> AsyncIterator[bytes]:
        read.append(b"")
        yield b""

    headers = {**FORM, "Content-Length": str(65 * 1024)}
    response = web("POST", "/adapt", content=chunks(), headers=headers)
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
    assert "65536" in response.json()["detail"]
    assert read == []


@pytest.mark.parametrize(
    ("method", "path", "media_type"),
    [
        ("POST", "/adapt", FORM["Content-Type"]),
        ("POST", "/predict?client=line", "image/png"),
        ("PUT", "/clients/line/aliases/live", "application/json"),
    ],
)
def test_a_body_without_content_length_is_counted(web: Web, method: str, path: str, media_type: str) -> None:
    sent: list[int] = []

    async def endless() -> AsyncIterator[bytes]:
        yield b"--x\r\nContent-Disposition: form-data; name=samples; filename=a\r\n\r\n"
        while True:
            sent.append(16 * 1024)
            yield b"0" * (16 * 1024)

    response = web(method, path, content=endless(), headers={"Content-Type": media_type})
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
    assert sum(sent) <= 13 * 1024 * 1024


def test_a_wrong_content_length_does_not_raise_the_limit(web: Web) -> None:
    async def more() -> AsyncIterator[bytes]:
        yield b"--x\r\nContent-Disposition: form-data; name=samples; filename=a\r\n\r\n"
        for _ in range(6):
            yield b"0" * (16 * 1024)

    response = web("POST", "/adapt", content=more(), headers={**FORM, "Content-Length": "10"})
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


def test_every_response_has_a_request_id_and_security_headers(web: Web) -> None:
    responses = [web("GET", path) for path in ("/livez", "/nothing", "/clients/NO", "/openapi.json")]
    assert len({response.headers["x-request-id"] for response in responses}) == 4
    for response in responses:
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        assert "server" not in response.headers


def test_a_prediction_is_logged_in_one_line_with_its_version(two_versions: Web) -> None:
    with structlog.testing.capture_logs() as lines:
        response = two_versions("POST", "/predict", data={"client": "line"}, files=[("images", ("a", PNG))])
    (line,) = lines
    assert line["event"] == "request"
    assert line["request_id"] == response.headers["x-request-id"]
    assert (line["method"], line["path"], line["status"]) == ("POST", "/predict", 200)
    assert (line["client"], line["version"], line["weights_digest"]) == ("line", 2, "b" * 64)


def test_metrics_are_labelled_by_route_and_never_by_client(two_versions: Web) -> None:
    two_versions("GET", "/clients/line/versions/1")
    two_versions("GET", "/clients/secret-plant/versions/1")
    two_versions("GET", "/somewhere/else")
    two_versions("BREW", "/livez")
    metrics = two_versions("GET", "/metrics").text
    assert 'route="/clients/{client}/versions/{version}",status="200"} 1.0' in metrics
    assert 'route="/clients/{client}/versions/{version}",status="404"} 1.0' in metrics
    assert 'route="unmatched",status="404"} 1.0' in metrics
    assert 'method="other"' in metrics
    assert 'anole_versions_total{gate="publish"} 2.0' in metrics
    assert 'anole_adapt_seconds_count{part="total"} 2.0' in metrics
    assert not re.search(r'"[^"]*(line|secret-plant|somewhere)[^"]*"', metrics)


def test_readiness_names_the_failed_check(web: Web) -> None:
    def fails() -> None:
        raise AnoleError("the disk is gone")

    assert web("GET", "/readyz").json() == {"status": "ready", "checks": {"catalog": "ok", "draining": "ok"}}
    web.services.readiness = Readiness({"blobs": fails})
    response = web("GET", "/readyz")
    assert response.status_code == 503
    assert response.json()["checks"]["blobs"] == "the disk is gone"


def test_a_draining_service_is_alive_but_not_ready(web: Web) -> None:
    web.services.readiness.drain()
    assert web("GET", "/livez").status_code == 200
    assert web("GET", "/readyz").status_code == 503
    assert web.adapt().status_code == 201


def test_the_landing_page_links_to_docs_and_clients(web: Web) -> None:
    landing = web("GET", "/").json()
    assert all(web("GET", landing[name]).status_code == 200 for name in ("docs", "openapi", "clients"))


def test_the_docs_page_loads_nothing_from_other_hosts(web: Web) -> None:
    page = web("GET", "/docs")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 4
    for path in loaded:
        assert web("GET", f"/{path}").status_code == 200
    assert "http" not in page.text
    assert "'unsafe-inline'" not in re.findall(r"script-src ([^;]*)", page.headers["content-security-policy"])[0]
    assert web("GET", "/docs/anything.js").json()["code"] == "not_found"


def test_the_description_has_every_route_of_the_contract_and_both_bodies(web: Web) -> None:
    described = web("GET", "/openapi.json").json()["paths"]
    assert {(path, method) for path, methods in described.items() for method in methods} == {
        ("/adapt", "post"),
        ("/clients/{client}/upgrade", "post"),
        ("/clients/{client}/corrections", "post"),
        ("/session", "get"),
        ("/session", "post"),
        ("/session", "delete"),
        ("/clients/{client}/samples", "get"),
        ("/clients/{client}/samples/{digest}", "get"),
        ("/jobs/{job}", "get"),
        ("/jobs/{job}", "delete"),
        ("/jobs/{job}/events", "get"),
        ("/predict", "post"),
        ("/clients", "get"),
        ("/clients/{client}", "get"),
        ("/clients/{client}", "delete"),
        ("/clients/{client}/versions", "get"),
        ("/clients/{client}/versions", "post"),
        ("/clients/{client}/versions/{version}", "get"),
        ("/clients/{client}/versions/{version}", "delete"),
        ("/clients/{client}/versions/{version}/weights", "get"),
        ("/clients/{client}/versions/{version}/export", "get"),
        ("/clients/{client}/versions/{before}/diff/{after}", "get"),
        ("/clients/{client}/history", "get"),
        ("/clients/{client}/settings", "get"),
        ("/clients/{client}/settings", "put"),
        ("/clients/{client}/settings", "patch"),
        ("/clients/{client}/aliases/{alias}", "get"),
        ("/clients/{client}/aliases/{alias}", "put"),
        ("/clients/{client}/rollback", "post"),
        ("/clients/{client}/promote", "post"),
        ("/clients/{client}/predictions", "get"),
        ("/clients/{client}/drift", "get"),
        ("/clients/{client}/versions/{version}/shadow/{candidate}", "get"),
        ("/audit", "get"),
        ("/models", "get"),
        ("/models/{name}", "get"),
        ("/livez", "get"),
        ("/readyz", "get"),
        ("/metrics", "get"),
        ("/v2", "get"),
        ("/v2/health/live", "get"),
        ("/v2/health/ready", "get"),
        ("/v2/models/{client}", "get"),
        ("/v2/models/{client}/ready", "get"),
        ("/v2/models/{client}/infer", "post"),
        ("/v2/models/{client}/versions/{version}", "get"),
        ("/v2/models/{client}/versions/{version}/ready", "get"),
        ("/v2/models/{client}/versions/{version}/infer", "post"),
    }
    assert set(described["/predict"]["post"]["requestBody"]["content"]) == {"multipart/form-data", "image/*"}
    form = described["/adapt"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {
        "client", "samples", "labels", "parts", "texts", "vectors", "archive", "mode", "steps", "learning_rate",
        "seed", "first", "publish",
    }  # fmt: skip


def test_services_are_opened_at_start_and_closed_at_the_end(settings: Any, services: Any) -> None:
    opened: list[Any] = []

    def build(*given: Any) -> Any:
        opened.extend(given)
        return services

    app = create_app(settings, build)
    assert opened == []
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(app.router.lifespan_context(app)):
        assert opened[0] is settings
        assert not services.closed
    assert services.closed
