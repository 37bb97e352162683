"""Aliases: conditional moves (RFC 9110) and rolling back."""

from __future__ import annotations

from typing import Any

import pytest

from tests.in_process import Web

LIVE = "/clients/line/aliases/live"


def put(web: Web, version: int, path: str = LIVE, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web("PUT", path, json={"version": version}, headers=named)


def test_an_alias_is_moved_and_its_etag_changes(two_versions: Web) -> None:
    before = two_versions("GET", LIVE)
    moved = put(two_versions, 1, If_Match=before.headers["etag"])
    assert moved.status_code == 200
    assert moved.headers["etag"] == moved.json()["etag"] == '"3"'
    assert (moved.json()["version"], moved.json()["previous"], moved.json()["reason"]) == (1, 2, "set")
    assert two_versions("GET", LIVE).json() == moved.json()


def test_an_outdated_etag_does_not_move_the_alias(two_versions: Web) -> None:
    old = two_versions("GET", LIVE).headers["etag"]
    put(two_versions, 1, If_Match=old)
    lost = put(two_versions, 2, If_Match=old)
    assert (lost.status_code, lost.json()["code"]) == (412, "alias_conflict")
    assert two_versions("GET", LIVE).json()["version"] == 1


def test_a_move_without_a_precondition_is_unconditional(two_versions: Web) -> None:
    assert put(two_versions, 1).json()["version"] == 1


def test_if_match_star_requires_an_existing_alias(two_versions: Web) -> None:
    assert put(two_versions, 1, If_Match="*").status_code == 200
    missing = put(two_versions, 1, "/clients/line/aliases/best", If_Match="*")
    assert (missing.status_code, missing.json()["code"]) == (412, "alias_conflict")


def test_if_none_match_star_creates_an_alias_once(two_versions: Web) -> None:
    assert put(two_versions, 1, "/clients/line/aliases/best", If_None_Match="*").status_code == 200
    again = put(two_versions, 2, "/clients/line/aliases/best", If_None_Match="*")
    assert (again.status_code, again.json()["code"]) == (412, "alias_conflict")


@pytest.mark.parametrize(
    "headers",
    [
        {"If_Match": "2"},
        {"If_Match": '"2", "3"'},
        {"If_Match": '"two"'},
        {"If_None_Match": '"2"'},
        {"If_Match": '"2"', "If_None_Match": "*"},
    ],
)
def test_a_malformed_precondition_is_rejected(two_versions: Web, headers: dict[str, str]) -> None:
    response = put(two_versions, 1, **headers)
    assert (response.status_code, response.json()["code"]) == (422, "precondition_invalid")
    assert two_versions("GET", LIVE).json()["revision"] == 2


def test_a_weak_etag_never_matches(two_versions: Web) -> None:
    weak = "W/" + two_versions("GET", LIVE).headers["etag"]
    rolled = two_versions("POST", "/clients/line/rollback", headers={"If-Match": weak})
    for response in (put(two_versions, 1, If_Match=weak), put(two_versions, 1, If_Match='W/"x"'), rolled):
        assert (response.status_code, response.json()["code"]) == (412, "alias_conflict")
        assert "weak ETag" in response.json()["detail"]
    assert two_versions("GET", LIVE).json()["revision"] == 2


def test_a_field_that_a_body_may_not_have_is_named_with_those_that_it_may(two_versions: Web) -> None:
    detail = two_versions("PUT", LIVE, json={"version": 1, "force": True}).json()["detail"]
    assert detail == "the body has 'force'; allowed: version"


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        (LIVE, {"version": 9}, 404, "unknown_version"),
        (LIVE, {"version": "1"}, 422, "parameter_invalid"),
        (LIVE, {"version": 1.5}, 422, "parameter_invalid"),
        (LIVE, {"version": 0}, 422, "parameter_invalid"),
        (LIVE, {"version": True}, 422, "parameter_invalid"),
        (LIVE, {}, 422, "parameter_invalid"),
        (LIVE, {"version": 1, "force": True}, 422, "parameter_invalid"),
        ("/clients/line/aliases/7", {"version": 1}, 422, "invalid_name"),
        ("/clients/line/aliases/Best", {"version": 1}, 422, "invalid_name"),
        ("/clients/missing/aliases/live", {"version": 1}, 404, "unknown_client"),
    ],
)
def test_an_invalid_target_is_rejected(
    two_versions: Web, path: str, body: dict[str, Any], status: int, code: str
) -> None:
    response = two_versions("PUT", path, json=body)
    assert (response.status_code, response.json()["code"]) == (status, code)


@pytest.mark.parametrize("media_type", ["text/plain", "application/jsonx", "application/json-seq"])
def test_the_body_must_be_json(two_versions: Web, media_type: str) -> None:
    response = two_versions("PUT", LIVE, content=b'{"version": 1}', headers={"Content-Type": media_type})
    assert (response.status_code, response.json()["code"]) == (415, "media_type_unsupported")


def test_rolling_back_responds_with_the_current_version(two_versions: Web) -> None:
    response = two_versions("POST", "/clients/line/rollback")
    assert response.status_code == 200
    assert (response.json()["version"], response.json()["reason"], response.headers["etag"]) == (1, "rollback", '"3"')


def test_another_alias_can_be_rolled_back(two_versions: Web) -> None:
    for version in (2, 1):
        put(two_versions, version, "/clients/line/aliases/best")
    assert two_versions("POST", "/clients/line/rollback?alias=best").json()["version"] == 2
    assert two_versions("GET", LIVE).json()["revision"] == 2


def test_rolling_back_without_an_earlier_version_is_a_conflict(web: Web) -> None:
    web.adapt("line")
    response = web("POST", "/clients/line/rollback")
    assert (response.status_code, response.json()["code"]) == (409, "nothing_to_roll_back_to")


def test_a_rollback_with_an_outdated_etag_is_a_conflict(two_versions: Web) -> None:
    old = two_versions("GET", LIVE).headers["etag"]
    rolled = two_versions("POST", "/clients/line/rollback", headers={"If-Match": old})
    assert (rolled.status_code, rolled.json()["version"]) == (200, 1)
    put(two_versions, 2)
    lost = two_versions("POST", "/clients/line/rollback", headers={"If-Match": old})
    assert (lost.status_code, lost.json()["code"]) == (412, "alias_conflict")
    assert two_versions("GET", LIVE).json()["version"] == 2


def test_a_rollback_with_if_match_star_requires_an_existing_alias(two_versions: Web) -> None:
    missing = two_versions("POST", "/clients/line/rollback?alias=best", headers={"If-Match": "*"})
    assert (missing.status_code, missing.json()["code"]) == (412, "alias_conflict")
    assert two_versions("POST", "/clients/line/rollback", headers={"If-Match": "*"}).status_code == 200


def test_a_rollback_with_a_malformed_precondition_is_rejected(two_versions: Web) -> None:
    response = two_versions("POST", "/clients/line/rollback", headers={"If-Match": "2"})
    assert (response.status_code, response.json()["code"]) == (422, "precondition_invalid")
    assert two_versions("GET", LIVE).json()["revision"] == 2
