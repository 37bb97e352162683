"""The client's setting `uncertainty`, through the API with the real use cases and store."""

from __future__ import annotations

import math
from typing import Any

import pytest

from service import bootstrap
from service.http.app import create_app
from service.settings import Settings
from tests.generated import striped
from tests.in_process import Web, started
from tests.integration.test_validated_service import adapt, images
from tests.repeated import repeats_bit_by_bit


def predict(web: Web, contents: list[bytes], **fields: Any) -> list[dict[str, Any]]:
    files = [("images", (f"{index}.png", content)) for index, content in enumerate(contents)]
    response = web("POST", "/predict", data={"client": "line", **fields}, files=files)
    assert response.status_code == 200, response.text
    predictions: list[dict[str, Any]] = response.json()["predictions"]
    return predictions


def numbers(prediction: dict[str, Any]) -> dict[str, float]:
    return {**prediction["scores"], **prediction["uncertainty"]}


QUERIES = [*striped(3, 4, seed=5), *striped(3, 7, seed=5), *striped(3, 13, seed=5)]


def test_versions_of_a_client_with_uncertainty_bayes_say_how_uncertain_they_are(web: Web) -> None:
    adapt(web, images(3), publish="always")
    web("PUT", "/clients/line/settings", json={"uncertainty": "bayes"})
    few = adapt(web, images(3), mode="replace", publish="always")
    many = adapt(web, images(12), mode="replace", publish="always")
    assert few["weights"]["digest"] != many["weights"]["digest"]
    assert all("uncertainty" not in prediction for prediction in predict(web, QUERIES, version="1"))
    assert web("GET", "/clients/line/versions/3").json()["recipe"]["uncertainty"] == "bayes"
    found = predict(web, QUERIES)
    for prediction in found:
        total, data, model = (prediction["uncertainty"][part] for part in ("total", "data", "model"))
        entropy = -sum(score * math.log(score) for score in prediction["scores"].values() if score)
        assert total == pytest.approx(entropy, abs=1e-4)
        assert total == pytest.approx(data + model, abs=3e-6)
        assert prediction["confidence"] == max(prediction["scores"].values())
    assert max(prediction["uncertainty"]["model"] for prediction in found) > 0
    assert 0.1 < many["report"]["temperature"] < 10


def test_an_averaged_prediction_is_the_same_alone_among_others_and_with_an_explanation(web: Web) -> None:
    web("PUT", "/clients/line/settings", json={"uncertainty": "bayes"})
    adapt(web, images(4), publish="always")
    together = predict(web, QUERIES)
    for content, prediction in zip(QUERIES, together, strict=True):
        (alone,) = predict(web, [content])
        assert alone["label"] == prediction["label"]
        assert numbers(alone) == pytest.approx(numbers(prediction), abs=1e-5)  # the net's own rounding
    explained = predict(web, QUERIES[:2], explain="true")
    for one, prediction in zip(explained, together[:2], strict=True):
        assert numbers(one) == pytest.approx(numbers(prediction), abs=1e-5)


def test_an_averaging_version_is_made_again_bit_for_bit_from_its_record_and_predicts_alike_after_a_restart(
    settings: Settings,
) -> None:
    settings = settings.model_copy(update={"predict_s": 120.0})  # the first image waits for a decoder process to start
    services = bootstrap.build(settings)
    with started(create_app(settings, lambda _: services), services) as web:
        web("PUT", "/clients/line/settings", json={"uncertainty": "bayes"})
        adapt(web, images(), publish="always", seed="5")
        before = predict(web, QUERIES)
    again = bootstrap.build(settings)
    with started(create_app(settings, lambda _: again), again) as web:
        assert predict(web, QUERIES) == before
    assert repeats_bit_by_bit(settings, "line", 1)
