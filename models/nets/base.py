"""Nets: modules that turn images into features, and calls of a net with given weights, of one task or of many at once.

How weights differ by task, and how images are normalised, follows from the tensors of the call:

- Kernels per task, (tasks, out, in, kernel, kernel): tasks run side by side, as groups of one wide convolution.
- Kernels shared by all tasks: their images form one ordinary batch, and only scales, shifts and statistics of shape
  (tasks, channels) apply per task.

Every thread calls a copy of the net of its own, because `torch.func.functional_call` swaps tensors in the module.
"""

from __future__ import annotations

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from models.config import NetConfig
from models.nets.normalisation import ConvNorm, Normalisation, Standardise
from models.weights import Weights


class Net(nn.Module, ABC):
    """A net; its parameters are the initial weights of every inner loop.

    An ordinary call computes one task. `call_net` calls a net with given weights, of one task or of many.

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

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the input of one sample: (channels, side, side), or of a net for two modalities (row,)."""
        image = self.config.image
        return (image.channels, image.side, image.side)

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Compute features.

        Args:
            images: float32 (batch, channels, side, side); (batch, tasks * channels, side, side) where each task has
                kernels of its own; or, of a net with a frozen backbone, what `embed` returned.

        Returns:
            float32 (batch, feature_count) or (batch, tasks * feature_count).
        """

    def embed(self, images: Tensor) -> Tensor:
        """Compute what all tasks share: the part of the net that no task adapts, once per image.

        Args:
            images: float32 (batch, channels, height, width).

        Returns:
            The input of `forward`. By default the images themselves.
        """
        return images

    def adapted_part(self) -> Net:
        """The net without what `forward` does not use; by default the net itself."""
        return self

    def stages(self) -> dict[str, nn.Module]:
        """The stages by name, in order."""
        return {name: self.get_submodule(name) for name in self.stage_names}

    def start(self) -> dict[str, Tensor]:
        """The weights that tasks may adapt, detached from autograd, in a fixed order; none of a frozen backbone."""
        return {name: parameter.detach() for name, parameter in self.named_parameters() if parameter.requires_grad}

    def run_stage(self, name: str, maps: Tensor) -> Any:
        """Run one stage and return its output; `forward` calls every stage this way."""
        stage = self.get_submodule(name)
        if not self.grad_checkpointing:
            return stage(maps)
        # The backward pass runs after `functional_call` has taken this call's tensors out of the net again.
        tensors = {**dict(stage.named_parameters()), **dict(stage.named_buffers())}
        return checkpoint(functional_call, stage, tensors, maps, use_reentrant=False, preserve_rng_state=False)


def call_net(
    net: nn.Module,
    weights: Weights,
    images: Tensor,
    statistics: Mapping[str, Tensor] | None = None,
    *,
    recompute: bool = False,
    memory_format: torch.memory_format = torch.channels_last,
) -> Tensor:
    """Compute features of the images of one or more tasks.

    Args:
        net: the architecture; its own parameters are not used.
        weights: name -> (tasks, ...), or (...) where all tasks share a tensor. Names that the net lacks, such as the
            head's, are ignored. Folded weights (`normalisation.fold`) need no statistics.
        images: float32 (tasks, batch, channels, side, side); or (tasks, batch, features) of a frozen backbone, or
            (tasks, batch, row) of two modalities.
        statistics: what to normalise by, from `call_net_recording`; None normalises by each task's batch.
        recompute: keep only the input of each stage and run it again in the backward pass; see `Net`.
        memory_format: of the images. Convolutions are fastest with `torch.channels_last`; on the CPU torch's batch
            normalisation rounds far less with `torch.contiguous_format`, because it sums with more digits.

    Returns:
        float32 (tasks, batch, feature_count).
    """
    thread_net = _thread_copies.of(net)
    if isinstance(thread_net.module, Net):
        thread_net.module.grad_checkpointing = recompute
    return thread_net.call({**weights, **(statistics or {})}, images, memory_format)


def call_net_recording(
    net: nn.Module, weights: Weights, images: Tensor, memory_format: torch.memory_format = torch.channels_last
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute features, normalised by each task's batch, and the statistics that they were normalised by.

    Args:
        net: see `call_net`.
        weights: see `call_net`.
        images: see `call_net`.
        memory_format: see `call_net`.

    Returns:
        Features (tasks, batch, feature_count), and name of a layer + ``.mean`` or ``.variance`` -> (tasks, channels),
        detached; or whatever else the layer records.
    """
    thread_net, tasks = _thread_copies.of(net), images.shape[0]
    layers = thread_net.normalisations
    for layer in layers.values():
        layer.recording = True
    try:
        features = call_net(net, weights, images, memory_format=memory_format)
        recorded = {name: layer.recorded for name, layer in layers.items()}
    finally:
        for layer in layers.values():
            layer.recording, layer.recorded = False, {}
    statistics = {
        f"{name}.{statistic}": tensor.reshape(tasks, -1)
        for name, of_layer in recorded.items()
        for statistic, tensor in of_layer.items()
    }
    return features, statistics


class _ThreadNet:
    """One thread's copy of a net, without memory for weights.

    Attributes:
        module: the copy, on the meta device.
        normalisations: its layers that normalise, by name.
    """

    def __init__(self, net: nn.Module) -> None:
        self.module = copy.deepcopy(net.adapted_part() if isinstance(net, Net) else net).to("meta")
        self.normalisations = {
            name: layer for name, layer in self.module.named_modules() if isinstance(layer, Normalisation)
        }
        self._ndims = {name: parameter.ndim for name, parameter in self.module.named_parameters()}
        self._modules = {name for name, _ in self.module.named_modules()}

    def call(self, tensors: Mapping[str, Tensor], images: Tensor, memory_format: torch.memory_format) -> Tensor:
        """See `call_net`."""
        tasks = images.shape[0]
        tensors = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[0] in self._modules}
        if any(tensors[name].ndim > ndim > 1 for name, ndim in self._ndims.items() if name in tensors):
            tensors = {name: self._per_task(name, tensor, tasks) for name, tensor in tensors.items()}
            features = self._run(tensors, 1, _side_by_side(images, memory_format))  # (batch, tasks * features)
            return features.view(len(features), tasks, -1).transpose(0, 1)
        for name, layer in self.normalisations.items():
            if isinstance(layer, ConvNorm) and f"{name}.scale" in tensors:
                for own in (f"{name}.scale", f"{name}.shift"):
                    tensors[own] = self._per_task(own, tensors[own], tasks)
        inputs = images.flatten(0, 1)  # (tasks * batch, ...)
        features = self._run(
            tensors, tasks, inputs.contiguous(memory_format=memory_format) if inputs.ndim == 4 else inputs
        )
        return features.view(tasks, -1, features.shape[-1])

    def _run(self, tensors: dict[str, Tensor], tasks: int, images: Tensor) -> Tensor:
        for layer in self.normalisations.values():
            if isinstance(layer, Standardise):
                layer.tasks = tasks
        features: Tensor = functional_call(self.module, tensors, (images,), tie_weights=False)
        return features

    def _per_task(self, name: str, tensor: Tensor, tasks: int) -> Tensor:
        """The same tensor for every task, unless it is stacked already."""
        return tensor.expand(tasks, *tensor.shape) if tensor.ndim == self._ndims.get(name) else tensor


class _ThreadCopies(threading.local):
    """The current thread's copies of nets."""

    def __init__(self) -> None:
        self._by_net: WeakKeyDictionary[nn.Module, _ThreadNet] = WeakKeyDictionary()

    def of(self, net: nn.Module) -> _ThreadNet:
        """The thread's copy of `net`; made when first needed."""
        found = self._by_net.get(net)
        if found is None:
            found = self._by_net[net] = _ThreadNet(net)
        return found


_thread_copies = _ThreadCopies()


def _side_by_side(images: Tensor, memory_format: torch.memory_format) -> Tensor:
    """(tasks, batch, channels, ...) -> (batch, tasks * channels, ...), copied."""
    together = images.transpose(0, 1).flatten(1, 2)
    return together.clone(memory_format=memory_format) if together.ndim == 4 else together
