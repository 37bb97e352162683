"""A least recently used cache of what a frozen backbone computed for samples, bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor


class FeatureCache:
    """Features of samples that were adapted to recently. Thread-safe.

    An extension, or the second version of a request that asks for a first one from prototypes, then runs the backbone
    for new samples only.

    Args:
        limit_bytes: most bytes held.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._size_bytes = 0
        self._lock = threading.Lock()

    def get(self, keys: Sequence[Hashable], compute: Callable[[list[int]], Tensor]) -> Tensor:
        """Return the features of samples, and compute those that are missing in one call.

        Args:
            keys: one per sample. A key must determine the features.
            compute: takes the indices of missing samples and returns their features, float32 (views, missing, count).

        Returns:
            float32 (views, samples, count).
        """
        with self._lock:
            found = {index: self._entries[key] for index, key in enumerate(keys) if key in self._entries}
        missing = [index for index in range(len(keys)) if index not in found]
        if missing:
            found.update(zip(missing, compute(missing).unbind(1), strict=True))
        with self._lock:
            for index, key in enumerate(keys):
                self._keep(key, found[index])
        return torch.stack([found[index] for index in range(len(keys))], 1)

    def _keep(self, key: Hashable, features: Tensor) -> None:
        if key not in self._entries:
            self._entries[key] = features.clone()  # a view would keep the features of all samples of its call
            self._size_bytes += features.nbytes
        self._entries.move_to_end(key)
        while self._size_bytes > self._limit_bytes:
            self._size_bytes -= self._entries.popitem(last=False)[1].nbytes
