"""Nets: modules that turn images into features, and how they are called with given weights."""

from __future__ import annotations

from collections.abc import Callable

import torch

from models.config import NetConfig
from models.nets.backbone import BackboneNet
from models.nets.base import Net, call_net, call_net_recording
from models.nets.conv4 import Conv4
from models.nets.multimodal import MultimodalNet
from models.nets.resnet12 import ResNet12
from models.nets.surface import SurfaceNet

__all__ = ["BackboneNet", "MultimodalNet", "Net", "build", "call_net", "call_net_recording"]


def build(config: NetConfig, seed: int = 0) -> Net:
    """Build the net that `config` describes, with weights drawn from `seed` (He et al. 2015, normal, fan-out)."""
    kinds: dict[str, Callable[[NetConfig, torch.Generator], Net]] = {
        "conv4": Conv4,
        "surface": SurfaceNet,
        "resnet12": ResNet12,
        "backbone": BackboneNet,
    }
    generator = torch.Generator().manual_seed(seed)
    net = kinds[config.kind](config, generator)
    return net if config.second == "none" else MultimodalNet(config, net, generator)
