"""GET, PUT and PATCH /clients/{client}/settings."""

from __future__ import annotations

from typing import Any

import pytest

from service.domain.client import ClientSettings
from tests.in_process import Web

PATH = "/clients/line/settings"
DEFAULTS = {
    "retain_samples": True,
    "keep_last": None,
    "floor": None,
    "lower_bound": None,
    "tolerance": None,
    "unknown_rate": None,
    "bit_depth": None,
    "model": None,
    "uncertainty": None,
    "log_predictions": None,
}


def test_a_client_has_default_settings_at_first(two_versions: Web) -> None:
    response = two_versions("GET", PATH)
    assert (response.status_code, response.json()) == (200, DEFAULTS)


def test_put_replaces_all_settings(two_versions: Web) -> None:
    first = two_versions("PUT", PATH, json={"retain_samples": False})
    assert (first.status_code, first.json()) == (200, {**DEFAULTS, "retain_samples": False})
    assert two_versions("PUT", PATH, json={"keep_last": 4}).json() == {**DEFAULTS, "keep_last": 4}
    assert two_versions("GET", PATH).json() == {**DEFAULTS, "keep_last": 4}


def test_patch_changes_only_the_settings_that_are_sent(two_versions: Web) -> None:
    two_versions("PUT", PATH, json={"floor": 0.9, "tolerance": 0.1})
    assert two_versions("PATCH", PATH, json={"keep_last": 4}).json() == {
        **DEFAULTS, "floor": 0.9, "tolerance": 0.1, "keep_last": 4
    }  # fmt: skip
    changed = two_versions("PATCH", PATH, json={"floor": None, "model": "tiny"})
    assert changed.json() == {**DEFAULTS, "tolerance": 0.1, "keep_last": 4, "model": "tiny"}
    assert two_versions("PATCH", PATH, json={}).json() == two_versions("GET", PATH).json() == changed.json()


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_null_gives_a_setting_its_default(two_versions: Web, method: str) -> None:
    two_versions("PUT", PATH, json={"retain_samples": False, "floor": 0.9})
    response = two_versions(method, PATH, json={"retain_samples": None, "floor": None})
    assert (response.status_code, response.json()) == (200, DEFAULTS)


def test_a_setting_that_is_there_twice_is_rejected(two_versions: Web) -> None:
    body = b'{"floor": 0.9, "floor": 0.1}'
    response = two_versions("PUT", PATH, content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (422, "field_duplicate")
    assert two_versions("GET", PATH).json() == DEFAULTS


def test_patch_takes_a_json_merge_patch_and_put_does_not(two_versions: Web) -> None:
    headers = {"Content-Type": "application/merge-patch+json"}
    changed = two_versions("PATCH", PATH, content=b'{"keep_last": 4}', headers=headers)
    assert (changed.status_code, changed.json()) == (200, {**DEFAULTS, "keep_last": 4})
    assert two_versions("PUT", PATH, content=b'{"keep_last": 5}', headers=headers).status_code == 415


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_an_unknown_setting_is_named_with_those_that_there_are(two_versions: Web, method: str) -> None:
    detail = two_versions(method, PATH, json={"flor": 0.9, "keep": 1, "tolerance": 2}).json()["detail"]
    unknown, invalid = detail.split("; body ")
    assert unknown == f"the body has 'flor', 'keep'; allowed: {', '.join(sorted(DEFAULTS))}"
    assert invalid.startswith("tolerance: ")


def test_patch_does_not_create_a_client(web: Web) -> None:
    response = web("PATCH", PATH, json={"keep_last": 4})
    assert (response.status_code, response.json()["code"]) == (404, "unknown_client")


def test_settings_can_be_set_before_the_first_sample(web: Web) -> None:
    assert web("GET", PATH).json()["code"] == "unknown_client"
    assert web("PUT", PATH, json={"retain_samples": False}).status_code == 200
    assert web.services.clients.chosen == {"line": ClientSettings(retain_samples=False)}
    assert web("GET", "/clients/line").json()["versions"] == 0


@pytest.mark.parametrize(
    "body",
    [{"keep_last": 0}, {"keep_last": "3"}, {"keep_last": 10**9}, {"retain_samples": "no"}, {"keep": 1}, [], "all"]
    + [{"model": 3}, {"unknown_rate": 0.51}, {"bit_depth": 11}, {"bit_depth": "12"}, {"uncertainty": "some"}]
    + [
        {name: value}
        for name in ("floor", "lower_bound", "tolerance", "unknown_rate")
        for value in (True, "0.5", -0.1, 1.1)
    ],
)
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_invalid_settings_are_rejected(two_versions: Web, method: str, body: Any) -> None:
    response = two_versions(method, PATH, json=body)
    assert (response.status_code, response.json()["code"]) == (422, "parameter_invalid")
    assert web_settings(two_versions) == ClientSettings()


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"f\xff\xfe", b'{"keep_last": ' + b"9" * 5000 + b"}", b"[" * 50_000],
    ids=["nothing", "cut off", "no text", "a long number", "many levels"],
)
def test_invalid_json_is_rejected(two_versions: Web, body: bytes) -> None:
    response = two_versions("PUT", PATH, content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (422, "parameter_invalid")
    assert response.json()["detail"]


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_settings_must_be_json(two_versions: Web, method: str) -> None:
    response = two_versions(method, PATH, data={"retain_samples": "false"})
    assert (response.status_code, response.json()["code"]) == (415, "media_type_unsupported")


def web_settings(web: Web) -> ClientSettings:
    found: ClientSettings = web.services.clients.settings("line")
    return found
