"""The base class of nets: a module that turns images into features, stage by stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from models.config import NetConfig


class Net(nn.Module, ABC):
    """A net; its parameters are the initial weights of every inner loop.

    An ordinary call computes one task. `models.nets.functional.call_net` calls a net with given weights, of one task
    or of many.

    Attributes:
        config: what the net was built from.
        feature_count: features per image.
        stage_names: names of the submodules that run one after another, in order.
        grad_checkpointing: keep only the input of each stage and run the stage again in the backward pass (Chen et al.
            2016, arXiv:1604.06174).
    """

    config: NetConfig
    feature_count: int
    stage_names: tuple[str, ...] = ()
    grad_checkpointing: bool = False

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Compute features.

        Args:
            images: float32 (batch, channels, side, side); (batch, tasks * channels, side, side) where each task has
                kernels of its own.

        Returns:
            float32 (batch, feature_count) or (batch, tasks * feature_count).
        """

    def stages(self) -> dict[str, nn.Module]:
        """The stages by name, in order."""
        return {name: self.get_submodule(name) for name in self.stage_names}

    def start(self) -> dict[str, Tensor]:
        """The net's weights, detached from autograd, in a fixed order."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    def run_stage(self, name: str, maps: Tensor) -> Any:
        """Run one stage and return its output; `forward` calls every stage this way."""
        stage = self.get_submodule(name)
        if not self.grad_checkpointing:
            return stage(maps)
        # The backward pass runs after `functional_call` has taken this call's tensors out of the net again.
        tensors = {**dict(stage.named_parameters()), **dict(stage.named_buffers())}
        return checkpoint(functional_call, stage, tensors, maps, use_reentrant=False, preserve_rng_state=False)
