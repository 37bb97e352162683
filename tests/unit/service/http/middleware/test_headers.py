"""Ambiguous headers, requests from pages of other sites, and exhausted resources."""

from __future__ import annotations

import errno

import pytest

from service.http.problems import error_response
from tests.in_process import PNG, Web
from tests.unit.service.http.guarded import key_for

Headers = list[tuple[bytes, bytes]]
HOST = (b"host", b"127.0.0.1:8000")


@pytest.mark.parametrize(
    "headers",
    [
        [HOST, (b"content-length", b"3"), (b"transfer-encoding", b"chunked"), (b"content-type", b"image/png")],
        [HOST, (b"content-length", b"3"), (b"content-length", b"4"), (b"content-type", b"image/png")],
        [HOST, (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"x"), (b"content-type", b"image/png")],
        [HOST, (b"host", b"127.0.0.1")],
        [(b"host", b"")],
        [(b"host", b"a b")],
        [(b"host", b"user@127.0.0.1")],
        [(b"host", b"127.0.0.1/x")],
        [(b"host", b"\xff")],
    ],
)
def test_ambiguous_headers_are_rejected(web: Web, headers: Headers) -> None:
    response = web("POST", "/predict?client=a", content=PNG, headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "head_ambiguous")
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:80", "[::1]:8000", "10.0.0.7"])
def test_a_service_without_keys_responds_to_requests_to_its_addresses(web: Web, host: str) -> None:
    assert web("GET", "/clients", headers={"Host": host}).status_code == 200
    same_site = {"Host": host, "Origin": f"http://{host}"}
    assert web("GET", "/clients", headers=same_site).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "https://127.0.0.1", "X-Forwarded-Proto": "http"},
        {"Origin": "http://127.0.0.1", "X-Forwarded-Proto": "https"},
        {"Origin": "chrome-extension://127.0.0.1"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example", "Origin": "http://127.0.0.1.evil.example"},
    ],
)
def test_a_service_without_keys_rejects_pages_of_other_sites(web: Web, headers: dict[str, str]) -> None:
    response = web.adapt()
    assert response.status_code == 201
    for method, path in (("GET", "/clients"), ("DELETE", "/clients/line"), ("POST", "/clients/line/rollback")):
        response = web(method, path, headers={"Host": "127.0.0.1", **headers})
        assert (response.status_code, response.json()["code"]) == (403, "origin_refused")
    assert web("GET", "/clients/line").status_code == 200


def test_with_a_key_any_host_and_origin_is_allowed(guarded: Web) -> None:
    headers = {"Host": "anole.example", "Origin": "https://console.example", **key_for(guarded)}
    assert guarded("GET", "/clients", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError(errno.ENOSPC, "no space"), 507),
        (OSError(errno.EMFILE, "too many files"), 503),
        (OSError(errno.EIO, "broken"), 500),
        (MemoryError(), 503),
        (RuntimeError("can't start new thread"), 503),
        (RuntimeError("anything else"), 500),
    ],
)
def test_exhausted_resources_are_reported_as_temporary(error: Exception, status: int) -> None:
    response = error_response(error, "/adapt")
    assert response.status_code == status
    assert ("retry-after" in response.headers) == (status == 503)


@pytest.mark.parametrize("taken", ["memory", "files"])
def test_an_adaptation_without_resources_gets_503_and_the_next_one_succeeds(web: Web, taken: str) -> None:
    web.services.adaptation.raises = MemoryError() if taken == "memory" else OSError(errno.EMFILE, "too many files")
    response = web.adapt()
    assert (response.status_code, response.json()["code"]) == (503, "overloaded")
    web.services.adaptation.raises = None
    assert web.adapt().status_code == 201
