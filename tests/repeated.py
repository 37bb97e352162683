"""Adapt a stored version again from its record alone, to test that the record is complete."""

from __future__ import annotations

import torch

from models.checkpoint import load_checkpoint
from models.config import InnerLoopConfig
from service.bootstrap import open_store
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.settings import Settings


def repeats_bit_by_bit(settings: Settings, client: str, number: int) -> bool:
    """Return whether adapting again from the stored samples, recipe and seed gives the stored weights bit for bit."""
    checkpoint = LoadedCheckpoint(load_checkpoint(settings.model[0]), torch.device("cpu"))
    with open_store(settings) as store:
        draft = store.catalog.version(client, number).draft
        images = [store.sample(client, sample.digest) for sample in draft.samples]
        labels = [draft.classes.index(sample.label) for sample in draft.samples]
        support = checkpoint.support(images, labels, len(draft.classes))
        adapted = checkpoint.adapt(support, InnerLoopConfig.from_json(draft.recipe), draft.seed)
        again, stored = checkpoint.delta(adapted), store.weights(client, draft.weights_digest)
    return again.keys() == stored.keys() and all(torch.equal(again[name], stored[name]) for name in stored)
