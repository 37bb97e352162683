"""The client: learns from the device's samples and replies with a difference and the number of samples."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context
from flwr.client import Client, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp

from anole_federated.settings import Settings
from models.checkpoint import load_checkpoint
from models.data.class_dataset import ClassDataset
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.data.folders import open_folder
from models.errors import DatasetUnavailable
from models.images.preprocessing import ImageConfig
from models.meta.federated import ClientUpdate, adapted_names, client_updates

OpenSamples = Callable[[Context, Settings, ImageConfig], ClassDataset]
"""Opens the samples of a device."""


class ReptileClient(NumPyClient):
    """Runs the inner loop of one device."""

    def __init__(self, settings: Settings, open_samples: Callable[[ImageConfig], ClassDataset]) -> None:
        self._settings, self._open_samples = settings, open_samples

    def fit(
        self, parameters: list[np.ndarray], config: Mapping[str, object]
    ) -> tuple[list[np.ndarray], int, dict[str, int]]:
        """Reply with a difference, weight 1 in the mean, and the number of samples."""
        update = self._update(parameters)
        arrays = [update.difference[name].numpy() for name in sorted(update.difference)]
        return arrays, 1, {"samples": update.samples}

    def _update(self, parameters: list[np.ndarray]) -> ClientUpdate:
        settings = self._settings
        checkpoint = load_checkpoint(settings.checkpoint)
        names = adapted_names(checkpoint.weights, settings.recipe)
        sent = {name: torch.from_numpy(array) for name, array in zip(names, parameters, strict=True)}
        dataset = self._open_samples(checkpoint.net_config.image)
        smallest = min(dataset.count(index) for index in range(len(dataset)))
        shape = EpisodeShape(min(settings.n_way, len(dataset)), min(settings.n_shot, smallest), anchor_shots=1)
        sampler = EpisodeSampler(dataset, shape, checkpoint.net_config.image)
        generator = torch.Generator().manual_seed(secrets.randbits(62))  # secret, so that no one can subtract the noise
        support = sampler.support(secrets.randbits(62))
        start = {**checkpoint.weights, **sent}
        (update,) = client_updates(
            checkpoint.build_net(), start, [support], settings.recipe, settings.privacy, [generator]
        )
        return update


def samples_in_folder(context: Context, settings: Settings, image: ImageConfig) -> ClassDataset:
    """The samples of a device, in the folder that its node config names."""
    if not settings.samples:
        raise DatasetUnavailable(
            "this device has no samples; start it with --node-config 'samples=\"/path/to/folder\"', a folder with one "
            "folder per class"
        )
    return open_folder(Path(settings.samples), image)


def client_app(open_samples: OpenSamples) -> ClientApp:
    """Make the client's app; `open_samples` opens the samples of its device."""

    def client_fn(context: Context) -> Client:
        settings = Settings.of(context)
        return ReptileClient(settings, lambda image: open_samples(context, settings, image)).to_client()

    return ClientApp(client_fn, mods=[secaggplus_mod])


app = client_app(samples_in_folder)
