"""Keys restricted to clients: every route treats another client like one that does not exist."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from service.http.app import ROUTERS
from service.http.scopes import ClientPath
from tests.in_process import PNG, Web
from tests.unit.service.http.guarded import key_for

REQUESTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "read": ("GET", "/clients/{client}", {}),
    "versions": ("GET", "/clients/{client}/versions", {}),
    "version": ("GET", "/clients/{client}/versions/1", {}),
    "absent version": ("GET", "/clients/{client}/versions/99", {}),
    "version out of range": ("GET", "/clients/{client}/versions/0", {}),
    "weights": ("GET", "/clients/{client}/versions/1/weights", {}),
    "history": ("GET", "/clients/{client}/history", {}),
    "history at": ("GET", "/clients/{client}/history?at=2026-03-01T12:00:00Z", {}),
    "history at nonsense": ("GET", "/clients/{client}/history?at=x", {}),
    "alias": ("GET", "/clients/{client}/aliases/live", {}),
    "absent alias": ("GET", "/clients/{client}/aliases/none", {}),
    "move": ("PUT", "/clients/{client}/aliases/live", {"json": {"version": 1}}),
    "move without a body": ("PUT", "/clients/{client}/aliases/live", {"json": {}}),
    "move if matching": (
        "PUT",
        "/clients/{client}/aliases/live",
        {"json": {"version": 1}, "headers": {"If-Match": '"1"'}},
    ),
    "move if nonsense": (
        "PUT",
        "/clients/{client}/aliases/live",
        {"json": {"version": 1}, "headers": {"If-Match": "x"}},
    ),
    "rollback": ("POST", "/clients/{client}/rollback", {}),
    "settings": ("GET", "/clients/{client}/settings", {}),
    "update_settings nonsense": ("PUT", "/clients/{client}/settings", {"json": {"keep_last": 0}}),
    "samples": ("GET", "/clients/{client}/samples", {}),
    "sample": ("GET", "/clients/{client}/samples/" + "d" * 64, {}),
    "absent sample": ("GET", "/clients/{client}/samples/0", {}),
    "correct": ("POST", "/clients/{client}/corrections", {"json": {"remove": ["d" * 64]}}),
    "correct nonsense": ("POST", "/clients/{client}/corrections", {"json": {"relabel": []}}),
    "delete version": ("DELETE", "/clients/{client}/versions/1", {}),
    "delete": ("DELETE", "/clients/{client}", {}),
    "predict": ("POST", "/predict", {"data": {"client": "{client}"}, "files": [("images", ("a.png", PNG))]}),
    "predict by version": (
        "POST",
        "/predict",
        {"data": {"client": "{client}", "version": "1"}, "files": [("images", ("a.png", PNG))]},
    ),
    "predict without images": ("POST", "/predict", {"data": {"client": "{client}"}}),
    "predict no image": ("POST", "/predict", {"data": {"client": "{client}"}, "files": [("images", ("a", b"x"))]}),
    "predict a body": (
        "POST",
        "/predict?client={client}",
        {"content": PNG, "headers": {"Content-Type": "image/png"}},
    ),
    "adapt": (
        "POST",
        "/adapt",
        {"data": {"client": "{client}", "labels": ["a", "b"]}, "files": [("samples", (n, PNG)) for n in "12"]},
    ),
}


def sent(
    web: Web, request: tuple[str, str, dict[str, Any]], client: str, key: dict[str, str]
) -> tuple[int, Any, bytes]:
    """Return status, headers without the request ID, and body without the client's name."""
    method, path, options = request
    options = {**options, "headers": {**options.get("headers", {}), **key}}
    if "data" in options:
        options["data"] = {**options["data"], "client": client}
    response = web(method, path.format(client=client), **options)
    headers = {
        name: value for name, value in response.headers.items() if name not in {"x-request-id", "content-length"}
    }
    return response.status_code, headers, response.content.replace(client.encode(), b"CLIENT")


@pytest.mark.parametrize("request_name", REQUESTS)
def test_another_client_is_answered_like_one_that_does_not_exist(guarded: Web, request_name: str) -> None:
    key, other_key = key_for(guarded, clients=("mine",)), key_for(guarded)
    for _ in range(2):
        for client in ("mine", "another"):
            fields = {"client": client, "labels": ["good", "bad"]}
            files = [("samples", (f"{index}.png", PNG)) for index in range(2)]
            assert guarded("POST", "/adapt", data=fields, files=files, headers=other_key).status_code == 201
    request = REQUESTS[request_name]
    assert sent(guarded, request, "another", key) == sent(guarded, request, "missing", key)
    assert guarded("GET", "/clients/another", headers=other_key).json()["versions"] == 2
    assert guarded("GET", "/clients/missing", headers=other_key).status_code == 404


def test_the_response_for_an_inaccessible_client_equals_that_for_a_missing_client(guarded: Web) -> None:
    """For valid requests only. The client is checked first, so nothing else is validated for inaccessible clients."""
    compared = 0
    for name, request in REQUESTS.items():
        if name != "adapt":  # adapting creates the client
            missing = sent(guarded, request, "missing", key_for(guarded))
            if missing[0] == 404:
                assert sent(guarded, request, "missing", key_for(guarded, clients=("mine",))) == missing, name
                compared += 1
    assert compared > 15


def test_a_key_lists_only_the_clients_that_it_can_access(guarded: Web) -> None:
    everyone = key_for(guarded)
    for client in ("a", "b", "c"):
        fields = {"client": client, "labels": ["good", "bad"]}
        guarded("POST", "/adapt", data=fields, files=[("samples", (n, PNG)) for n in "12"], headers=everyone)
    listed = guarded("GET", "/clients", headers=key_for(guarded, "predict", clients=("c", "a", "z"))).json()["clients"]
    assert [client["client"] for client in listed] == ["a", "c"]


def calls(dependant: Dependant) -> set[Any]:
    """Return all dependencies of a route."""
    return {dependant.call}.union(*(calls(inner) for inner in dependant.dependencies))


def test_every_route_with_a_client_in_its_path_checks_the_key_s_access() -> None:
    (checks_access,) = (depends.dependency for depends in ClientPath.__metadata__)  # type: ignore[attr-defined]
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    with_client = [route for route in routes if "{client}" in route.path]
    assert len(with_client) >= 12
    for route in with_client:
        assert checks_access in calls(route.dependant), route.path


def test_a_key_cannot_change_settings_of_another_client(guarded: Web) -> None:
    key = key_for(guarded, clients=("mine",))
    response = guarded("PUT", "/clients/yours/settings", json={"retain_samples": False}, headers=key)
    assert (response.status_code, response.json()["code"]) == (404, "unknown_client")
    assert guarded.services.clients.kept == {}


def test_a_key_cannot_create_another_client(guarded: Web) -> None:
    key = key_for(guarded, clients=("mine",))
    fields = {"client": "yours", "labels": ["good", "bad"]}
    response = guarded("POST", "/adapt", data=fields, files=[("samples", (n, PNG)) for n in "12"], headers=key)
    assert (response.status_code, response.json()["code"]) == (404, "unknown_client")
    assert guarded.services.adaptation.commands == []
