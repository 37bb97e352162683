"""The composition root: builds the use cases from the settings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch

from models.adaptation.allocator import keep_freed_memory
from models.adaptation.gradients import require_precision
from models.checkpoint import load_checkpoint, shipped_digests
from models.images.preprocessing import DecodeLimits
from service.domain.audit import AuditEntry, AuditQuery
from service.domain.prediction_log import LoggedPrediction, Retention
from service.domain.version import Version
from service.errors import InvalidSettings
from service.runtime.adapt_queue import AdaptQueue
from service.runtime.checkpoints import LoadedCheckpoints
from service.runtime.decoder import Decoder, InlineDecoder
from service.runtime.decoder_pool import DecoderPool, PoolConfig
from service.runtime.device import device_for, usable_cores
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.runtime.weight_cache import WeightCache
from service.settings import Settings, child_environment, disable_onnxruntime_telemetry
from service.store import open_store as stores
from service.store.catalog.keys import SqlKeys
from service.store.version_store import VersionStore
from service.usecases.adapt import Adaptation
from service.usecases.checkpoints import CheckpointList, CheckpointSummary
from service.usecases.clients import Clients
from service.usecases.drift_watch import DriftWatch
from service.usecases.explain import ExplainedPrediction
from service.usecases.export import Exports
from service.usecases.idempotency import Adapting, IdempotentAdaptation
from service.usecases.import_version import Imports
from service.usecases.jobs import Jobs
from service.usecases.judged import Judged
from service.usecases.keys import KeyCache
from service.usecases.predict import CandidatePredicting, Predicting, Prediction
from service.usecases.readiness import Readiness, readiness_checks
from service.usecases.recording import PredictionRecorder
from service.usecases.samples import AdaptLimits
from service.usecases.stored_samples import StoredSamples

MIN_IMAGE_SIDE: Final = 16
"""Pixels of the shorter side of an image."""


@dataclass(slots=True)
class Services:
    """The use cases of a running service.

    Attributes:
        adaptation: makes versions.
        jobs: the background jobs of the store.
        prediction: predicts the classes of images.
        explained: predicts them and explains the predictions.
        exports: exports versions as files.
        imports: makes versions of exported files.
        clients: reads and changes clients, versions and aliases.
        samples: reads stored samples.
        checkpoints: the available checkpoints.
        keys: finds the caller that a key stands for.
        audit: returns entries of the audit log.
        recorder: records predictions.
        judged: reads what was recorded.
        readiness: whether this process should get requests.
        metrics: returns counters and gauges by name.
        finish: accepts no more adaptations and ends the accepted ones within the given seconds.
        close: releases all resources; no use case works afterwards.
    """

    adaptation: Adapting
    jobs: Jobs
    prediction: Predicting
    explained: Predicting
    exports: Exports
    imports: Imports
    clients: Clients
    samples: StoredSamples
    checkpoints: CheckpointList
    keys: KeyCache
    audit: Callable[[AuditQuery], tuple[AuditEntry, ...]]
    recorder: PredictionRecorder
    judged: Judged
    readiness: Readiness
    metrics: Callable[[], Mapping[str, float]]
    finish: Callable[[float], None]
    close: Callable[[], None]


@dataclass(frozen=True, slots=True)
class ModelUseCases:
    """The use cases that run the model most of the time. Other processes may carry them out.

    Attributes:
        prediction: predicts.
        explained: predicts and explains.
        adaptation: makes versions.
    """

    prediction: CandidatePredicting
    explained: Predicting
    adaptation: Adapting


Elsewhere = Callable[[VersionStore, Jobs], ModelUseCases]
"""Returns use cases that other processes on the same store carry out."""


def build(
    settings: Settings,
    on_sync_failure: Callable[[str], None] = lambda _reason: None,
    elsewhere: Elsewhere | None = None,
) -> Services:
    """Load the checkpoints, open the store and build the use cases.

    Args:
        settings: all of them.
        on_sync_failure: called when a write could not be made durable; the store then accepts no more writes.
        elsewhere: has other processes predict and adapt; None does both in this process.

    Raises:
        CheckpointInvalid: a checkpoint does not exist or is damaged.
        InvalidConfig: the device does not support the precision of a checkpoint's recipe.
        InvalidSettings: there is no such device, or two checkpoints have the same name.
        StoreUnavailable: the store cannot be opened.
    """
    disable_onnxruntime_telemetry()
    torch.set_num_threads(1)  # one worker per core is faster than several threads per operation
    keep_freed_memory()
    checkpoints = LoadedCheckpoints(_offered(settings), _shipped(settings))
    store = open_store(settings, on_sync_failure)
    keys = open_keys(settings)
    decoder = _decoder(settings)
    queue, jobs = AdaptQueue(settings.adapt_running), Jobs(store.catalog.jobs)
    if elsewhere is None:
        used = _here(settings, store, checkpoints, decoder, queue, jobs)
    else:
        used = elsewhere(store, jobs)
    judged = Judged(store)
    drift = DriftWatch(judged)
    recorder = _recorder(settings, store, drift, used.prediction)

    def start_weights(version: Version) -> Mapping[str, torch.Tensor]:
        return checkpoints.get(version.draft.meta_model_digest, version.draft.meta_model).checkpoint.weights

    return Services(
        adaptation=used.adaptation,
        jobs=jobs,
        prediction=used.prediction,
        explained=used.explained,
        exports=Exports(store, checkpoints, queue),
        imports=Imports(store, checkpoints, queue),
        clients=Clients(store, start_weights, checkpoints.named),
        samples=StoredSamples(store),
        checkpoints=CheckpointList([CheckpointSummary.of(each.checkpoint) for each in checkpoints.offered]),
        keys=KeyCache(keys, open_without_keys=settings.loopback),
        audit=store.catalog.audit,
        recorder=recorder,
        judged=judged,
        readiness=Readiness(readiness_checks(store.ping, checkpoints.start_digest, decoder.check)),
        metrics=functools.partial(_metrics, used.prediction, recorder, drift, queue, decoder, jobs),
        finish=queue.close,
        close=functools.partial(
            _close, queue, jobs, recorder, used.explained, used.prediction, checkpoints, decoder, keys, store
        ),
    )


def _here(
    settings: Settings,
    store: VersionStore,
    checkpoints: LoadedCheckpoints,
    decoder: Decoder,
    queue: AdaptQueue,
    jobs: Jobs,
) -> ModelUseCases:
    for checkpoint in checkpoints.offered:
        checkpoint.warm_up()
    prediction = Prediction(store, checkpoints, WeightCache(settings.cache_bytes), decoder)
    adaptation = Adaptation(store, checkpoints, decoder, AdaptLimits(max_steps=settings.max_steps))
    return ModelUseCases(
        prediction,
        ExplainedPrediction(prediction, store, checkpoints),
        IdempotentAdaptation(adaptation, store.catalog.recall, queue, jobs),
    )


def _recorder(
    settings: Settings, store: VersionStore, drift: DriftWatch, prediction: CandidatePredicting
) -> PredictionRecorder:
    retention = Retention(settings.predictions_days, settings.predictions_rows)

    def write(entries: Sequence[LoggedPrediction]) -> int:
        written = store.catalog.add_predictions(entries, retention)
        drift.check({entry.client for entry in entries})
        return written

    return PredictionRecorder(write, prediction)


def _metrics(*sources: Predicting | PredictionRecorder | DriftWatch | AdaptQueue | Decoder | Jobs) -> dict[str, float]:
    return {name: value for source in sources for name, value in source.metrics().items()}


class _Closable(Protocol):
    def close(self) -> None: ...


def _close(*resources: _Closable) -> None:
    for resource in resources:
        resource.close()


def _decoder(settings: Settings) -> Decoder:
    limits = DecodeLimits(min_side=MIN_IMAGE_SIDE, max_bytes=settings.file_bytes)
    if settings.decoder_processes == 0:
        return InlineDecoder(limits)
    return DecoderPool(limits, PoolConfig(settings.decoder_processes), child_environment())


def open_store(settings: Settings, on_sync_failure: Callable[[str], None] = lambda _reason: None) -> VersionStore:
    """Open the store: at the URLs that are given, else in the data folder.

    Raises:
        InvalidSettings: a URL that names nothing known here.
        StoreUnavailable: it cannot be opened.
    """
    return stores.open_store(stores.StoreLocation.of(settings), on_sync_failure=on_sync_failure)


def open_keys(settings: Settings) -> SqlKeys:
    """Open the keys, which lie beside the catalog.

    Raises:
        InvalidSettings, StoreUnavailable: as `open_store`.
    """
    return stores.open_keys(stores.StoreLocation.of(settings))


def _offered(settings: Settings) -> list[LoadedCheckpoint]:
    """Load the checkpoints that clients are adapted from."""
    threads = max(1, usable_cores() // (settings.workers or 1))
    offered: dict[str, LoadedCheckpoint] = {}
    for name_or_path in settings.model:
        checkpoint = load_checkpoint(name_or_path, settings.allow_factory)
        loaded = LoadedCheckpoint(checkpoint, device_for(checkpoint, settings.device), threads)
        require_precision(checkpoint.recipe, loaded.device)
        name = loaded.checkpoint.name
        if name in offered:
            raise InvalidSettings(f"two models are called {name!r}; name each model once, or rename a file")
        offered[name] = loaded
    return list(offered.values())


def _shipped(settings: Settings) -> dict[str, Callable[[], LoadedCheckpoint]]:
    """Return loaders of the shipped checkpoints by digest; versions that were adapted from them still predict."""

    def load(name: str) -> LoadedCheckpoint:
        checkpoint = load_checkpoint(name)
        loaded = LoadedCheckpoint(checkpoint, device_for(checkpoint, settings.device))
        loaded.warm_up()
        return loaded

    return {digest: functools.partial(load, name) for digest, name in shipped_digests().items()}
