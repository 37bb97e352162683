"""POST /clients/{client}/corrections: the request, the answer, and what it shares with POST /adapt."""

from __future__ import annotations

from typing import Any

import pytest

from tests.in_process import Web

PATH = "/clients/line/corrections"
KNOWN, OTHER = "a" * 64, "b" * 64


def test_the_answer_is_that_of_an_adaptation(two_versions: Web) -> None:
    response = two_versions("POST", PATH, json={"relabel": {KNOWN: "good"}, "remove": [OTHER], "publish": "always"})
    assert (response.status_code, response.headers["location"]) == (201, "/clients/line/versions/3")
    assert response.json().keys() == two_versions.adapt().json().keys()
    command = two_versions.services.adaptation.commands[2]
    assert (command.mode, command.publish, command.uploads, command.idempotency) == ("correct", "always", (), None)
    assert command.corrections is not None
    assert (command.corrections.relabel, command.corrections.remove) == ({KNOWN: "good"}, {OTHER})


@pytest.mark.parametrize(
    "body",
    [
        f'{{"relabel": {{"{KNOWN}": "good", "{KNOWN}": "bad"}}}}',
        f'{{"remove": ["{KNOWN}"], "remove": []}}',
    ],
)
def test_a_key_that_is_there_twice_is_rejected(two_versions: Web, body: str) -> None:
    response = two_versions("POST", PATH, content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (422, "field_duplicate")
    assert "twice" in response.json()["detail"]
    assert len(two_versions.services.adaptation.commands) == 2


def test_a_parameter_that_the_route_does_not_have_is_rejected(two_versions: Web) -> None:
    response = two_versions("POST", f"{PATH}?publish=never", json={"remove": [OTHER]})
    assert (response.status_code, response.json()["code"]) == (422, "field_unknown")
    assert len(two_versions.services.adaptation.commands) == 2


def test_the_corrections_can_run_as_a_job(two_versions: Web) -> None:
    response = two_versions("POST", PATH, json={"remove": [OTHER]}, headers={"Prefer": "respond-async"})
    assert (response.status_code, response.headers["preference-applied"]) == (202, "respond-async")
    two_versions("GET", f"{response.headers['location']}/events")
    job = two_versions("GET", response.headers["location"]).json()
    assert (job["client"], job["state"], job["result"]["version"]) == ("line", "done", 3)


def test_equal_requests_have_the_same_digest_however_they_are_written(two_versions: Web) -> None:
    headers = {"Idempotency-Key": "key-1"}
    for body in (
        {"relabel": {KNOWN: "good", OTHER: "bad"}, "remove": ["c" * 64, "d" * 64]},
        {"publish": "auto", "remove": ["d" * 64, "c" * 64], "relabel": {OTHER: "bad", KNOWN: "good"}},
        {"relabel": {KNOWN: "bad", OTHER: "bad"}, "remove": ["c" * 64, "d" * 64]},
    ):
        assert two_versions("POST", PATH, json=body, headers=headers).status_code == 201
    keys = [command.idempotency for command in two_versions.services.adaptation.commands[2:]]
    assert keys[0] is not None
    assert keys[0].key == "key-1"
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "nothing_to_correct"),
        ({"relabel": {KNOWN: "good"}, "remove": [KNOWN]}, "invalid_request"),
        ({"relabel": {KNOWN: "\u202e"}}, "invalid_name"),
        ({"relabel": {KNOWN: 1}}, "parameter_invalid"),
        ({"remove": KNOWN}, "parameter_invalid"),
        ({"removed": [KNOWN]}, "parameter_invalid"),
        ({"remove": [KNOWN], "publish": "maybe"}, "parameter_invalid"),
        ([1], "parameter_invalid"),
    ],
)
def test_invalid_corrections_are_rejected(two_versions: Web, body: Any, code: str) -> None:
    response = two_versions("POST", PATH, json=body)
    assert (response.status_code, response.json()["code"]) == (422, code)
    assert len(two_versions.services.adaptation.commands) == 2


def test_a_body_that_is_no_json_or_too_large_is_rejected(two_versions: Web) -> None:
    response = two_versions("POST", PATH, data={"remove": KNOWN})
    assert (response.status_code, response.json()["code"]) == (415, "media_type_unsupported")
    many = {"relabel": {f"{index:064x}": "schrammen" for index in range(2000)}}
    assert two_versions("POST", PATH, json=many).status_code == 201
    response = two_versions("POST", PATH, json={"remove": ["a" * 2**20]})
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
