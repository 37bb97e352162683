"""Use case: images and a version in, verdicts out. An answer depends on the image and the version alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from models.weights import Weights
from service.domain import LIVE, ServedVersion
from service.engine.decoder import Decoder
from service.engine.learner import Learner, Learners
from service.engine.turns import Turns
from service.engine.weight_cache import WeightCache
from service.errors import NoSamples, NothingLive, UnknownAlias
from service.store.weight_store import WeightStore
from service.uploads import Upload, decode_upload

SCORE_DIGITS = 6
"""Scores are rounded: enough to rank, too little to read weights from."""


@dataclass(frozen=True, slots=True)
class ImagePrediction:
    """One image's verdict.

    Attributes:
        name: what the sender called the image.
        label: the most probable class.
        confidence: its probability.
        scores: class name -> probability.
        verdict: "unknown" if the confidence is below the version's threshold; "known" where it has none.
    """

    name: str
    label: str
    confidence: float
    scores: Mapping[str, float]
    verdict: Literal["known", "unknown"]


@dataclass(frozen=True, slots=True)
class PredictOutcome:
    """All images' verdicts and the version that gave them."""

    client: str
    version: int
    weights_digest: str
    predictions: tuple[ImagePrediction, ...]
    seconds: float


class Prediction:
    """Judges images by stored versions; blocks, so call it in a worker thread.

    Args:
        store: where versions are kept.
        learners: the checkpoints that versions were adapted from.
        cache: of folded weights.
        decoder: turns bytes into images.
        turns: how many run at the same time; the others wait.
    """

    def __init__(
        self,
        store: WeightStore,
        learners: Learners,
        cache: WeightCache,
        decoder: Decoder,
        turns: Turns | None = None,
    ) -> None:
        self._store = store
        self._learners = learners
        self._cache = cache
        self._decoder = decoder
        self._turns = turns or Turns(2)

    def run(self, client: str, uploads: Sequence[Upload], reference: str = LIVE) -> PredictOutcome:
        """Judge images by the version that `reference`, an alias or a number, names now.

        Raises:
            NoSamples, ImageRejected, UnknownClient, UnknownVersion, UnknownAlias, NothingLive, UnknownMetaModel,
            VersionCorrupt, DecoderUnavailable, StoreUnavailable.
        """
        with self._turns.taken():
            return self._run(client, uploads, reference)

    def _run(self, client: str, uploads: Sequence[Upload], reference: str) -> PredictOutcome:
        began = time.monotonic()
        if not uploads:
            raise NoSamples("no images came; send at least one")
        version = self._version(client, reference)
        learner = self._learners.of(version.meta_model_digest, version.meta_model)
        images = [decode_upload(upload, self._decoder) for upload in uploads]
        probabilities = learner.classify(self._weights(version, learner), images)
        predictions = [
            _verdict(upload.name, version, row) for upload, row in zip(uploads, probabilities.tolist(), strict=True)
        ]
        return PredictOutcome(
            client=client,
            version=version.number,
            weights_digest=version.weights_digest,
            predictions=tuple(predictions),
            seconds=time.monotonic() - began,
        )

    def _version(self, client: str, reference: str) -> ServedVersion:
        try:
            return self._store.served(client, int(reference) if reference.isdigit() else reference)
        except UnknownAlias as error:
            if reference != LIVE:
                raise
            raise NothingLive(
                f"client {client!r} has no live version; publish one with PUT /clients/{client}/aliases/live, "
                "or name a version in the request"
            ) from error

    def _weights(self, served: ServedVersion, learner: Learner) -> Weights:
        def load() -> Weights:
            return learner.fold(self._store.version_weights(self._store.version(served.client, served.number)))

        return self._cache.get((served.client, served.meta_model_digest, served.weights_digest), load)


def _verdict(name: str, version: ServedVersion, probabilities: Sequence[float]) -> ImagePrediction:
    scores = {
        label: round(probability, SCORE_DIGITS)
        for label, probability in zip(version.classes, probabilities, strict=True)
    }
    label = max(scores, key=scores.__getitem__)
    threshold = version.unknown_threshold
    known = threshold is None or scores[label] >= threshold
    return ImagePrediction(name, label, scores[label], scores, "known" if known else "unknown")
