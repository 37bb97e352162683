"""CORS: pages of named origins, and of no others, may call the service."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from service.errors import InvalidSettings
from service.http.app import create_app
from service.settings import load_settings
from service.usecases.keys import KeyCache
from tests.in_process import Web, started
from tests.unit.service.fakes import FakeServices
from tests.unit.service.http.guarded import key_for

PAGE, OTHER = "https://line.example", "https://evil.example"
PREFLIGHT = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "x-api-key,content-type"}


@pytest.fixture
def shared(services: FakeServices) -> Iterator[Web]:
    """A service with keys that pages of `PAGE` may call."""
    services.keys = KeyCache(services.kept_keys, open_without_keys=False, clock=itertools.count(0.0, 10.0).__next__)
    with started(create_app(load_settings(cors_origins=f"{PAGE},http://10.0.0.7:8080"), lambda _: services)) as web:
        web.services = services
        yield web


@pytest.mark.parametrize("origin", [PAGE, "http://10.0.0.7:8080"])
def test_a_preflight_request_of_a_named_origin_needs_no_key(shared: Web, origin: str) -> None:
    response = shared("OPTIONS", "/clients/line/settings", headers={"Origin": origin, **PREFLIGHT})
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, origin)
    assert "X-API-Key" in response.headers["access-control-allow-headers"]


def test_a_preflight_request_of_another_origin_is_a_problem(shared: Web) -> None:
    response = shared("OPTIONS", "/clients", headers={"Origin": OTHER, **PREFLIGHT})
    assert (response.status_code, response.json()["code"]) == (403, "origin_refused")
    assert "ANOLE_CORS_ORIGINS" in response.json()["detail"]
    assert "access-control-allow-origin" not in response.headers


def test_a_page_of_a_named_origin_can_read_responses_and_errors(shared: Web) -> None:
    allowed = shared("GET", "/clients", headers={"Origin": PAGE, **key_for(shared)})
    rejected = shared("GET", "/clients", headers={"Origin": PAGE})
    assert (allowed.status_code, rejected.status_code) == (200, 401)
    for response in (allowed, rejected):
        assert response.headers["access-control-allow-origin"] == PAGE
        assert "Retry-After" in response.headers["access-control-expose-headers"]
    other = shared("GET", "/clients", headers={"Origin": OTHER, **key_for(shared)})
    assert "access-control-allow-origin" not in other.headers


def test_a_service_without_keys_allows_named_origins_too(services: FakeServices) -> None:
    with started(create_app(load_settings(cors_origins=PAGE), lambda _: services), services) as web:
        assert web("GET", "/clients", headers={"Origin": PAGE}).status_code == 200
        assert web("GET", "/clients", headers={"Origin": OTHER}).json()["code"] == "origin_refused"


def test_without_the_setting_no_origin_is_allowed(web: Web) -> None:
    response = web("OPTIONS", "/clients", headers={"Origin": "http://127.0.0.1", **PREFLIGHT})
    assert response.status_code == 405
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    "origin", ["*", "line.example", "https://line.example/", "https://*.example", "null", "ftp://a"]
)
def test_an_origin_that_names_no_single_site_is_rejected(origin: str) -> None:
    with pytest.raises(InvalidSettings, match="cors_origins"):
        load_settings(cors_origins=origin)
