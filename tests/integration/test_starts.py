"""One store under several checkpoints: a new default keeps earlier versions, and loading delays no other request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from models.checkpoint import load_checkpoint
from models.images.preprocessing import DEFAULT_LIMITS
from service import bootstrap
from service.bootstrap import Services
from service.errors import InvalidSettings, UnknownCheckpoint
from service.http.app import create_app
from service.runtime.checkpoints import LoadedCheckpoints
from service.runtime.decoder import InlineDecoder, Upload
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.runtime.weight_cache import WeightCache
from service.settings import Settings, load_settings
from service.usecases.predict import Prediction
from tests.generated import striped
from tests.in_process import Web, started
from tests.integration.test_api_service import adapt, predict
from tests.integration.test_prediction_independence import command

LIMIT_S = 60
PERIODS = (6, 20)
IMAGE = Upload("fine.png", striped(1, 6, seed=9)[0])


@contextmanager
def served(settings: Settings, *models: str) -> Iterator[Services]:
    services = bootstrap.build(settings.model_copy(update={"model": models, "decoder_processes": 0}))
    yield services
    services.close()


def test_versions_of_a_shipped_checkpoint_predict_the_same_under_any_other_default(settings: Settings) -> None:
    with served(settings, "surfaces") as services:
        services.adaptation.run(command("line", PERIODS))
        before = services.prediction.run("line", [IMAGE])
        weights = services.clients.weights("line", 1)
    for model in ("paper", *settings.model):
        with served(settings, model) as services:
            assert services.prediction.run("line", [IMAGE]).predictions == before.predictions
            assert services.clients.weights("line", 1) == weights


def test_a_checkpoint_file_that_is_no_longer_given_is_named(settings: Settings) -> None:
    with served(settings, *settings.model) as services:
        services.adaptation.run(command("line", PERIODS))
    with served(settings, "paper") as services, pytest.raises(UnknownCheckpoint, match=r"'tiny'.*--model"):
        services.prediction.run("line", [IMAGE])


def test_two_models_of_one_name_are_rejected_at_start(settings: Settings) -> None:
    with (
        pytest.raises(InvalidSettings, match="two models are called 'surfaces'"),
        served(settings, "surfaces", "surfaces-small"),
    ):
        pass


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """Start a service that offers omniglot and surfaces."""
    folder = tmp_path_factory.mktemp("several")
    settings = load_settings(data=folder, model=["omniglot", "surfaces"], device="cpu", demo=False, decoder_processes=0)
    services = bootstrap.build(settings)
    with started(create_app(settings, lambda _: services), services) as web:
        yield web


def test_all_offered_models_are_listed_and_the_default_comes_first(several: Web) -> None:
    assert [model["name"] for model in several("GET", "/models").json()["models"]] == ["omniglot", "surfaces"]
    assert several("GET", "/models/surfaces-small").json()["name"] == "surfaces"
    assert several("GET", "/models/paper").json()["code"] == "unknown_meta_model"


def test_a_client_can_only_choose_a_model_that_is_offered(several: Web) -> None:
    for method in ("PUT", "PATCH"):
        response = several(method, "/clients/chooser/settings", json={"model": "huge"})
        assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
        assert response.json()["detail"] == (
            "there is no model 'huge'; the available models are omniglot, surfaces; "
            "`anole serve --model NAME`, given several times, offers others"
        )
    assert several("GET", "/clients/chooser").status_code == 404


def test_an_extension_moves_a_client_to_the_model_that_it_chose(several: Web) -> None:
    first = adapt(several, "extended", publish="always").json()
    several("PATCH", "/clients/extended/settings", json={"model": "surfaces-small"})
    second = adapt(several, "extended", image_seed=1, publish="always").json()
    assert [(made["model"], made["parent"], made["live"]) for made in (first, second)] == [
        ("omniglot", None, 1), ("surfaces", 1, 2)
    ]  # fmt: skip
    versions = several("GET", "/clients/extended/versions").json()["versions"]
    assert [(version["model"], version["samples"]) for version in versions] == [("omniglot", 8), ("surfaces", 16)]
    for version in ("1", "2"):
        predicted = predict(several, striped(1, 6, seed=9), "extended", version=version).json()
        assert predicted["predictions"][0]["label"] == "fine"


def test_an_upgrade_is_compared_with_the_live_version_and_can_be_rolled_back(several: Web) -> None:
    first = adapt(several, "upgraded", publish="always").json()
    assert several("POST", "/clients/upgraded/upgrade").json()["code"] == "nothing_to_upgrade"
    several("PATCH", "/clients/upgraded/settings", json={"model": "surfaces"})
    response = several("POST", "/clients/upgraded/upgrade")
    upgraded, report = response.json(), response.json()["report"]
    assert (response.status_code, upgraded["version"], upgraded["model"]) == (201, 2, "surfaces")
    assert upgraded["before"] == {
        "version": 1,
        "model": "omniglot",
        "estimated_accuracy": first["report"]["estimated_accuracy"],
        "interval": first["report"]["interval"],
    }
    assert upgraded["published"] == (report["gate"]["decision"] == "publish")
    assert upgraded["live"] == (2 if upgraded["published"] else 1)
    diff = several("GET", "/clients/upgraded/versions/1/diff/2").json()
    assert (diff["samples_kept"], diff["samples_added"], diff["samples_removed"]) == (8, 0, 0)
    several("PUT", "/clients/upgraded/aliases/live", json={"version": 1})
    assert several("POST", "/clients/upgraded/upgrade", params={"publish": "always"}).json()["live"] == 3
    assert several("POST", "/clients/upgraded/rollback").json()["version"] == 1


def test_predictions_of_other_clients_do_not_wait_for_a_checkpoint_to_load(settings: Settings) -> None:
    for client, model in (("old", "paper"), ("new", "surfaces")):
        with served(settings, model) as services:
            services.adaptation.run(command(client, PERIODS))
    cpu = torch.device("cpu")
    new, old = (LoadedCheckpoint(load_checkpoint(name), cpu) for name in ("surfaces", "paper"))
    loading, finish = threading.Event(), threading.Event()

    def load() -> LoadedCheckpoint:
        loading.set()
        assert finish.wait(LIMIT_S)
        return old

    with bootstrap.open_store(settings) as store:
        checkpoints = LoadedCheckpoints([new], {old.digest: load})
        prediction = Prediction(store, checkpoints, WeightCache(2**20), InlineDecoder(DEFAULT_LIMITS))
        waiting = [prediction.submit("old", [IMAGE]) for _ in range(4)]
        assert loading.wait(LIMIT_S)
        assert prediction.submit("new", [IMAGE]).result(LIMIT_S).client == "new"
        assert not any(answer.done() for answer in waiting)
        finish.set()
        assert {answer.result(LIMIT_S).client for answer in waiting} == {"old"}
        assert prediction.run("old", [IMAGE]).predictions == waiting[0].result().predictions
        prediction.close()
        checkpoints.close()
