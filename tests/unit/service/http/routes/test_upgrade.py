"""POST /clients/{client}/upgrade: the answer, its errors, and the limits that it shares with POST /adapt."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.http.app import create_app
from service.settings import load_settings
from tests.in_process import Web, started
from tests.unit.service.fakes import FakeServices

PATH = "/clients/line/upgrade"
LIMIT_S = 30


def test_the_answer_has_the_new_version_and_the_one_before(web: Web) -> None:
    web.adapt()
    response = web("POST", PATH)
    body = response.json()
    assert (response.status_code, response.headers["location"]) == (201, "/clients/line/versions/2")
    assert (body["version"], body["parent"], body["model"], body["live"]) == (2, 1, "larger", 2)
    assert body["report"]["estimated_accuracy"] == 0.9
    assert body["before"] == {"version": 1, "model": "tiny", "estimated_accuracy": None, "interval": None}
    assert 'anole_versions_total{gate="publish"} 2.0' in web("GET", "/metrics").text


def test_the_request_can_override_the_gate(web: Web) -> None:
    web.adapt()
    body = web("POST", PATH, params={"publish": "never"}).json()
    assert (body["published"], body["live"]) == (False, 1)
    assert web.services.adaptation.commands[-1].publish == "never"
    assert web("POST", PATH, params={"publish": "maybe"}).json()["code"] == "parameter_invalid"


def test_a_second_upgrade_has_nothing_to_do(web: Web) -> None:
    web.adapt()
    assert web("POST", PATH).status_code == 201
    response = web("POST", PATH)
    assert (response.status_code, response.json()["code"]) == (409, "nothing_to_upgrade")


def test_an_unknown_client_cannot_be_upgraded(web: Web) -> None:
    response = web("POST", PATH)
    assert (response.status_code, response.json()["code"]) == (404, "unknown_client")


@pytest.fixture
def busy(services: FakeServices) -> Iterator[Web]:
    """Start a service with room for one adaptation, which is an upgrade that runs until the test ends."""
    running, released = threading.Event(), threading.Event()

    def hold() -> None:
        running.set()
        released.wait(LIMIT_S)

    with started(create_app(load_settings(adapt_running=1, adapt_waiting=0), lambda _: services), services) as web:
        web.adapt()
        services.adaptation.before = hold
        with ThreadPoolExecutor(1) as threads:
            upgrade = threads.submit(web, "POST", PATH)
            assert running.wait(LIMIT_S)
            yield web
            released.set()
            assert upgrade.result(LIMIT_S).status_code == 201


def test_upgrades_exports_and_adaptations_share_a_limit_and_metrics_do_not_name_the_client(busy: Web) -> None:
    for response in (busy("POST", PATH), busy.adapt(), busy("GET", "/clients/line/versions/1/export")):
        assert (response.status_code, response.json()["code"]) == (503, "overloaded")
    metrics = busy("GET", "/metrics").text
    assert 'route="/clients/{client}/upgrade",status="503"' in metrics
    assert 'route="/clients/{client}/versions/{version}/export",status="503"' in metrics
    assert "line/" not in metrics
