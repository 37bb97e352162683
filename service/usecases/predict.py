"""POST /predict: predicts the classes of images with a stored version.

A prediction depends on the image and the version alone, not on the other requests in its batch.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final

from torch import Tensor

from models.errors import AnoleError
from models.inference.predict import Predictions, ServingWeights
from models.modalities.given import Given
from models.nets.head_posterior import Uncertainty as PredictedUncertainty
from service import tracing
from service.domain.modality import IMAGE, require_taken
from service.domain.prediction import ImagePrediction, Uncertainty, image_prediction
from service.domain.version import LIVE, SCORE_DIGITS, ServedVersion
from service.errors import NoSamples, NothingLive, UnknownAlias
from service.runtime.checkpoints import LoadedCheckpoints
from service.runtime.decoder import DecodedImage, Decoder, Upload
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.runtime.predict_batcher import PredictBatcher
from service.runtime.quiet import InFlight
from service.runtime.weight_cache import WeightCache
from service.store.version_store import VersionStore

BATCH_IMAGES: Final = 16
"""Images of one batch; a request with more is a batch of its own."""

BATCHES: Final = 2
"""Batches that run at the same time."""

WAITING_IMAGES: Final = 32
"""Images that may wait for a batch; a request that would exceed them is rejected."""


@dataclass(frozen=True, slots=True)
class PredictOutcome:
    """Predictions for all images of a request, the version that made them, and the request."""

    served: ServedVersion
    predictions: tuple[ImagePrediction, ...]
    seconds: float
    command: PredictCommand

    @property
    def client(self) -> str:
        """Name of the client."""
        return self.served.client

    @property
    def version(self) -> int:
        """Number of the version."""
        return self.served.number

    @property
    def weights_digest(self) -> str:
        """SHA-256 (hex) of the version's weights."""
        return self.served.weights_digest


@dataclass(frozen=True, slots=True)
class PredictCommand:
    """A request to predict.

    Attributes:
        client: client name.
        uploads: image files.
        reference: an alias or a version number.
        images: the decoded files, when they are ready.
        submitted_s: when it was made, in monotonic seconds.
        trace: the context of its spans, as `tracing.current` returned it.
    """

    client: str
    uploads: tuple[Upload, ...]
    reference: str
    images: Future[list[DecodedImage]]
    submitted_s: float = field(default_factory=time.monotonic)
    trace: Any = field(default_factory=tracing.current)

    def record(self, stage: str, started_s: float, ended_s: float | None = None) -> None:
        """Record a stage in the trace of the request, see `tracing.record`."""
        if self.trace is not None:
            tracing.record(stage, started_s, ended_s, self.trace)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A request whose version was found and whose images were decoded.

    Attributes:
        given: what came with each image and the version was taught with, or None.
    """

    command: PredictCommand
    version: ServedVersion
    checkpoint: LoadedCheckpoint
    images: Sequence[Tensor]
    given: Sequence[Given | None]


class Predicting(abc.ABC):
    """Predicts with stored versions, in this process or in another one. Thread-safe."""

    @abc.abstractmethod
    def submit(
        self, client: str, uploads: Sequence[Upload], reference: str = LIVE, caller: str = ""
    ) -> Future[PredictOutcome]:
        """Queue what `run` does. Callers share the decoders and the batches equally.

        Cancelling the future withdraws the request until it starts.

        Raises:
            NoSamples, Overloaded: at once; the future raises the other errors of `run`.
        """

    def run(self, client: str, uploads: Sequence[Upload], reference: str = LIVE) -> PredictOutcome:
        """Predict with the version that `reference`, an alias or a version number, stands for now. Blocks.

        Raises:
            NoSamples, ImageRejected, UnknownClient, UnknownVersion, UnknownAlias, NothingLive, UnknownCheckpoint,
            VersionCorrupt, DecoderUnavailable, StoreUnavailable, Overloaded.
        """
        return self.submit(client, uploads, reference).result()

    def metrics(self) -> Mapping[str, float]:
        """Counters and gauges of this process by name."""
        return {}

    @abc.abstractmethod
    def close(self) -> None:
        """Finish what runs; requests that still wait get Overloaded."""


class CandidatePredicting(Predicting):
    """Predicts again what it has predicted before, with another version, while it has nothing else to do.

    Attributes:
        in_flight: the requests that were submitted and have not ended.
    """

    in_flight: InFlight

    @abc.abstractmethod
    def predict_now(self, command: PredictCommand) -> PredictOutcome:
        """Predict for a command outside of the queue. Blocks; raises as `run`."""


class Prediction(CandidatePredicting):
    """Predicts with stored versions; requests that arrive together run as one batch. Thread-safe.

    Args:
        store: stores the versions.
        checkpoints: the checkpoints that versions were adapted from.
        weights: cache of serving weights.
        decoder: decodes images.
    """

    def __init__(
        self, store: VersionStore, checkpoints: LoadedCheckpoints, weights: WeightCache, decoder: Decoder
    ) -> None:
        self._store = store
        self._checkpoints = checkpoints
        self._weights = weights
        self._decoder = decoder
        self._batcher: PredictBatcher[PredictCommand, PredictOutcome] = PredictBatcher(
            self.predict_batch, BATCH_IMAGES, BATCHES
        )
        self._loads = ThreadPoolExecutor(1, "load")
        self.in_flight = InFlight()

    def submit(
        self, client: str, uploads: Sequence[Upload], reference: str = LIVE, caller: str = ""
    ) -> Future[PredictOutcome]:
        """See `Predicting.submit`. Cancelling the future also gives up the images that are not decoded yet."""
        command = self.command(client, uploads, reference, caller)
        work = self._batcher.submit(command, len(uploads), caller, after=command.images)
        self.in_flight.add(work)
        return work

    def command(
        self, client: str, uploads: Sequence[Upload], reference: str = LIVE, caller: str = ""
    ) -> PredictCommand:
        """Start to decode the images of a request and return it. Raises NoSamples, Overloaded."""
        require_images(uploads)
        images = self._decoder.submit(uploads, caller)
        tracing.follow("decode", images)
        return PredictCommand(client, tuple(uploads), reference, images)

    def predict_now(self, command: PredictCommand) -> PredictOutcome:
        """See `CandidatePredicting.predict_now`."""
        ((_, found),) = self.predict_batch([command])
        outcome = found.result() if isinstance(found, Future) else found
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def metrics(self) -> Mapping[str, float]:
        """Counters and gauges by name."""
        return {**self._weights.metrics(), **self._batcher.metrics()}

    def close(self) -> None:
        """Finish the running batches; requests that still wait get Overloaded."""
        self._batcher.close()
        self._loads.shutdown()

    def predict_batch(
        self, commands: Sequence[PredictCommand]
    ) -> Iterator[tuple[int, PredictOutcome | Exception | Future[PredictOutcome]]]:
        """Yield the index of each request with its outcome or its own error.

        Requests whose weights are cached come first, before any weights are loaded for the others. A request whose
        checkpoint is not loaded yet gets a future and does not delay the others.
        """
        started_s = time.monotonic()
        versions = self._store.served([lookup(command.client, command.reference) for command in commands])
        prepared: dict[int, _Prepared] = {}
        weights: dict[int, ServingWeights] = {}
        for index, (command, version) in enumerate(zip(commands, versions, strict=True)):
            try:
                found = require_found(version, command.client, command.reference)
                checkpoint = self._checkpoints.find(found.meta_model_digest, found.meta_model)
                if checkpoint is None:
                    yield index, self._loads.submit(self._load_and_predict, command, found)
                else:
                    prepared[index] = self._prepare(command, found, checkpoint)
            except Exception as error:  # noqa: BLE001 - it is the outcome of this request
                yield index, error
        for index, request in prepared.items():
            cached = self._weights.held(request.version)
            if cached is not None:
                weights[index] = cached
        yield from _predict(prepared, weights, started_s)
        loaded: dict[int, ServingWeights] = {}
        for index in [index for index in prepared if index not in weights]:
            try:
                loaded[index] = self._load_weights(prepared[index])
            except Exception as error:  # noqa: BLE001 - it is the outcome of this request
                yield index, error
        yield from _predict(prepared, loaded, started_s)

    def _load_and_predict(self, command: PredictCommand, version: ServedVersion) -> PredictOutcome:
        """Load the version's checkpoint, then predict."""
        started_s = time.monotonic()
        checkpoint = self._checkpoints.get(version.meta_model_digest, version.meta_model)
        request = self._prepare(command, version, checkpoint)
        ((_, outcome),) = _predict({0: request}, {0: self._load_weights(request)}, started_s)
        return outcome

    def _prepare(self, command: PredictCommand, version: ServedVersion, checkpoint: LoadedCheckpoint) -> _Prepared:
        decoded = zip(command.uploads, command.images.result(), strict=True)
        images = [upload.at_depth(image, version.bit_depth) for upload, image in decoded]
        given = [upload.second for upload in command.uploads]
        require_taken(checkpoint.checkpoint.net_config, version.meta_model, given)
        taught = len(version.modalities or ()) > 1
        return _Prepared(command, version, checkpoint, images, given if taught else [None] * len(given))

    def _load_weights(self, request: _Prepared) -> ServingWeights:
        version, started_s = request.version, time.monotonic()

        def load() -> ServingWeights:
            delta = self._store.served_weights(version)
            temperature = 1.0 if version.temperature is None else version.temperature
            folded = request.checkpoint.serving_weights(delta, temperature)
            request.command.record("fold", started_s)
            return folded

        return self._weights.get(version, load)


def require_images(uploads: Sequence[Upload]) -> None:
    """Raise NoSamples if a request has no images."""
    if not uploads:
        raise NoSamples("the request has no images; send at least one")


def lookup(client: str, reference: str) -> tuple[str, str | int]:
    """Return what `VersionStore.served` takes for an alias or a version number."""
    return client, int(reference) if reference.isdigit() else reference


def require_found(version: ServedVersion | AnoleError, client: str, reference: str) -> ServedVersion:
    """Return the version, or raise the error of its lookup."""
    if isinstance(version, UnknownAlias) and reference == LIVE:
        raise NothingLive(
            f"client {client!r} has no live version; publish one with PUT /clients/{client}/aliases/live, or name a "
            "version in the request"
        )
    if isinstance(version, AnoleError):
        raise version
    return version


def _predict(
    prepared: Mapping[int, _Prepared], weights: Mapping[int, ServingWeights], started_s: float
) -> Iterator[tuple[int, PredictOutcome]]:
    """Predict for the requests whose weights are given; the images of all requests for a version run together."""
    groups: dict[LoadedCheckpoint, dict[int, list[int]]] = {}
    for index, entry in weights.items():
        groups.setdefault(prepared[index].checkpoint, {}).setdefault(id(entry), []).append(index)
    for checkpoint, by_weights in groups.items():
        requests = [
            (weights[indices[0]], [image for index in indices for image in prepared[index].images])
            for indices in by_weights.values()
        ]
        given = [one for indices in by_weights.values() for index in indices for one in prepared[index].given]
        for indices, predictions in zip(by_weights.values(), checkpoint.predict(requests, given), strict=True):
            yield from _outcomes({index: prepared[index] for index in indices}, predictions, started_s)


def _outcomes(
    group: Mapping[int, _Prepared], predictions: Predictions, started_s: float
) -> Iterator[tuple[int, PredictOutcome]]:
    """Split the predictions for a version among its requests, in order."""
    rows, familiarity = predictions.probabilities.tolist(), predictions.in_distribution
    none = [None] * len(rows)
    uncertainties = none if predictions.uncertainty is None else _uncertainties(predictions.uncertainty)
    results = iter(zip(rows, none if familiarity is None else familiarity.tolist(), uncertainties, strict=True))
    for index, request in group.items():
        images = tuple(
            _with_modalities(image_prediction(upload.name, request.version, *next(results)), request.version, upload)
            for upload in request.command.uploads
        )
        request.command.record("queue", request.command.submitted_s, started_s)
        request.command.record("predict", started_s)
        yield index, PredictOutcome(request.version, images, time.monotonic() - started_s, request.command)


def _uncertainties(found: PredictedUncertainty) -> list[Uncertainty]:
    columns = (found.total.tolist(), found.aleatoric.tolist(), found.epistemic.tolist())
    return [Uncertainty(*(round(value, SCORE_DIGITS) for value in row)) for row in zip(*columns, strict=True)]


def _with_modalities(prediction: ImagePrediction, version: ServedVersion, upload: Upload) -> ImagePrediction:
    """Return the prediction and what it is made from; nothing where neither the version nor the request has notes.

    Without a modality that the version was taught with, distances to its classes cannot be compared with its threshold.
    """
    taught, given = version.modalities, upload.second
    if taught is None:
        return prediction if given is None else replace(prediction, modalities=(IMAGE,))
    if len(taught) == 1 or given is not None:
        return replace(prediction, modalities=taught)
    return replace(prediction, modalities=taught[:1], familiarity=None, unknown_threshold=None)
