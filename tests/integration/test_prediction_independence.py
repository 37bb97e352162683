"""Predictions depend on the image and the version alone, and concurrent extensions lose no samples."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from service import bootstrap
from service.bootstrap import Services
from service.runtime.decoder import Upload
from service.settings import Settings
from service.usecases import predict
from service.usecases.adapt_command import AdaptCommand
from tests.generated import striped

PERIODS = (5, 9, 15, 25)
TOLERANCE = 1e-5


@pytest.fixture(params=[1, 3], ids=["one at a time", "three at a time"])
def services(settings: Settings, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    monkeypatch.setattr(predict, "BATCHES", 3)
    built = bootstrap.build(settings.model_copy(update={"adapt_running": request.param}))
    yield built
    built.close()


def command(client: str, periods: tuple[int, ...], seed: int = 0) -> AdaptCommand:
    uploads = [(period, content) for period in periods for content in striped(3, period, seed)]
    return AdaptCommand(
        client=client,
        uploads=tuple(Upload(f"{index}.png", content) for index, (_, content) in enumerate(uploads)),
        labels=tuple(f"pitch {period}" for period, _ in uploads),
        publish="always",
    )


def test_a_prediction_does_not_depend_on_the_batch_the_order_or_other_clients(services: Services) -> None:
    clients = {"ada": PERIODS[:2], "bo": PERIODS[1:], "cy": PERIODS}
    for seed, (client, periods) in enumerate(clients.items()):
        services.adaptation.run(command(client, periods, seed))
    images = [
        Upload(f"{period}-{index}", content)
        for period in PERIODS
        for index, content in enumerate(striped(4, period, 7))
    ]
    predictions = {
        (client, image.name): services.prediction.run(client, [image]).predictions[0]
        for client in clients
        for image in images
    }
    alone = {key: prediction.scores for key, prediction in predictions.items()}
    familiarities = {key: prediction.familiarity for key, prediction in predictions.items()}
    assert all(familiarity is not None and 0 < familiarity < 1 for familiarity in familiarities.values())
    assert len(set(familiarities.values())) > len(images)
    draws = random.Random(0)
    batches = [(draws.choice(list(clients)), draws.sample(images, draws.randint(1, 16))) for _ in range(30)]
    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(lambda batch: services.prediction.run(*batch), batches))
    for outcome in outcomes:
        for prediction in outcome.predictions:
            expected = alone[outcome.client, prediction.name]
            assert prediction.scores.keys() == expected.keys()
            for label, score in prediction.scores.items():
                assert abs(score - expected[label]) <= TOLERANCE, (outcome.client, prediction.name, label)
            assert prediction.familiarity == pytest.approx(
                familiarities[outcome.client, prediction.name], abs=TOLERANCE
            )


def test_a_version_predicts_the_same_after_later_versions_and_a_restart(services: Services, settings: Settings) -> None:
    services.adaptation.run(command("ada", PERIODS[:2]))
    image = [Upload("query", striped(1, PERIODS[0], 9)[0])]
    before = services.prediction.run("ada", image)
    services.adaptation.run(replace(command("ada", PERIODS[2:]), mode="extend"))
    assert services.prediction.run("ada", image).version == 2
    after = services.prediction.run("ada", image, "1")
    assert (after.weights_digest, after.predictions) == (before.weights_digest, before.predictions)
    again = bootstrap.build(settings)
    try:
        assert again.prediction.run("ada", image, "1").predictions == before.predictions
    finally:
        again.close()


def test_concurrent_extensions_of_one_client_lose_no_samples(services: Services) -> None:
    services.adaptation.run(command("ada", PERIODS[:2]))
    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(lambda seed: services.adaptation.run(command("ada", PERIODS[2:], seed)), (1, 2, 3)))
    assert sorted(outcome.version.number for outcome in outcomes) == [2, 3, 4]
    last = max((outcome.version for outcome in outcomes), key=lambda version: version.number)
    assert last.draft.parent == 3
    assert len(last.draft.samples) == 6 + 3 * 6


def current_random_states() -> tuple[object, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())  # noqa: NPY002


@pytest.mark.slow
def test_ten_thousand_requests_leave_the_checkpoint_and_all_random_states_unchanged(settings: Settings) -> None:
    built = bootstrap.build(settings.model_copy(update={"decoder_processes": 0}))
    image, other = (Upload("a.png", striped(1, period, 7)[0]) for period in PERIODS[:2])
    try:
        before = built.adaptation.run(command("ada", PERIODS[:2])).version.draft.weights_digest
        random_states = current_random_states()
        for round_ in range(100):
            futures = [built.prediction.submit("ada", [image if turn % 3 else other]) for turn in range(100)]
            scores = [future.result().predictions[0].scores for future in futures]
            for label, score in scores[1].items():
                assert all(abs(scores[turn][label] - score) <= TOLERANCE for turn in (2, 4))
            if round_ % 25 == 24:
                built.adaptation.run(command("bo", PERIODS[:3], round_))
                assert built.readiness.report().ready
        assert built.readiness.report().checks["meta_model"] == "ok"
        assert current_random_states() == random_states
        assert built.adaptation.run(command("cy", PERIODS[:2])).version.draft.weights_digest == before
    finally:
        built.close()
