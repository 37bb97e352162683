"""The preprocessing in a graph gives what the service's gives, for images of every kind of size."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest

from models.images.encoding import encode_png
from models.images.preprocessing import ImageConfig, decode, prepare
from models.inference.exports.file import Pixels
from models.inference.exports.graph import GraphWriter, described
from models.inference.exports.preprocessing import prepare as write_preparation
from tests.unit.models.pictures import planes

CONFIGS = [
    ImageConfig(3, 192, "imagenet", "area"),
    ImageConfig(3, 64, "torchvision"),
    ImageConfig(1, 64, "regional"),
    ImageConfig(1, 28),
]
SIZES = [(16, 16), (192, 192), (100, 640), (420, 601), (40, 1500)]
"""Smaller and larger than a net's input; the last two are scaled down to a canonical image first."""

GREY_LEVEL = 1 / 128
"""Of the contrast "imagenet"."""


def scene(height: int, width: int) -> Pixels:
    """Return smooth colours with some noise."""
    generator = np.random.default_rng((height, width))
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 31 + channel) + np.cos(y / 17 - channel) for channel in range(3)], -1) * 50 + 128
    return np.clip(waves + generator.normal(0, 8, waves.shape), 0, 255).astype(np.uint8)


def preparation(config: ImageConfig) -> Any:
    """Return a graph that prepares an image."""
    graph = GraphWriter()
    prepared = write_preparation(graph, graph.op("Unsqueeze", "image", graph.indices(0)), config)
    output = described("prepared", np.float32, [1, config.channels, "rows", "columns"])
    proto = graph.finish([], [described("image", np.uint8, ["height", "width", 3])], {"prepared": (prepared, output)})
    return onnxruntime.InferenceSession(proto.SerializeToString())


def test_values_between_two_grey_levels_are_rounded_as_the_service_rounds_them() -> None:
    session, generator = preparation(CONFIGS[0]), np.random.default_rng(0)
    shares = []
    for _ in range(10):  # enlarged three times, one of some thousand values is exactly between two levels
        pixels = generator.integers(0, 256, (64, 64, 1), np.uint8).repeat(3, 2)
        (found,) = session.run(None, {"image": pixels})
        expected = prepare([decode(encode_png(planes(pixels)))], CONFIGS[0]).numpy()
        shares.append(np.mean(np.abs(found - expected) > GREY_LEVEL / 2))
    assert np.mean(shares) < 8e-5


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.contrast}-{config.fit}")
def test_a_graph_prepares_images_of_any_size_as_the_service_does(config: ImageConfig) -> None:
    session = preparation(config)
    for height, width in SIZES:
        pixels = scene(height, width)
        (found,) = session.run(None, {"image": pixels})
        expected = prepare([decode(encode_png(planes(pixels)))], config).numpy()
        difference = np.abs(found - expected)
        assert found.shape == expected.shape
        assert difference.mean() < GREY_LEVEL / 200, (height, width)
        assert difference.max() < 8 * GREY_LEVEL, (height, width)
