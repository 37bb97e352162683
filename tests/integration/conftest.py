"""The whole service in this process, with a small net whose weights were never trained, and images made here."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.checkpoint import Checkpoint, save_checkpoint
from models.images import ImageSpec
from models.nets import build
from models.recipe import InnerLoop, NetSpec
from service import bootstrap
from service.app import create_app
from service.settings import Settings, load_settings
from tests.in_process import Web, started

Pictures = Callable[..., list[bytes]]


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A four-block net of eight channels, as drawn from its seed."""
    spec = NetSpec("conv4", ImageSpec(channels=1, side=28, contrast="none"), width=8)
    recipe = InnerLoop(steps=5, learning_rate=0.05, batch_size=8)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(Checkpoint("tiny", spec, recipe, build(spec, seed=1).start(), training={"data": "none"}), path)
    return path


@pytest.fixture
def settings(tiny_checkpoint: Path, tmp_path: Path) -> Settings:
    return load_settings(data=tmp_path / "data", meta_model=str(tiny_checkpoint), device="cpu", demo=False)


@pytest.fixture
def web(settings: Settings) -> Iterator[Web]:
    """The service, started on an empty store."""
    services = bootstrap.build(settings)
    with started(create_app(settings, lambda _: services), services) as web:
        yield web


def striped(count: int, period: int, seed: int = 0) -> list[bytes]:
    """PNGs of noisy stripes; the period makes the class."""
    generator = np.random.default_rng((seed, period))
    pictures = []
    for _ in range(count):
        phase, noise = generator.uniform(0, 1), generator.normal(0, 8, (40, 40))
        columns = np.sin((np.arange(40) + phase) * 2 * np.pi / period) * 80 + 128
        pixels = np.clip(columns[None, :] + noise, 0, 255).astype(np.uint8)
        held = io.BytesIO()
        Image.fromarray(pixels).save(held, format="PNG")
        pictures.append(held.getvalue())
    return pictures


@pytest.fixture
def pictures() -> Pictures:
    """Makes images of a class: `pictures(count, period, seed)`."""
    return striped
