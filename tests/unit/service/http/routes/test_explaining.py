"""POST /predict with explain=true, with fake use cases."""

from __future__ import annotations

from typing import Any

import httpx

from models.errors import ExplanationUnsupported
from service.client import Client
from service.http.app import create_app
from service.settings import load_settings
from tests.in_process import PNG, InProcess, Web, started
from tests.unit.service.fakes import FakeServices


def predict(web: Web, images: int = 1, **fields: Any) -> httpx.Response:
    files = [("images", (f"{index}.png", PNG)) for index in range(images)]
    return web("POST", "/predict", data={"client": "line", **fields}, files=files)


def test_each_prediction_has_a_map_if_the_request_wants_one(two_versions: Web) -> None:
    body = predict(two_versions, images=2, explain="true", version="1").json()
    assert body["version"] == 1
    expected = {"rows": 1, "columns": 2, "values": [[0.25, 1.0]]}
    assert [image["explanation"] for image in body["predictions"]] == [expected] * 2
    for value in ("false", ""):
        assert "explanation" not in predict(two_versions, explain=value).json()["predictions"][0]


def test_an_image_as_the_body_is_explained_too(two_versions: Web) -> None:
    response = two_versions(
        "POST", "/predict?client=line&explain=true", content=PNG, headers={"Content-Type": "image/png"}
    )
    assert response.json()["predictions"][0]["explanation"]["columns"] == 2


def test_another_value_than_true_or_false_is_rejected(web: Web) -> None:
    response = predict(web, explain="yes")
    assert (response.status_code, response.json()["code"]) == (422, "field_invalid")
    assert "allowed: false or true" in response.json()["detail"]


def test_at_most_eight_images_are_explained(services: FakeServices) -> None:
    with started(create_app(load_settings(max_files=9), lambda _: services), services) as web:
        web.adapt()
        assert predict(web, images=8, explain="true").status_code == 200
        response = predict(web, images=9, explain="true")
        assert (response.status_code, response.json()["code"]) == (422, "field_invalid")
        assert "has 9 images; allowed: at most 8" in response.json()["detail"]
        assert predict(web, images=9).status_code == 200
        with Client(transport=InProcess(web)) as anole:
            explained = anole.predict("line", [PNG] * 17, explain=True).predictions
        assert len(explained) == 17
        assert all(prediction.explanation is not None for prediction in explained)


def test_a_model_that_cannot_be_explained_says_why(two_versions: Web) -> None:
    two_versions.services.prediction.raises = ExplanationUnsupported("the stages return tokens")
    response = predict(two_versions, explain="true")
    assert (response.status_code, response.json()["code"]) == (422, "explanation_unsupported")
    assert response.json()["detail"] == "the stages return tokens"
