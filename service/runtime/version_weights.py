"""Weights of versions, ready to judge with: from memory, from packed ones in memory, or from where they are kept.

With a packed cache every version is judged by what comes out of its packing, whether that lay in memory or was just
read: a prediction must not depend on what a cache holds. It refuses to know the store; reading is somebody else's call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from models.inference.compact import CompactWeights
from models.inference.predictor import ServingWeights
from service.domain.version import ServedVersion
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.runtime.weight_cache import Key, WeightCache

Load = Callable[[ServedVersion], Mapping[str, Tensor]]
"""Reads what a version keeps."""


class VersionWeights:
    """Safe from several threads; of several that miss the same version one reads it.

    Args:
        load: reads what a version keeps.
        ready: weights as they are computed with.
        packed: the same in under a quarter of the memory, behind `ready`; None keeps none and packs nothing.
    """

    def __init__(
        self, load: Load, ready: WeightCache[ServingWeights], packed: WeightCache[CompactWeights] | None = None
    ) -> None:
        self._load = load
        self._ready = ready
        self._packed = packed

    def held(self, version: ServedVersion) -> ServingWeights | None:
        """A version's weights if they are in memory and ready."""
        return self._ready.held(_key(version))

    def of(self, version: ServedVersion, learner: LoadedCheckpoint) -> ServingWeights:
        """A version's weights, wherever they come from.

        Raises:
            UnknownClient, UnknownVersion, VersionCorrupt, StoreUnavailable: nothing is kept of that.
        """
        packed, temperature = self._packed, 1.0 if version.temperature is None else version.temperature
        if packed is None:
            return self._ready.get(_key(version), lambda: learner.ready(self._load(version), temperature))

        def unpacked() -> ServingWeights:
            return learner.unpacked(packed.get(_key(version), lambda: learner.packed(self._load(version), temperature)))

        return self._ready.get(_key(version), unpacked)

    def readings(self) -> dict[str, float]:
        """Counters since the start, and what is held now."""
        packed = {} if self._packed is None else self._packed.readings().named("packed_weight_cache")
        return {**self._ready.readings().named("weight_cache"), **packed}


def _key(version: ServedVersion) -> Key:
    """With the temperature: versions of the same stored weights may have been examined differently."""
    return version.client, version.meta_model_digest, f"{version.weights_digest}@{version.temperature}"
