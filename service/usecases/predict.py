"""Use case: images and a version in, verdicts out. An answer depends on the image and the version alone."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Literal

from torch import Tensor

from models.errors import AnoleError
from models.inference.predict import Predictions
from models.inference.predictor import PredictionRequest, ServingWeights
from service.domain.version import LIVE, ServedVersion
from service.errors import NoSamples, NothingLive, UnknownAlias
from service.runtime.decoding.decoder import Decoder
from service.runtime.loaded_checkpoint import LoadedCheckpoint, LoadedCheckpoints
from service.runtime.predict_batcher import PredictBatcher
from service.runtime.weight_cache import WeightCache
from service.store.served_reads import ServedReads
from service.store.version_store import VersionStore
from service.usecases.uploads import Upload, decode_upload

SCORE_DIGITS = 6
"""Scores are rounded: enough to rank, too little to read weights from."""

BATCH_IMAGES: Final = 16
"""Images of one batch; a request with more is a batch of its own."""

BATCHES: Final = 2
"""Batches that run at the same time."""

WAITING_IMAGES: Final = 32
"""Images that may wait for a batch; a request that would exceed them is rejected."""


@dataclass(frozen=True, slots=True)
class ImagePrediction:
    """One image's verdict.

    Attributes:
        name: what the sender called the image.
        label: the most probable class.
        confidence: its probability.
        scores: class name -> probability.
        familiarity: how much it looks like one of the classes at all, 0 to 1; None for versions without class means.
        verdict: "unknown" if the familiarity is below the version's threshold; "known" where there is none.
    """

    name: str
    label: str
    confidence: float
    scores: Mapping[str, float]
    familiarity: float | None
    verdict: Literal["known", "unknown"]


@dataclass(frozen=True, slots=True)
class PredictOutcome:
    """All images' verdicts and the version that gave them."""

    client: str
    version: int
    weights_digest: str
    predictions: tuple[ImagePrediction, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Request:
    client: str
    uploads: tuple[Upload, ...]
    reference: str


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A request whose version is known and whose images are canonical."""

    request: _Request
    version: ServedVersion
    learner: LoadedCheckpoint
    images: Sequence[Tensor]


class Prediction:
    """Judges images by stored versions; requests that arrive together go through the net together.

    Args:
        store: where versions are kept.
        learners: the checkpoints that versions were adapted from.
        weights: cache of serving weights.
        decoder: turns bytes into images.
    """

    def __init__(
        self,
        store: VersionStore,
        learners: LoadedCheckpoints,
        weights: WeightCache,
        decoder: Decoder,
    ) -> None:
        self._store = store
        self._served = ServedReads(store)
        self._learners = learners
        self._weights = weights
        self._decoder = decoder
        self._batcher: PredictBatcher[_Request, PredictOutcome] = PredictBatcher(self._answers, BATCH_IMAGES, BATCHES)

    def run(self, client: str, uploads: Sequence[Upload], reference: str = LIVE) -> PredictOutcome:
        """Judge images by the version that `reference`, an alias or a number, names now. Blocks.

        Raises:
            NoSamples, ImageRejected, UnknownClient, UnknownVersion, UnknownAlias, NothingLive, UnknownCheckpoint,
            VersionCorrupt, DecoderUnavailable, StoreUnavailable, Overloaded.
        """
        return self.submit(client, uploads, reference).result()

    def submit(self, client: str, uploads: Sequence[Upload], reference: str = LIVE) -> Future[PredictOutcome]:
        """As `run`, to be waited for; cancelling it takes it back, until it has begun.

        Raises:
            NoSamples, Overloaded: at once; the others come out of what is returned.
        """
        if not uploads:
            raise NoSamples("no images came; send at least one")
        return self._batcher.submit(_Request(client, tuple(uploads), reference), len(uploads))

    def metrics(self) -> Mapping[str, float]:
        """Counters and gauges by name."""
        return {**self._weights.metrics(), **self._batcher.metrics()}

    def close(self) -> None:
        """End the batches at hand; whoever still waits gets Overloaded."""
        self._batcher.close()

    def _answers(self, requests: Sequence[_Request]) -> Iterator[tuple[int, PredictOutcome | Exception]]:
        """Answer requests together, each by itself: what one of them ends with is no matter of the others.

        Those whose weights are in memory are answered before anything is read for the others.
        """
        began = time.monotonic()
        served = self._served.now([_named(one) for one in requests])
        decoded: dict[int, _Decoded] = {}
        for place, (request, version) in enumerate(zip(requests, served, strict=True)):
            one = self._decoded(request, version)
            if isinstance(one, _Decoded):
                decoded[place] = one
            else:
                yield place, one
        held = {place: self._weights.held(one.version) for place, one in decoded.items()}
        yield from self._judged(decoded, {place: one for place, one in held.items() if one is not None}, began)
        read: dict[int, ServingWeights] = {}
        for place in (place for place, one in held.items() if one is None):
            try:
                read[place] = self._weights_of(decoded[place].version, decoded[place].learner)
            except Exception as error:  # noqa: BLE001 - it is this request's answer
                yield place, error
        yield from self._judged(decoded, read, began)

    def _weights_of(self, version: ServedVersion, learner: LoadedCheckpoint) -> ServingWeights:
        """The version's serving weights, from the cache or the store.

        Raises:
            UnknownClient, UnknownVersion, VersionCorrupt, StoreUnavailable: the store does not have them.
        """

        def load() -> ServingWeights:
            delta = self._store.version_weights(self._store.version(version.client, version.number))
            return learner.serving_weights(delta, 1.0 if version.temperature is None else version.temperature)

        return self._weights.get(version, load)

    def _decoded(self, request: _Request, served: ServedVersion | AnoleError) -> _Decoded | Exception:
        try:
            if isinstance(served, AnoleError):
                raise served
            learner = self._learners.get(served.meta_model_digest, served.meta_model)
            images = [decode_upload(upload, self._decoder) for upload in request.uploads]
        except UnknownAlias as error:
            return _nothing_live(request.client) if request.reference == LIVE else error
        except Exception as error:  # noqa: BLE001 - it is this request's answer
            return error
        return _Decoded(request, served, learner, images)

    @staticmethod
    def _judged(
        decoded: Mapping[int, _Decoded], weights: Mapping[int, ServingWeights], began: float
    ) -> Iterator[tuple[int, PredictOutcome]]:
        """Judge the requests whose weights are given; images for the same weights are one piece."""
        pieces: dict[tuple[LoadedCheckpoint, int], list[int]] = {}
        for place, own in weights.items():
            pieces.setdefault((decoded[place].learner, id(own)), []).append(place)
        for learner in {learner for learner, _ in pieces}:
            mine = [places for (other, _), places in pieces.items() if other is learner]
            images = learner.preprocess(
                [image for places in mine for place in places for image in decoded[place].images]
            )
            ends = itertools.accumulate(sum(len(decoded[place].images) for place in places) for places in mine)
            cuts = itertools.pairwise([0, *ends])
            asked = [
                PredictionRequest(weights[places[0]], images[first:last])
                for places, (first, last) in zip(mine, cuts, strict=True)
            ]
            for places, judged in zip(mine, learner.predictor.predict(asked), strict=True):
                yield from _outcomes({place: decoded[place] for place in places}, judged, began)


def _named(request: _Request) -> tuple[str, str | int]:
    reference = request.reference
    return request.client, int(reference) if reference.isdigit() else reference


def _nothing_live(client: str) -> NothingLive:
    return NothingLive(
        f"client {client!r} has no live version; publish one with PUT /clients/{client}/aliases/live, "
        "or name a version in the request"
    )


def _outcomes(
    decoded: Mapping[int, _Decoded], judged: Predictions, began: float
) -> Iterator[tuple[int, PredictOutcome]]:
    """Answers of requests whose images were judged as one piece, in their order."""
    rows, familiarity = judged.probabilities.tolist(), judged.in_distribution
    answers = iter(zip(rows, [None] * len(rows) if familiarity is None else familiarity.tolist(), strict=True))
    for place, one in decoded.items():
        predictions = tuple(_verdict(upload.name, one.version, *next(answers)) for upload in one.request.uploads)
        yield (
            place,
            PredictOutcome(
                client=one.request.client,
                version=one.version.number,
                weights_digest=one.version.weights_digest,
                predictions=predictions,
                seconds=time.monotonic() - began,
            ),
        )


def _verdict(
    name: str, version: ServedVersion, probabilities: Sequence[float], familiarity: float | None
) -> ImagePrediction:
    scores = {
        label: round(probability, SCORE_DIGITS)
        for label, probability in zip(version.classes, probabilities, strict=True)
    }
    label = max(scores, key=scores.__getitem__)
    threshold = version.unknown_threshold
    known = threshold is None or familiarity is None or familiarity >= threshold
    shown = None if familiarity is None else round(familiarity, SCORE_DIGITS)
    return ImagePrediction(name, label, scores[label], scores, shown, "known" if known else "unknown")
