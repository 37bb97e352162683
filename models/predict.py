"""Prediction with an adapted version: folded weights, no autograd, no statistics of the batch at hand."""

from __future__ import annotations

import torch
from torch import Tensor

from models.nets import heads
from models.nets.net import Net, grouped
from models.nets.norm import FoldedPass, fold
from models.weights import Weights

__all__ = ["class_probabilities", "fold"]


def class_probabilities(net: Net, folded: Weights, images: Tensor) -> Tensor:
    """Score images under one version's folded weights.

    Args:
        net: the architecture.
        folded: what `fold` made of a version's weights and statistics.
        images: float32 (batch, channels, side, side), from `images.prepare`.

    Returns:
        (batch, n_way), each row sums to 1.
    """
    single = {name: tensor[None] for name, tensor in folded.items()}
    with torch.inference_mode():
        features = net.features(FoldedPass(single), grouped(images[None]))
        return heads.logits(single, features)[0].softmax(-1)
