"""HEAD, the Allow header, and redirects."""

from __future__ import annotations

import pytest
from starlette.types import Message

from tests.in_process import Web


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/livez",
        "/readyz",
        "/openapi.json",
        "/docs",
        "/docs/swagger-ui.css",
        "/metrics",
        "/models",
        "/clients",
        "/clients/line",
        "/clients/line/versions",
        "/clients/line/versions/1",
        "/clients/line/versions/1/weights",
        "/clients/line/aliases/live",
        "/clients/line/settings",
    ],
)
def test_head_has_the_status_and_the_media_type_of_get(two_versions: Web, path: str) -> None:
    head, get = two_versions("HEAD", path), two_versions("GET", path)
    assert head.status_code == get.status_code == 200
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.headers["x-request-id"] != get.headers["x-request-id"]


def test_head_of_something_missing_is_404(web: Web) -> None:
    assert web("HEAD", "/clients/missing").status_code == 404


def test_head_needs_the_same_key_as_get(guarded: Web) -> None:
    assert guarded("HEAD", "/clients").status_code == 401


def test_head_is_counted_as_head(web: Web) -> None:
    web("HEAD", "/livez")
    assert 'anole_requests_total{method="HEAD",route="/livez",status="200"} 1.0' in web("GET", "/metrics").text


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/livez", "GET, HEAD"),
        ("GET", "/adapt", "POST"),
        ("HEAD", "/predict", "POST"),
        ("POST", "/clients/line", "DELETE, GET, HEAD"),
        ("DELETE", "/clients/line/settings", "GET, HEAD, PATCH, PUT"),
        ("PATCH", "/clients/line/aliases/live", "GET, HEAD, PUT"),
        ("PUT", "/clients/line/versions/1", "DELETE, GET, HEAD"),
        ("OPTIONS", "/clients/line/rollback", "POST"),
    ],
)
def test_a_method_that_is_not_allowed_gets_the_list_of_all_that_are(
    web: Web, method: str, path: str, allowed: str
) -> None:
    response = web(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert method == "HEAD" or response.json()["detail"].endswith(f"is not allowed; allowed: {allowed}")


def test_options_of_the_whole_service_needs_no_key(guarded: Web) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "OPTIONS", "path": "*", "headers": [(b"host", b"127.0.0.1")], "query_string": b"",
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "scheme": "http", "http_version": "1.1",
        "asgi": {"version": "3.0"},
    }  # fmt: skip
    guarded.portal.call(guarded.transport.app, scope, receive, send)
    assert sent[0]["status"] == 204
    assert dict(sent[0]["headers"])[b"allow"] == b"DELETE, GET, HEAD, PATCH, POST, PUT"


@pytest.mark.parametrize(
    ("path", "location"),
    [("/predict/?client=a&x=%20", "/predict?client=a&x=%20"), ("/clients/", "/clients"), ("/livez/", "/livez")],
)
def test_a_redirect_keeps_scheme_and_host_because_it_is_relative(web: Web, path: str, location: str) -> None:
    response = web("POST", path, headers={"X-Forwarded-Proto": "https"}, follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (307, location)


def test_a_redirect_never_leads_to_another_host(web: Web) -> None:
    for path in ("//evil.example/", "//evil.example//livez/", "/\\evil.example/"):
        response = web("GET", path, follow_redirects=False)
        assert not response.headers.get("location", "/").startswith(("//", "http"))
