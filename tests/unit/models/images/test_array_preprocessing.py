"""Preprocessing without torch gives the inputs of the service's preprocessing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.images.array_preprocessing import prepare_array
from models.images.image_config import ImageConfig
from models.images.preprocessing import prepare

CONFIGS = (
    ImageConfig(1, 28),
    ImageConfig(1, 64, "local"),
    ImageConfig(3, 64, "regional"),
    ImageConfig(3, 160, "imagenet", "area"),
    ImageConfig(3, 96, "torchvision"),
)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.contrast}-{config.channels}x{config.side}")
@pytest.mark.parametrize("shape", [(3, 120, 200), (1, 40, 30), (3, 64, 64)], ids=str)
def test_numpy_and_torch_prepare_the_same_input(config: ImageConfig, shape: tuple[int, int, int]) -> None:
    coarse = np.random.default_rng(3).integers(0, 256, (shape[0], 8, 8)).repeat(32, 1).repeat(32, 2)
    image = coarse[:, : shape[1], : shape[2]].astype(np.uint8)
    expected = prepare([torch.from_numpy(image)], config).numpy()
    prepared = prepare_array(image, config)
    assert prepared.shape == expected.shape
    assert prepared.dtype == np.float32
    one_level = (expected.max() - expected.min()) / 60  # a pixel that is rounded the other way moves its neighbours too
    assert np.abs(prepared - expected).max() < one_level
    assert np.abs(prepared - expected).mean() < 1e-3
