"""Generated images and an untrained checkpoint, for tests that need a service but no trained net."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from models.checkpoint import Checkpoint, save_checkpoint
from models.config import InnerLoopConfig, NetConfig
from models.images.preprocessing import ImageConfig
from models.nets import build


def tiny_checkpoint_in(folder: Path, name: str = "tiny", numbers: int = 0) -> Path:
    """Save an untrained conv4 with eight channels, which takes that many numbers beside images, and return its path."""
    image = ImageConfig(channels=1, side=28, contrast="none")
    spec = NetConfig("conv4", image, width=8, second="vector" if numbers else "none", second_size=numbers)
    recipe = InnerLoopConfig(steps=5, learning_rate=0.05, batch_size=8)
    path = folder / f"{name}.safetensors"
    save_checkpoint(Checkpoint(name, spec, recipe, build(spec, seed=1).start(), training={"data": "none"}), path)
    return path


def striped(count: int, period: int, seed: int = 0) -> list[bytes]:
    """Return PNGs of noisy stripes. The period defines the class; the noise makes every image different."""
    generator = np.random.default_rng((seed, period))
    pictures = []
    for _ in range(count):
        phase, noise = generator.uniform(0, 1), generator.normal(0, 55, (40, 40))
        columns = np.sin((np.arange(40) + phase) * 2 * np.pi / period) * 80 + 128
        pixels = np.clip(columns[None, :] + noise, 0, 255).astype(np.uint8)
        pictures.append(encoded(Image.fromarray(pixels)))
    return pictures


def encoded(image: Image.Image) -> bytes:
    """Return the image as a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
