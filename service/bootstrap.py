"""The composition root: settings in, wired use cases out. The only module that knows which adapters there are.

Nothing happens at import; `build` opens the store and loads the checkpoint.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Final

import torch

from models.adaptation.allocator import keep_freed_memory
from models.adaptation.gradients import require_precision
from models.checkpoint import Checkpoint, load_checkpoint, shipped_names
from models.errors import CheckpointInvalid
from models.images.preprocessing import DecodeLimits
from service.runtime.adapt_queue import AdaptQueue
from service.runtime.decoding.decoder import Decoder, DecoderPool, InlineDecoder, PoolBounds
from service.runtime.device import pick_device, usable_cores
from service.runtime.loaded_checkpoint import LoadedCheckpoint, LoadedCheckpoints
from service.runtime.weight_cache import WeightCache
from service.settings import Settings, child_environment
from service.store import open_store as stores
from service.store.catalog.keys import SqlKeys
from service.store.durability import Told, nobody
from service.store.version_store import VersionStore
from service.usecases.adapt import Adaptation, AdaptLimits
from service.usecases.checkpoints import CheckpointList, CheckpointSummary
from service.usecases.idempotency import IdempotentAdaptation
from service.usecases.keys import KeyCache
from service.usecases.lifecycle import Lifecycle
from service.usecases.predict import Prediction
from service.usecases.readiness import Readiness

MIN_IMAGE_SIDE: Final = 16
"""Pixels of the shorter side of an image."""


@dataclass(slots=True)
class Services:
    """The use cases, ready to be called.

    Attributes:
        adaptation: makes versions, once a request.
        prediction: judges images.
        lifecycle: reads and moves what is stored.
        meta_models: what there is to start from.
        keys: who may call.
        readiness: whether this process may get requests.
        readings: figures of the moment, by name.
        finish: ends the adaptations that were accepted, within so many seconds, and takes no more.
        close: lets go of what they hold; none of them is used afterwards.
    """

    adaptation: IdempotentAdaptation
    prediction: Prediction
    lifecycle: Lifecycle
    meta_models: CheckpointList
    keys: KeyCache
    readiness: Readiness
    readings: Callable[[], Mapping[str, float]]
    finish: Callable[[float], None]
    close: Callable[[], None]


def build(settings: Settings, told: Told = nobody) -> Services:
    """Load the checkpoint, open the store and wire the use cases.

    Args:
        settings: all of them.
        told: is told when a write could not be made durable; the store then takes no more until it is opened anew.

    Raises:
        CheckpointInvalid: there is no such checkpoint, or it is damaged.
        InvalidConfig: the checkpoint's recipe wants a precision that the device does not have.
        InvalidSettings: the device is not here.
        StoreUnavailable: the store cannot be opened.
    """
    torch.set_num_threads(1)  # a worker a core is faster than several threads inside one operation
    keep_freed_memory()
    device = pick_device(settings.device)
    current = LoadedCheckpoint(load_checkpoint(settings.model), device, max(1, usable_cores() // settings.workers))
    require_precision(current.checkpoint.recipe, device)
    learners = LoadedCheckpoints(current, _others(current.digest, device))
    store = open_store(settings, told)
    keys = open_keys(settings)
    decoder = _decoder(settings)
    current.warm_up()
    limits = AdaptLimits(max_samples=settings.max_samples, max_steps=settings.max_steps)
    queue = AdaptQueue(settings.adapt_running)
    prediction = Prediction(store, learners, WeightCache(settings.cache_bytes), decoder)
    adaptation = Adaptation(store, learners, decoder, limits)

    def meta_weights(digest: str, name: str) -> Mapping[str, torch.Tensor]:
        return learners.get(digest, name).checkpoint.weights

    return Services(
        adaptation=IdempotentAdaptation(store, adaptation, queue),
        prediction=prediction,
        lifecycle=Lifecycle(
            store, lambda version: meta_weights(version.draft.meta_model_digest, version.draft.meta_model)
        ),
        meta_models=CheckpointList([_summary(current.checkpoint)]),
        keys=KeyCache(keys, open_without_keys=settings.loopback),
        readiness=Readiness({"store": store.ping, "meta_model": _unchanged(current)}),
        readings=functools.partial(_readings, prediction, queue, decoder),
        finish=queue.close,
        close=functools.partial(_close, queue, prediction, current, decoder, keys, store),
    )


def _readings(*held: Prediction | AdaptQueue | Decoder) -> dict[str, float]:
    return {name: figure for one in held for name, figure in one.metrics().items()}


def _close(*held: AdaptQueue | Prediction | LoadedCheckpoint | Decoder | SqlKeys | VersionStore) -> None:
    for one in held:
        one.close()


def _decoder(settings: Settings) -> Decoder:
    limits = DecodeLimits(min_side=MIN_IMAGE_SIDE, max_bytes=settings.file_bytes)
    if settings.decoder_processes == 0:
        return InlineDecoder(limits)
    bounds = PoolBounds(settings.decoder_processes, memory_bytes=settings.decoder_bytes)
    return DecoderPool(limits, bounds, child_environment())


def open_store(settings: Settings, told: Told = nobody) -> VersionStore:
    """Open the store: at the URLs that are given, else in the data folder.

    Raises:
        InvalidSettings: a URL that names nothing known here.
        StoreUnavailable: it cannot be opened.
    """
    return stores.open_store(_place(settings), told=told)


def open_keys(settings: Settings) -> SqlKeys:
    """Open the keys, which lie beside the catalog.

    Raises:
        InvalidSettings, StoreUnavailable: as `open_store`.
    """
    return stores.open_keys(_place(settings))


def _place(settings: Settings) -> stores.Place:
    url = settings.catalog_url
    return stores.Place(settings.data, None if url is None else url.get_secret_value(), settings.blobs_url)


def _others(current: str, device: torch.device) -> list[tuple[str, Callable[[], LoadedCheckpoint]]]:
    """Makers of learners for the shipped checkpoints that are not in use: versions made from them still predict."""
    checkpoints = [load_checkpoint(name) for name in shipped_names()]
    return [
        (checkpoint.digest, functools.partial(LoadedCheckpoint, checkpoint, device))
        for checkpoint in checkpoints
        if checkpoint.digest != current
    ]


def _summary(checkpoint: Checkpoint) -> CheckpointSummary:
    return CheckpointSummary(
        name=checkpoint.name,
        digest=checkpoint.digest,
        net=checkpoint.net_config.to_json(),
        recipe=checkpoint.recipe.to_json(),
        image=asdict(checkpoint.net_config.image),
        card=dict(checkpoint.training),
    )


def _unchanged(learner: LoadedCheckpoint) -> Callable[[], None]:
    """A check that the start's weights are what they were when the process started."""
    at_start = learner.start_digest()

    def check() -> None:
        now = learner.start_digest()
        if now != at_start:
            raise CheckpointInvalid(
                f"the start's weights in memory have digest {now[:12]}…, they had {at_start[:12]}… when the service "
                "started; start it again"
            )

    return check
