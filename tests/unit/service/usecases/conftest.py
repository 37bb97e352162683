"""A store, checkpoints and the use case that makes versions, shared by the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from models.checkpoint import load_checkpoint
from models.images.preprocessing import DecodeLimits
from service.runtime.checkpoints import LoadedCheckpoints
from service.runtime.decoder import InlineDecoder
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.store.open_store import open_embedded
from service.store.version_store import VersionStore
from service.usecases.adapt import Adaptation
from service.usecases.samples import AdaptLimits
from tests.generated import tiny_checkpoint_in


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> LoadedCheckpoints:
    """Return two checkpoints, of which the first is the default."""
    path = tiny_checkpoint_in(tmp_path_factory.mktemp("checkpoint"))
    cpu = torch.device("cpu")
    return LoadedCheckpoints([LoadedCheckpoint(load_checkpoint(name), cpu) for name in (path, "omniglot")])


@pytest.fixture(scope="module")
def one_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersionStore]:
    with open_embedded(tmp_path_factory.mktemp("store") / "data", sync=False) as opened:
        yield opened


@pytest.fixture
def store(one_store: VersionStore) -> Iterator[VersionStore]:
    """Return a store without clients. Opening one for each test would take most of the time."""
    yield one_store
    for client in one_store.catalog.clients():
        one_store.delete_client(client.name)


@pytest.fixture
def adaptation(store: VersionStore, checkpoints: LoadedCheckpoints) -> Adaptation:
    limits = AdaptLimits(max_classes=3, max_samples=24, max_steps=4)
    return Adaptation(store, checkpoints, InlineDecoder(DecodeLimits(min_side=8)), limits)
