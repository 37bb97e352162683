"""Requests of different clients in one batch: each gets the same prediction as alone, from the live version."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from models.errors import ImageCorrupt
from service import bootstrap
from service.bootstrap import Services
from service.errors import NothingLive, UnknownClient, UnknownVersion
from service.runtime.decoder import Upload
from service.settings import Settings
from service.usecases.predict import PredictCommand, Prediction, PredictOutcome
from tests.generated import striped
from tests.integration.test_prediction_independence import PERIODS, TOLERANCE, command


@pytest.fixture
def services(settings: Settings) -> Iterator[Services]:
    built = bootstrap.build(settings)
    yield built
    built.close()


def upload(period: int, seed: int = 9) -> Upload:
    return Upload(f"{period}-{seed}", striped(1, period, seed)[0])


def predict_in_one_batch(prediction: Prediction, requests: list[PredictCommand]) -> list[PredictOutcome | Exception]:
    """Predict all requests in one batch. Return the outcomes in the order of the requests."""
    outcomes = [outcome for _, outcome in sorted(prediction.predict_batch(requests))]
    return [outcome for outcome in outcomes if isinstance(outcome, PredictOutcome | Exception)]


def scores(outcome: PredictOutcome | Exception) -> list[float]:
    assert isinstance(outcome, PredictOutcome)
    return [score for image in outcome.predictions for score in image.scores.values()]


def test_each_request_of_a_mixed_batch_gets_the_outcome_that_it_gets_alone(services: Services) -> None:
    for seed, (client, periods) in enumerate([("ada", PERIODS[:2]), ("bo", PERIODS)]):
        services.adaptation.run(command(client, periods, seed))
    services.adaptation.run(command("ada", PERIODS[2:]))
    assert isinstance(services.prediction, Prediction)
    command_of = services.prediction.command
    good = [
        command_of("ada", (upload(5), upload(9)), "live"),
        command_of("ada", (upload(15),), "1"),
        command_of("bo", (upload(25), upload(5), upload(9)), "live"),
        command_of("ada", (upload(25, 3),), "live"),
    ]
    bad = [
        command_of("missing", (upload(5),), "live"),
        command_of("bo", (upload(5), Upload("torn", upload(5).content[:200])), "live"),
        command_of("bo", (upload(5),), "7"),
    ]
    mixed = predict_in_one_batch(services.prediction, [good[0], bad[0], good[1], bad[1], good[2], bad[2], good[3]])
    for request, outcome in zip(good, mixed[::2], strict=True):
        alone = services.prediction.run(request.client, request.uploads, request.reference)
        assert scores(outcome) == pytest.approx(scores(alone), abs=TOLERANCE)
        assert isinstance(outcome, PredictOutcome)
        assert (outcome.client, outcome.version) == (alone.client, alone.version)
        assert [image.name for image in outcome.predictions] == [upload.name for upload in request.uploads]
    assert [type(outcome) for outcome in mixed[1::2]] == [UnknownClient, ImageCorrupt, UnknownVersion]


def test_a_small_cache_gives_the_same_predictions_as_a_large_one(settings: Settings) -> None:
    large = bootstrap.build(settings)
    expected_scores: dict[str, list[float]] = {}
    for seed in range(4):
        large.adaptation.run(command(f"line-{seed}", PERIODS[:3], seed))
        expected_scores[f"line-{seed}"] = scores(large.prediction.run(f"line-{seed}", [upload(5)]))
    large.close()
    small = bootstrap.build(settings.model_copy(update={"cache_bytes": 20 * 1024}))
    for _ in range(2):
        for client, expected in expected_scores.items():
            assert scores(small.prediction.run(client, [upload(5)])) == expected
    metrics = small.metrics()
    small.close()
    assert metrics["weight_cache_evictions_total"] > 0
    assert metrics["weight_cache_bytes"] <= 20 * 1024


def test_the_next_request_in_every_process_uses_the_moved_alias(settings: Settings) -> None:
    here, there = bootstrap.build(settings), bootstrap.build(settings)
    try:
        with pytest.raises(UnknownClient):
            there.prediction.run("ada", [upload(5)])
        for live in (1, 2, 3):
            here.adaptation.run(command("ada", PERIODS[:2], live))
            assert there.prediction.run("ada", [upload(5)]).version == live
        here.clients.move_alias("ada", "live", 1, None)
        assert there.prediction.run("ada", [upload(5)]).version == 1
        assert there.clients.rollback("ada").version == 3
        assert here.prediction.run("ada", [upload(5)]).version == 3
        here.clients.delete_version("ada", 2)
        with pytest.raises(UnknownVersion):
            there.prediction.run("ada", [upload(5)], "2")
        here.clients.delete("ada")
        with pytest.raises(UnknownClient):
            there.prediction.run("ada", [upload(5)])
    finally:
        here.close()
        there.close()


def test_a_client_without_a_published_version_has_nothing_live(services: Services) -> None:

    services.adaptation.run(replace(command("ada", PERIODS[:2]), publish="never"))
    with pytest.raises(NothingLive):
        services.prediction.run("ada", [upload(5)])
    assert services.prediction.run("ada", [upload(5)], "1").version == 1
