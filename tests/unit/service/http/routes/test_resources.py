"""Requests, use case calls and responses of each resource, with fake use cases."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from service.http.app import create_app
from service.settings import load_settings
from tests.in_process import Web, started
from tests.unit.service.fakes import FakeServices

PNG = b"\x89PNG"


def test_adapt_responds_with_all_fields_of_the_contract(web: Web) -> None:
    response = web.adapt("line", ["good", "bad"])
    assert response.status_code == 201
    assert response.headers["location"] == "/clients/line/versions/1"
    body = response.json()
    assert list(body) == [
        "client", "version", "parent", "classes", "published", "live", "model", "weights", "report",
    ]  # fmt: skip
    assert body["weights"] == {"digest": "b" * 64, "bytes": 1234}
    assert set(body["report"]) == {
        "support_accuracy", "estimated_accuracy", "interval", "temperature", "unknown_threshold", "loss_curve",
        "suspects", "alike", "bit_depth", "modalities", "confusion", "folds", "gate", "seconds",
    }  # fmt: skip
    assert set(body["report"]["seconds"]) == {"decode", "adapt", "examine", "store", "total"}


def test_all_fields_of_a_form_reach_the_use_case(web: Web) -> None:
    web.adapt("line", ["b", "a"], mode="replace", steps="0", learning_rate="1e-2", seed="7", publish="never")
    (command,) = web.services.adaptation.commands
    assert (command.client, command.labels, command.mode, command.steps) == ("line", ("b", "a"), "replace", 0)
    assert (command.learning_rate, command.seed, command.publish) == (0.01, 7, "never")
    assert [upload.name for upload in command.uploads] == ["0.png", "1.png"]
    assert command.idempotency is None


def test_parts_reach_the_use_case_in_order(web: Web) -> None:
    web.adapt("line", ["b", "a", "a"], parts=["17", "18", "17"])
    (command,) = web.services.adaptation.commands
    assert command.parts == ("17", "18", "17")


def test_a_form_of_the_largest_size_can_have_labels_and_parts(services: FakeServices) -> None:
    settings = load_settings(max_files=40)
    with started(create_app(settings, lambda _: services), services) as web:
        assert web.adapt("line", ["a", "b"] * 20, parts=["17"] * 40).status_code == 201


def test_parts_cannot_be_sent_with_an_archive(web: Web) -> None:
    response = web("POST", "/adapt", data={"client": "line", "parts": "17"}, files=[("archive", ("a.zip", b"PK"))])
    assert (response.status_code, response.json()["code"]) == (422, "fields_conflict")


def test_missing_fields_are_left_to_the_use_case(web: Web) -> None:
    web.adapt("line", ["b", "a"])
    (command,) = web.services.adaptation.commands
    assert (command.mode, command.publish, command.parts) == ("extend", "auto", ())
    assert (command.steps, command.learning_rate, command.seed) == (None, None, None)


def test_empty_fields_of_a_browser_form_count_as_missing(web: Web) -> None:
    files = [("samples", (f"{name}.png", PNG)) for name in "ab"]
    empty = [(name, (None, b"")) for name in ("steps", "learning_rate", "seed", "mode", "publish", "archive")]
    nothing_chosen = [("archive", ("", b""))]
    fields = [(name, (None, value)) for name, value in (("client", b"line"), ("labels", b"a"), ("labels", b"b"))]
    response = web("POST", "/adapt", files=[*fields, *files, *empty, *nothing_chosen])
    assert response.status_code == 201, response.text
    (command,) = web.services.adaptation.commands
    assert (command.mode, command.steps, command.learning_rate, command.seed) == ("extend", None, None, None)


def test_the_digest_of_a_body_does_not_depend_on_its_boundary(web: Web) -> None:
    files = [("samples", ("a.png", PNG)), ("samples", ("b.png", PNG))]
    for boundary, seed in (("one", "1"), ("two", "1"), ("three", "2")):
        headers = {"Idempotency-Key": "k", "Content-Type": f"multipart/form-data; boundary={boundary}"}
        data = {"client": "line", "labels": ["a", "b"], "seed": seed}
        assert web("POST", "/adapt", data=data, files=files, headers=headers).status_code == 201
    first, second, third = [command.idempotency for command in web.services.adaptation.commands]
    assert first == second
    assert first.key == third.key
    assert first.body_digest != third.body_digest


@pytest.mark.parametrize("key", ["", "two words", "x" * 256])
def test_an_idempotency_key_must_be_short_and_printable(web: Web, key: str) -> None:
    files = [("samples", ("a.png", PNG))]
    response = web(
        "POST", "/adapt", data={"client": "l", "labels": ["a"]}, files=files, headers={"Idempotency-Key": key}
    )
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert web.services.adaptation.commands == []


def test_a_form_and_a_raw_image_get_the_same_prediction(two_versions: Web) -> None:
    form = two_versions("POST", "/predict", data={"client": "line"}, files=[("images", ("image", PNG))])
    raw = two_versions("POST", "/predict?client=line", content=PNG, headers={"Content-Type": "image/png"})
    assert form.status_code == raw.status_code == 200
    assert form.json() == raw.json()
    assert form.json()["version"] == 2


def test_predictions_are_in_the_order_of_the_images(two_versions: Web) -> None:
    files = [("images", (name, PNG)) for name in ("c.png", "a.png", "b.png")]
    response = two_versions("POST", "/predict", data={"client": "line"}, files=files).json()
    assert list(response) == ["client", "version", "weights_digest", "predictions", "seconds"]
    assert [image["name"] for image in response["predictions"]] == ["c.png", "a.png", "b.png"]
    assert set(response["predictions"][0]) == {
        "name", "label", "confidence", "scores", "familiarity", "unknown_score", "unknown_threshold", "verdict",
    }  # fmt: skip


@pytest.mark.parametrize(("field", "value"), [("version", "1"), ("alias", "old")])
def test_a_version_or_an_alias_can_be_requested(two_versions: Web, field: str, value: str) -> None:
    two_versions("PUT", "/clients/line/aliases/old", json={"version": 1})
    form = two_versions("POST", "/predict", data={"client": "line", field: value}, files=[("images", ("a", PNG))])
    raw = two_versions(
        "POST", f"/predict?client=line&{field}={value}", content=PNG, headers={"Content-Type": "image/png"}
    )
    assert form.json()["version"] == raw.json()["version"] == 1


def test_predicting_without_a_live_version_is_a_conflict(web: Web) -> None:
    web.adapt("line", publish="never")
    response = web("POST", "/predict", data={"client": "line"}, files=[("images", ("a", PNG))])
    assert (response.status_code, response.json()["code"]) == (409, "nothing_live")


def test_a_client_has_its_aliases_and_the_etag_of_live(two_versions: Web) -> None:
    response = two_versions("GET", "/clients/line")
    assert response.headers["etag"] == '"2"'
    body = response.json()
    assert (body["versions"], body["latest"], body["live"]) == (2, 2, 2)
    assert [(alias["alias"], alias["version"], alias["etag"]) for alias in body["aliases"]] == [("live", 2, '"2"')]
    assert two_versions("GET", "/clients").json() == {"clients": [body]}


@pytest.mark.parametrize(
    ("path", "entries", "following"),
    [
        ("/clients/line/versions", "versions", "/clients/line/versions?limit=1&after=1"),
        ("/clients/line/history", "moves", "/clients/line/history?limit=1&after=1"),
        ("/clients", "clients", "/clients?limit=1&after=line"),
    ],
)
def test_every_list_has_pages(two_versions: Web, path: str, entries: str, following: str) -> None:
    two_versions.adapt("line-2")
    everything = two_versions("GET", path)
    assert "link" not in everything.headers
    first = two_versions("GET", f"{path}?limit=1")
    assert first.headers["link"] == f'<{following}>; rel="next"'
    second = two_versions("GET", following)
    assert "link" not in second.headers
    assert first.json()[entries] + second.json()[entries] == everything.json()[entries]
    assert {**everything.json(), entries: []} == {**first.json(), entries: []} == {**second.json(), entries: []}
    for wrong in ("limit=0", "limit=1001", "after=" + "9" * 70):
        rejected = two_versions("GET", f"{path}?{wrong}")
        assert (rejected.status_code, rejected.json()["code"]) == (422, "parameter_invalid")
    mistyped = two_versions("GET", f"{path}?limit=1&afetr=1")
    assert (mistyped.status_code, mistyped.json()["code"]) == (422, "field_unknown")
    assert re.search("'afetr'; allowed: after,.* limit", mistyped.json()["detail"])
    twice = two_versions("GET", f"{path}?limit=1&limit=2")
    assert (twice.status_code, twice.json()["code"]) == (422, "field_duplicate")


@pytest.mark.parametrize(
    ("method", "path", "parameter"),
    [
        ("GET", f"/clients/line/samples/{'d' * 64}", "side=32"),
        ("POST", "/clients/line/rollback", "alias=live"),
        ("POST", "/clients/line/upgrade", "publish=never"),
    ],
)
def test_a_parameter_that_is_mistyped_or_given_twice_is_rejected(
    two_versions: Web, method: str, path: str, parameter: str
) -> None:
    name = parameter.partition("=")[0]
    mistyped = two_versions(method, f"{path}?x{parameter}")
    assert (mistyped.status_code, mistyped.json()["code"]) == (422, "field_unknown")
    assert f"allowed: {name}" in mistyped.json()["detail"]
    twice = two_versions(method, f"{path}?{parameter}&{parameter}")
    assert (twice.status_code, twice.json()["code"]) == (422, "field_duplicate")
    assert two_versions("GET", "/clients/line").json()["live"] == 2


def test_versions_are_listed_and_read(two_versions: Web) -> None:
    listed = two_versions("GET", "/clients/line/versions").json()
    assert [(version["version"], version["aliases"]) for version in listed["versions"]] == [(1, []), (2, ["live"])]
    details = two_versions("GET", "/clients/line/versions/2").json()
    assert details["sample_list"] == [
        {
            "name": "0.png",
            "label": "good",
            "digest": "d" * 64,
            "part": None,
            "text": None,
            "vector": None,
            "held_out": None,
        },
        {
            "name": "1.png",
            "label": "bad",
            "digest": "d" * 64,
            "part": None,
            "text": None,
            "vector": None,
            "held_out": None,
        },
    ]
    assert {name: details[name] for name in listed["versions"][1]} == listed["versions"][1]
    assert (details["model_digest"], details["recipe"], details["seed"]) == ("a" * 64, {"steps": 5}, 0)


def test_weights_are_a_file_with_its_digest(two_versions: Web) -> None:
    response = two_versions("GET", "/clients/line/versions/1/weights")
    digest = hashlib.sha256(response.content)
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-disposition"] == 'attachment; filename="line-1.safetensors"'
    assert response.headers["etag"] == f'"{digest.hexdigest()}"'
    assert response.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"


def test_deleting_a_version_responds_without_a_body(two_versions: Web) -> None:
    response = two_versions("DELETE", "/clients/line/versions/1")
    assert (response.status_code, response.content) == (204, b"")
    assert two_versions("GET", "/clients/line/versions/1").json()["code"] == "unknown_version"


def test_deleting_a_client_returns_what_was_deleted(two_versions: Web) -> None:
    response = two_versions("DELETE", "/clients/line")
    assert (response.status_code, response.json()) == (200, {"client": "line", "versions": 2, "blobs": 6, "bytes": 200})
    assert two_versions("GET", "/clients/line").json()["code"] == "unknown_client"


@pytest.mark.parametrize("path", ["", "/versions", "/versions/1", "/versions/1/weights", "/history", "/aliases/live"])
def test_an_unknown_client_is_the_same_problem_everywhere(web: Web, path: str) -> None:
    response = web("GET", f"/clients/missing{path}")
    assert (response.status_code, response.json()["code"]) == (404, "unknown_client")


@pytest.mark.parametrize("number", ["0", "-1", "x", "99999999999999999999"])
def test_an_invalid_version_number_is_rejected(two_versions: Web, number: str) -> None:
    response = two_versions("GET", f"/clients/line/versions/{number}")
    assert (response.status_code, response.json()["code"]) == (422, "parameter_invalid")


@pytest.mark.parametrize("name", ["LINE", "%20", "a%00b", "a%23b", "x" * 65, "..%5c"])
def test_an_invalid_client_name_is_rejected(web: Web, name: str) -> None:
    response = web("GET", f"/clients/{name}/versions")
    assert (response.status_code, response.json()["code"]) == (422, "invalid_name")


def test_history_has_the_version_that_was_live_at_a_time(two_versions: Web) -> None:
    everything = two_versions("GET", "/clients/line/history").json()
    assert (everything["at"], everything["live"], len(everything["moves"])) == (None, 2, 2)
    early = two_versions("GET", "/clients/line/history?at=2026-03-01T12:00:30Z").json()
    assert (early["live"], [move["version"] for move in early["moves"]]) == (1, [1])
    before = two_versions("GET", "/clients/line/history?at=2026-03-01T11:00:00Z").json()
    assert (before["live"], before["moves"]) == (None, [])


@pytest.mark.parametrize("at", ["2026-03-01T13:00:30+01:00", "2026-03-01T13:00:30%2B01:00", "2026-03-01T12:00:30z"])
def test_a_time_with_any_offset_is_accepted_and_returned_in_utc(two_versions: Web, at: str) -> None:
    assert two_versions("GET", f"/clients/line/history?at={at}").json()["at"] == "2026-03-01T12:00:30Z"


@pytest.mark.parametrize("at", ["2026-03-01T12:00:30", "yesterday", "", "0001-01-01T00:00:00%2B14:00", "9" * 400])
def test_an_invalid_time_and_a_time_without_an_offset_are_rejected(two_versions: Web, at: str) -> None:
    response = two_versions("GET", f"/clients/line/history?at={at}")
    assert (response.status_code, response.json()["code"]) == (422, "field_invalid")


def test_models_are_listed_with_their_cards(web: Web) -> None:
    (only,) = web("GET", "/models").json()["models"]
    assert only == web("GET", "/models/tiny").json()
    assert only["card"] == {"data": "generated", "accuracy": 0.5}
    assert web("GET", "/models/huge").json()["code"] == "unknown_meta_model"


def test_an_adapt_can_be_sent_from_swagger_ui_as_rendered_with_a_file(web: Web) -> None:
    """Swagger UI fills each field with its first example, else its default, and may send empty fields."""
    description = web("GET", "/openapi.json").json()
    body = description["paths"]["/adapt"]["post"]["requestBody"]["content"]["multipart/form-data"]
    fields = []
    for name, schema in body["schema"]["properties"].items():
        filled = schema.get("items", schema)
        if filled.get("format") != "binary":
            fields.append((name, (None, str(filled.get("examples", [filled.get("default")])[0]))))
    response = web("POST", "/adapt", files=[*fields, ("samples", ("1.png", PNG)), ("archive", ("", b""))])
    assert response.status_code == 201, response.text
    (command,) = web.services.adaptation.commands
    assert (command.client, command.labels, command.first) == ("my-line", ("scratch",), None)
    assert (command.mode, command.publish, command.steps, command.seed) == ("extend", "auto", None, None)


def test_operation_ids_are_names_of_functions(web: Web) -> None:
    paths = web("GET", "/openapi.json").json()["paths"]
    names = [operation["operationId"] for operations in paths.values() for operation in operations.values()]
    assert len(names) == len(set(names))
    assert {"adapt", "predict", "list_clients", "get_version", "move_alias", "follow_job", "readyz"} <= set(names)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/nowhere", 404, "not_found"),
        ("/clients/line/aliases", 404, "not_found"),
        ("/predict", 405, "method_not_allowed"),
        ("/clients/line", 405, "method_not_allowed"),
    ],
)
def test_put_to_a_path_that_does_not_take_it_is_rejected_whatever_its_media_type(
    two_versions: Web, path: str, status: int, code: str
) -> None:
    response = two_versions("PUT", path, content=b"x", headers={"Content-Type": "text/plain"})
    assert (response.status_code, response.json()["code"]) == (status, code)
