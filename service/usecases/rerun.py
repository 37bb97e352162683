"""Use case: adapt a version again from its record, to prove that the record is all there is to it. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.config import InnerLoopConfig
from models.nets import heads
from service.errors import SamplesNotKept
from service.runtime.adapt_queue import AdaptQueue
from service.runtime.job_control import JobControl
from service.runtime.loaded_checkpoint import LoadedCheckpoints
from service.store.version_store import VersionStore


@dataclass(frozen=True, slots=True)
class RerunOutcome:
    """A version adapted again.

    Attributes:
        identical: every bit of the weights and statistics is as stored.
        largest_difference: largest absolute difference of any number; infinite where other tensors came of it.
    """

    identical: bool
    largest_difference: float


class Rerun:
    """Adapts again what is stored; blocks, so call it in a worker thread."""

    def __init__(self, store: VersionStore, learners: LoadedCheckpoints, queue: AdaptQueue) -> None:
        self._store = store
        self._learners = learners
        self._queue = queue

    def run(self, client: str, number: int) -> RerunOutcome:
        """Adapt from the version's samples, recipe and seed, and compare with its stored weights.

        Raises:
            UnknownClient, UnknownVersion, UnknownCheckpoint, VersionCorrupt.
            SamplesNotKept: the images are gone.
        """
        draft = self._store.version(client, number).draft
        if not draft.samples_kept:
            raise SamplesNotKept(
                f"the samples of version {number} of client {client!r} are not kept; it cannot be repeated"
            )
        learner = self._learners.of(draft.meta_model_digest, draft.meta_model)
        images = [self._store.sample(client, ref.digest) for ref in draft.samples]
        support = learner.support(images, [draft.classes.index(ref.label) for ref in draft.samples], len(draft.classes))
        recipe = InnerLoopConfig.from_json(draft.recipe)
        adapted = self._queue.submit(client, lambda: learner.adapt(support, recipe, draft.seed), JobControl()).result()
        return _compared(learner.delta(adapted), self._store.weights(client, draft.weights_digest))


def _compared(again: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> RerunOutcome:
    if heads.MEANS not in stored:  # versions of earlier releases kept none
        again = {name: tensor for name, tensor in again.items() if name != heads.MEANS}
    if again.keys() != stored.keys():
        return RerunOutcome(identical=False, largest_difference=float("inf"))
    largest = max(float((again[name] - stored[name]).abs().max()) for name in stored)
    return RerunOutcome(all(torch.equal(again[name], stored[name]) for name in stored), largest)
