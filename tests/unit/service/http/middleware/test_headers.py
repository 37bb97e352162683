"""Headers that say two things, and requests that another site's page sends through a browser."""

from __future__ import annotations

import errno

import pytest

from service.http.problems import answer_to
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
def test_a_head_that_can_be_read_in_two_ways_is_refused(web: Web, headers: Headers) -> None:
    answer = web("POST", "/predict?client=a", content=PNG, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "head_ambiguous")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:80", "[::1]:8000", "10.0.0.7"])
def test_an_open_service_answers_under_its_addresses(web: Web, host: str) -> None:
    assert web("GET", "/clients", headers={"Host": host}).status_code == 200
    same_site = {"Host": host, "Origin": f"http://{host}"}
    assert web("GET", "/clients", headers=same_site).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example", "Origin": "http://127.0.0.1.evil.example"},
    ],
)
def test_an_open_service_answers_no_page_of_another_site(web: Web, headers: dict[str, str]) -> None:
    answer = web.adapt()
    assert answer.status_code == 201
    for method, path in (("GET", "/clients"), ("DELETE", "/clients/line"), ("POST", "/clients/line/rollback")):
        answer = web(method, path, headers={"Host": "127.0.0.1", **headers})
        assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")
    assert web("GET", "/clients/line").status_code == 200


def test_with_keys_neither_name_nor_origin_matters(guarded: Web) -> None:
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
def test_what_is_used_up_is_said_to_be_and_comes_back(error: Exception, status: int) -> None:
    answer = answer_to(error, "/adapt")
    assert answer.status_code == status
    assert ("retry-after" in answer.headers) == (status == 503)


@pytest.mark.parametrize("taken", ["memory", "files"])
def test_an_adaptation_that_finds_nothing_left_gets_503_and_the_next_one_is_fine(web: Web, taken: str) -> None:
    web.services.adaptation.raises = MemoryError() if taken == "memory" else OSError(errno.EMFILE, "too many files")
    answer = web.adapt()
    assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
    web.services.adaptation.raises = None
    assert web.adapt().status_code == 201
