"""A checkpoint without training: the same net and recipe with initial weights."""

from __future__ import annotations

from dataclasses import replace

import torch

from models.checkpoint import Checkpoint
from models.nets import build, heads
from models.weights import Weights


def untrained(checkpoint: Checkpoint, seed: int) -> Checkpoint:
    """The checkpoint with initial weights drawn from `seed`, including a linear head, and zero moments."""
    net = build(checkpoint.net_config, seed)
    weights: Weights = net.start()
    if heads.WEIGHT in checkpoint.weights:
        ways = checkpoint.weights[heads.WEIGHT].shape[0]
        weights = {**weights, **heads.linear_head(net.feature_count, ways, torch.Generator().manual_seed(seed))}
    moments = checkpoint.moments and replace(
        checkpoint.moments, second={name: tensor * 0 for name, tensor in checkpoint.moments.second.items()}, steps=0
    )
    return Checkpoint("random", checkpoint.net_config, checkpoint.recipe, weights, moments, {"data": "none"})
