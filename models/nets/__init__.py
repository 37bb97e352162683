"""Nets: images to features, for many tasks side by side. Which net exists is decided here; what it learns is not."""

from __future__ import annotations

from collections.abc import Callable

import torch

from models.config import NetConfig
from models.nets.base import Net
from models.nets.conv4 import Conv4
from models.nets.resnet12 import ResNet12
from models.nets.surface import SurfaceNet

__all__ = ["Net", "build"]


def build(spec: NetConfig, seed: int = 0) -> Net:
    """Build the net that `spec` describes, with weights drawn from `seed` (He et al. 2015, normal, fan-out)."""
    generator = torch.Generator().manual_seed(seed)
    kinds: dict[str, Callable[[NetConfig, torch.Generator], Net]] = {
        "conv4": Conv4,
        "surface": SurfaceNet,
        "resnet12": ResNet12,
    }
    return kinds[spec.kind](spec, generator)
