"""Reptile as in a PyTorch tutorial: one net, one optimiser, one task after another. A baseline for comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.adaptation.inner_loop import batch_plan
from models.config import InnerLoopConfig, NetConfig
from models.nets import heads
from models.nets.conv4 import Conv4
from models.task import Support
from models.weights import Weights

_NAMES = {"weight": "conv.weight", "scale": "norm.weight", "shift": "norm.bias"}
"""What a block's weights are called in the checkpoints here, and in this net."""


class PlainConv4(nn.Module):
    """The four-block net with strided convolutions, of torch's own layers, for one task.

    Operations without effect are omitted: the convolutions' biases, which normalisation removes, and the running
    statistics of normalisation, which nothing reads.
    """

    def __init__(self, spec: NetConfig, n_way: int) -> None:
        super().__init__()
        channels, side = spec.image.channels, spec.image.side
        self.blocks = nn.Sequential()
        for name in Conv4.stage_names:
            block = nn.Sequential()
            block.add_module("conv", nn.Conv2d(channels, spec.width, 3, stride=2, padding=1, bias=False))
            block.add_module("norm", nn.BatchNorm2d(spec.width, track_running_stats=False))
            block.add_module("relu", nn.ReLU())
            self.blocks.add_module(name, block)
            channels, side = spec.width, (side + 1) // 2
        self.head = nn.Linear(spec.width * side * side, n_way)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of one task's images: (batch, channels, side, side) -> (batch, n_way)."""
        scores: Tensor = self.head(self.blocks(images).flatten(1))
        return scores


class PlainReptile:
    """Meta-training that keeps the start in the net between meta steps.

    Args:
        spec: of a conv4 net with strided convolutions.
        recipe: a linear head with SGD or Adam; moments carry over from task to task, or begin anew with each.
        start: where it begins, `head.weight` and `head.bias` included.
    """

    def __init__(self, spec: NetConfig, recipe: InnerLoopConfig, start: Weights) -> None:
        self.recipe = recipe
        device = start[heads.WEIGHT].device
        self.net = PlainConv4(spec, start[heads.WEIGHT].shape[0]).to(device)
        self.net.load_state_dict({plain_name(name): tensor for name, tensor in start.items()})
        self.optimiser: torch.optim.Optimizer
        if recipe.optimiser == "adam":
            self.optimiser = torch.optim.Adam(self.net.parameters(), lr=recipe.learning_rate, betas=(0.0, 0.999))
        else:
            self.optimiser = torch.optim.SGD(self.net.parameters(), lr=recipe.learning_rate)

    def meta_step(self, supports: Sequence[Support], step_size: float, seeds: Sequence[int]) -> None:
        """Adapt to each support from the start, and move the start towards the mean of the results."""
        start = {name: tensor.clone() for name, tensor in self.net.state_dict().items()}
        total = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
        for support, seed in zip(supports, seeds, strict=True):
            self.net.load_state_dict(start)
            self._adapt(support, seed)
            for name, tensor in self.net.state_dict().items():
                total[name] += tensor
        tasks = len(supports)
        self.net.load_state_dict({name: torch.lerp(old, total[name] / tasks, step_size) for name, old in start.items()})

    def start(self) -> Mapping[str, Tensor]:
        """The current start, with the names of this net (see `plain_name`)."""
        return self.net.state_dict()

    def _adapt(self, support: Support, seed: int) -> None:
        if not self.recipe.carry_moments:
            self.optimiser.state.clear()
        for rows in batch_plan(len(support), self.recipe, torch.Generator().manual_seed(seed)):
            self.optimiser.zero_grad()
            loss = F.cross_entropy(self.net(support.images[rows]), support.labels[rows])
            torch.autograd.backward(loss)
            self.optimiser.step()


def plain_name(name: str) -> str:
    """Name of a checkpoint's weight in `PlainConv4`: `block1.scale` is `blocks.block1.norm.weight`."""
    part, _, kind = name.partition(".")
    return name if part == "head" else f"blocks.{part}.{_NAMES[kind]}"
