"""Explained predictions: those of the batcher, each with a map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest

from models.errors import ImageFormatUnsupported
from models.images.preprocessing import DecodeLimits
from service.errors import NothingLive, UnknownClient, UnknownVersion
from service.runtime.checkpoints import LoadedCheckpoints
from service.runtime.decoder import InlineDecoder, Upload
from service.runtime.weight_cache import WeightCache
from service.store.version_store import VersionStore
from service.usecases.adapt import Adaptation
from service.usecases.explain import ExplainedPrediction
from service.usecases.predict import PredictCommand, Prediction
from tests.generated import striped
from tests.unit.service.usecases.adapting import CLIENT, adapt, command

UPLOADS = [Upload(f"{index}.png", content) for index, content in enumerate(striped(1, 4, 9) + striped(1, 13, 9))]


@pytest.fixture
def prediction(store: VersionStore, checkpoints: LoadedCheckpoints) -> Iterator[Prediction]:
    predicts = Prediction(store, checkpoints, WeightCache(2**20), InlineDecoder(DecodeLimits(min_side=8)))
    yield predicts
    predicts.close()


@pytest.fixture
def explained(
    prediction: Prediction, store: VersionStore, checkpoints: LoadedCheckpoints
) -> Iterator[ExplainedPrediction]:
    explains = ExplainedPrediction(prediction, store, checkpoints)
    yield explains
    explains.close()


def test_an_explained_prediction_is_the_prediction_with_a_map(
    adaptation: Adaptation, prediction: Prediction, explained: ExplainedPrediction
) -> None:
    adapt(adaptation, command(samples=3))
    adapt(adaptation, command(samples=2, seed=1, publish="never"))
    for reference, version in (("live", 1), ("2", 2)):
        plain = prediction.run(CLIENT, UPLOADS, reference)
        outcome = explained.submit(CLIENT, UPLOADS, reference).result()
        assert (outcome.version, outcome.weights_digest) == (version, plain.weights_digest)
        for with_map, without in zip(outcome.predictions, plain.predictions, strict=True):
            assert (with_map.name, with_map.label, with_map.scores) == (without.name, without.label, without.scores)
            assert without.explanation is None
            places = with_map.explanation
            assert places is not None
            assert (places.rows, places.columns) == (24, 24) == (len(places.values), len(places.values[0]))
            assert max(map(max, places.values)) == 1.0
            assert all(value == round(value, 3) for row in places.values for value in row)
            assert min(map(min, places.values)) >= 0.0


def test_errors_are_those_of_a_prediction(adaptation: Adaptation, explained: ExplainedPrediction) -> None:
    with pytest.raises(UnknownClient):
        explained.submit(CLIENT, UPLOADS).result()
    adapt(adaptation, command(publish="never"))
    with pytest.raises(NothingLive):
        explained.submit(CLIENT, UPLOADS).result()
    with pytest.raises(UnknownVersion):
        explained.submit(CLIENT, UPLOADS, "2").result()
    with pytest.raises(ImageFormatUnsupported, match=r"a\.txt"):
        explained.submit(CLIENT, [Upload("a.txt", b"text")], "1").result()
    assert explained.submit(CLIENT, UPLOADS, "1").result().version == 1


def test_a_successor_of_the_client_does_not_explain_a_prediction_of_its_predecessor(
    adaptation: Adaptation, store: VersionStore, checkpoints: LoadedCheckpoints
) -> None:
    class Overtaken(Prediction):
        def predict_batch(self, commands: Sequence[PredictCommand]) -> Iterator[Any]:
            predicted = list(super().predict_batch(commands))
            store.delete_client(CLIENT)
            adapt(adaptation, command(seed=1, labels=("new", "newer")))
            return iter(predicted)

    adapt(adaptation, command())
    prediction = Overtaken(store, checkpoints, WeightCache(2**20), InlineDecoder(DecodeLimits(min_side=8)))
    with (
        closing(prediction),
        closing(ExplainedPrediction(prediction, store, checkpoints)) as explained,
        pytest.raises(UnknownVersion, match="was deleted"),
    ):
        explained.submit(CLIENT, UPLOADS).result()
