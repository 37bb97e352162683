"""One store under several checkpoints: versions outlive a new default, and loading a checkpoint delays nobody else."""

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
from service.runtime.checkpoints import LoadedCheckpoints
from service.runtime.decoder import InlineDecoder, Upload
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.runtime.weight_cache import WeightCache
from service.settings import Settings
from service.usecases.predict import Prediction
from tests.generated import striped
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
