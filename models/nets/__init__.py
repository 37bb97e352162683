"""Nets: images to features, for many tasks side by side. Which net exists is decided here; what it learns is not."""

from __future__ import annotations

import torch

from models.nets.conv4 import Conv4
from models.nets.net import Net
from models.nets.surface import SurfaceNet
from models.recipe import NetSpec

__all__ = ["Net", "build"]


def build(spec: NetSpec, seed: int = 0) -> Net:
    """Build the net that `spec` describes, with weights drawn from `seed` (He et al. 2015, normal, fan-out)."""
    generator = torch.Generator().manual_seed(seed)
    if spec.kind == "conv4":
        return Conv4(spec, generator)
    return SurfaceNet(spec, generator)
