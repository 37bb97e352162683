"""The session of a browser: login, what the cookie allows, and what a page of another site cannot do with it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.client import Client
from tests.in_process import PNG, InProcess, Web
from tests.unit.service.http.guarded import key_for

CONSOLE = {"X-Anole-Console": "1"}
NO_CALLER: dict[str, Any] = {"keys_required": True, "authenticated": False, "name": None, "scopes": [], "clients": []}


def log_in(web: Web, key: str, **headers: str) -> httpx.Response:
    return web("POST", "/session", json={"key": key}, headers=headers)


def cookie_of(web: Web, *scopes: Any, clients: tuple[str, ...] = ("*",)) -> dict[str, str]:
    """Log in with a new key and return the header that a browser then sends."""
    response = log_in(web, key_for(web, *scopes, clients=clients)["X-API-Key"])
    assert response.status_code == 204, response.text
    return {"Cookie": response.headers["set-cookie"].partition(";")[0]}


def test_a_login_gives_a_cookie_that_scripts_and_other_sites_cannot_use(guarded: Web) -> None:
    key = key_for(guarded)["X-API-Key"]
    response = log_in(guarded, key)
    assert (response.status_code, response.content) == (204, b"")
    value, *attributes = response.headers["set-cookie"].split("; ")
    assert value == f"anole_session={key}"
    assert sorted(attributes) == ["HttpOnly", "Path=/", "SameSite=strict"]
    assert log_in(guarded, f" {key}\n").headers["set-cookie"].startswith(f"anole_session={key};")  # as pasted


@pytest.mark.parametrize("headers", [{"X-Forwarded-Proto": "https"}, {"Origin": "https://127.0.0.1"}])
def test_over_https_the_cookie_is_never_sent_without_it(guarded: Web, headers: dict[str, str]) -> None:
    response = log_in(guarded, key_for(guarded)["X-API-Key"], **headers)
    assert "; Secure" in response.headers["set-cookie"]


@pytest.mark.parametrize("key", ["", "x", "anole_abcdefgh_" + "x" * 43, "schlüssel", "a; b=c\r\nx: y"])
def test_a_wrong_key_gives_no_cookie(guarded: Web, key: str) -> None:
    response = log_in(guarded, key)
    assert (response.status_code, response.json()["code"]) == (401, "key_refused")
    assert "set-cookie" not in response.headers


def test_the_body_of_a_login_is_small(guarded: Web) -> None:
    response = log_in(guarded, "x" * 1024)
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("body", [{}, {"key": 1}, {"key": "x" * 257}, {"key": "x", "name": "y"}, []])
def test_an_invalid_login_is_rejected(guarded: Web, body: Any) -> None:
    response = guarded("POST", "/session", json=body)
    assert (response.status_code, response.json()["code"]) == (422, "parameter_invalid")


def test_a_form_of_another_site_cannot_log_in(guarded: Web) -> None:
    key = key_for(guarded)["X-API-Key"]
    response = guarded("POST", "/session", content=f'{{"key": "{key}"}}', headers={"Content-Type": "text/plain"})
    assert (response.status_code, response.json()["code"]) == (415, "media_type_unsupported")
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        response = log_in(guarded, key, **headers)
        assert (response.status_code, response.json()["code"]) == (403, "csrf_refused")


@pytest.mark.parametrize(
    ("origin", "proxy", "status"),
    [
        ("http://127.0.0.1", "", 204),
        ("HTTP://127.0.0.1:80", "", 204),
        ("https://127.0.0.1", "", 204),  # a proxy that does not say that it speaks HTTPS
        ("https://127.0.0.1", "https", 204),
        ("http://127.0.0.1", "https", 403),
        ("https://127.0.0.1", "http", 403),
        ("ftp://127.0.0.1", "", 403),
        ("chrome-extension://127.0.0.1", "", 403),
        ("127.0.0.1", "", 403),
        ("http://127.0.0.1:8001", "", 403),
        ("http://127.0.0.1:443", "", 403),
        ("http://127.0.0.2", "", 403),
        ("null", "", 403),
    ],
)
def test_a_login_comes_from_a_page_of_the_same_scheme_host_and_port(
    guarded: Web, origin: str, proxy: str, status: int
) -> None:
    headers = {"Origin": origin, **({"X-Forwarded-Proto": proxy} if proxy else {})}
    assert log_in(guarded, key_for(guarded)["X-API-Key"], **headers).status_code == status


def test_the_session_tells_who_the_caller_is(guarded: Web) -> None:
    assert guarded("GET", "/session").json() == NO_CALLER
    expected = {
        "keys_required": True,
        "authenticated": True,
        "name": "test",
        "scopes": ["predict", "adapt"],
        "clients": ["line", "line-2"],
    }
    cookie = cookie_of(guarded, "adapt", "predict", clients=("line-2", "line"))
    key = key_for(guarded, "adapt", "predict", clients=("line", "line-2"))
    assert guarded("GET", "/session", headers=cookie).json() == expected
    assert guarded("GET", "/session", headers=key).json() == expected
    assert guarded("GET", "/session", headers=key_for(guarded)).json()["clients"] == ["*"]


@pytest.mark.parametrize(
    "headers", [{"X-API-Key": "wrong"}, {"Authorization": "Basic x"}, {"Cookie": "anole_session=wrong"}]
)
def test_with_a_wrong_key_the_caller_is_nobody(guarded: Web, headers: dict[str, str]) -> None:
    response = guarded("GET", "/session", headers=headers)
    assert (response.status_code, response.json()) == (200, NO_CALLER)


def test_on_an_open_service_no_key_is_required(web: Web) -> None:
    assert web("GET", "/session").json() == {
        "keys_required": False,
        "authenticated": False,
        "name": None,
        "scopes": ["predict", "adapt", "admin"],
        "clients": ["*"],
    }
    assert log_in(web, "anole_abcdefgh_" + "x" * 43).status_code == 401
    assert web("DELETE", "/clients/line", headers={"Cookie": "anole_session=old"}).json()["code"] == "unknown_client"


def test_the_cookie_allows_what_its_key_allows(guarded: Web) -> None:
    cookie = cookie_of(guarded, "adapt", clients=("line",))
    files = [("samples", (name, PNG)) for name in "12"]
    for client, status in (("line", 201), ("line-2", 404)):
        fields = {"client": client, "labels": ["good", "bad"]}
        response = guarded("POST", "/adapt", data=fields, files=files, headers={**cookie, **CONSOLE})
        assert response.status_code == status
    assert [each["client"] for each in guarded("GET", "/clients", headers=cookie).json()["clients"]] == ["line"]
    assert guarded("GET", "/clients/line", headers=cookie).status_code == 200
    response = guarded("DELETE", "/clients/line", headers={**cookie, **CONSOLE})
    assert (response.status_code, response.json()["code"]) == (403, "scope_missing")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Anole-Console": "0"},
        {**CONSOLE, "Origin": "https://evil.example"},
        {**CONSOLE, "Origin": "null"},
        {**CONSOLE, "Origin": "http://127.0.0.1:9999"},
        {**CONSOLE, "Sec-Fetch-Site": "cross-site"},
        {**CONSOLE, "Sec-Fetch-Site": "same-site"},
        {**CONSOLE, "Sec-Fetch-Site": "none"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/adapt"),
        ("POST", "/predict"),
        ("PUT", "/clients/line/settings"),
        ("PATCH", "/clients/line/settings"),
        ("DELETE", "/clients/line"),
        ("DELETE", "/session"),
    ],
)
def test_a_page_of_another_site_cannot_change_anything_with_the_cookie(
    guarded: Web, method: str, path: str, headers: dict[str, str]
) -> None:
    response = guarded(method, path, headers={"Host": "127.0.0.1", **cookie_of(guarded), **headers})
    assert (response.status_code, response.json()["code"]) == (403, "csrf_refused")


@pytest.mark.parametrize(
    "headers",
    [{}, {"Origin": "http://127.0.0.1:8000"}, {"Origin": "https://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}],
)
def test_the_page_of_the_service_can_change_things_with_the_cookie(guarded: Web, headers: dict[str, str]) -> None:
    sent = {"Host": "127.0.0.1:8000", **cookie_of(guarded), **CONSOLE, **headers}
    assert guarded("PUT", "/clients/line/settings", json={}, headers=sent).status_code == 200
    logged_out = guarded("DELETE", "/session", headers=sent)
    assert logged_out.status_code == 204
    assert 'anole_session=""' in logged_out.headers["set-cookie"]
    assert "Max-Age=0" in logged_out.headers["set-cookie"]


def test_a_key_in_a_header_is_preferred_to_the_cookie(guarded: Web) -> None:
    cookie, key = cookie_of(guarded, "predict"), key_for(guarded, "admin")
    assert guarded("PUT", "/clients/line/settings", json={}, headers={**cookie, **key}).status_code == 200
    response = guarded("GET", "/clients", headers={**cookie_of(guarded), "X-API-Key": "wrong"})
    assert (response.status_code, response.json()["code"]) == (401, "key_refused")


def test_a_revoked_key_ends_its_sessions(guarded: Web) -> None:
    cookie = cookie_of(guarded)
    assert guarded("GET", "/clients", headers=cookie).status_code == 200
    guarded.services.kept_keys.revoke(guarded.services.kept_keys.kept[-1].prefix)
    assert guarded("GET", "/clients", headers=cookie).json()["code"] == "key_refused"
    assert guarded("GET", "/session", headers=cookie).json() == NO_CALLER


def test_the_python_client_reads_what_its_key_may_do(web: Web, in_process: InProcess) -> None:
    with Client(transport=in_process) as anole:
        assert anole.session().scopes == ["predict", "adapt", "admin"]
