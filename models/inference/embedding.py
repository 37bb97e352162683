"""Embedding: the part of a net that no task adapts, run once per image for all tasks and versions.

`TorchEmbedder` runs a frozen backbone on any device. `OnnxEmbedder` runs it in onnxruntime on the CPU, and pools its
maps in numpy as `BackboneNet.embed` does in torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from models.adaptation.executor import FairExecutor
from models.checkpoint import Checkpoint
from models.errors import CheckpointInvalid
from models.images.preprocessing import ImageConfig, prepare_by_shape
from models.inference.onnx_backbone import OnnxBackbone, Pooling
from models.nets import BackboneNet, Net
from models.nets.backbone import fold_batch_norms
from models.task import FLIPS, Task

LOCATION = "checkpoint"
"""What the ONNX graph gives as the location of weights that it takes from the checkpoint."""

_EMBEDDED_AT_ONCE = 8
"""Larger batches exceed the processor's cache."""


class Embedder(ABC):
    """Computes the features of a frozen backbone. Thread-safe."""

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Compute features: float32 (batch, channels, height, width) -> (batch, feature_count), on the CPU."""

    def warm_up(self, shapes: Sequence[tuple[int, int]], channels: int) -> None:  # noqa: B027 - most need none
        """Prepare for images of these shapes (height, width), where their first batches would take long."""

    def close(self) -> None:  # noqa: B027 - most have nothing to stop
        """Stop its threads."""


class TorchEmbedder(Embedder):
    """Runs in torch.

    On a GPU, plans of convolutions are kept for each thread and each shape of the input, and making them probably takes
    up to seconds for a whole backbone (`docs/decisions/0039`). So all batches run on one thread, filled up to
    `_EMBEDDED_AT_ONCE` images, unless it is a single one.

    Args:
        net: its backbone is copied.
        device: where it computes.
        planned: run as on a GPU; None does so on a GPU.
    """

    def __init__(self, net: BackboneNet, device: torch.device, *, planned: bool | None = None) -> None:
        backbone = fold_batch_norms(net.backbone).to(device=device)
        self._net = net.with_backbone(backbone.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        self._device = device
        alone = device.type != "cpu" if planned is None else planned
        self._thread = ThreadPoolExecutor(1, "embedder") if alone else None

    def embed(self, images: Tensor) -> Tensor:
        """See `Embedder.embed`."""
        if self._thread is None:
            return self._embed(images)
        parts = torch.split(images, _EMBEDDED_AT_ONCE)
        embedded = [self._thread.submit(self._embed, _filled_up(part)) for part in parts]
        return torch.cat([future.result()[: len(part)] for future, part in zip(embedded, parts, strict=True)])

    def warm_up(self, shapes: Sequence[tuple[int, int]], channels: int) -> None:
        """See `Embedder.warm_up`."""
        if self._thread is not None:
            for shape in shapes:
                for count in (1, _EMBEDDED_AT_ONCE):
                    self.embed(torch.zeros(count, channels, *shape))

    def close(self) -> None:
        """See `Embedder.close`."""
        if self._thread is not None:
            self._thread.shutdown()

    def _embed(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            features = self._net.embed(images.to(self._device, memory_format=torch.channels_last))
        return features.cpu()


class OnnxEmbedder(Embedder):
    """Runs in onnxruntime on the CPU.

    Args:
        graph: from `models.inference.export.export_backbone`.
        net: provides the weights, unless the graph has them.
        threads: of one run.

    Raises:
        CheckpointInvalid: the graph does not fit the net.
    """

    def __init__(self, graph: bytes, net: BackboneNet, threads: int = 1) -> None:
        weights = {name: tensor.numpy() for name, tensor in graph_weights(net).items()} if _takes_weights(graph) else {}
        image = net.config.image
        try:
            self._backbone = OnnxBackbone(graph, weights, pooling_of(net), threads)
            features = self.embed(torch.zeros(1, image.channels, *image.shapes[0])).shape[-1]
        except Exception as error:  # onnxruntime raises classes of its own that share no base but Exception
            raise CheckpointInvalid(
                f"the ONNX graph beside the checkpoint does not fit its backbone; export it again: {error}"
            ) from error
        expected = net.feature_count if self._backbone.pooled_by_graph else net.embedding_count
        if features != expected:
            raise CheckpointInvalid(
                f"the ONNX graph beside the checkpoint gives {features} features, the net {expected}; export it again "
                "or remove it"
            )

    def embed(self, images: Tensor) -> Tensor:
        """See `Embedder.embed`."""
        return torch.from_numpy(self._backbone.embed(images.numpy()))


def _filled_up(images: Tensor) -> Tensor:
    """A single image as it is; more, and zeros up to `_EMBEDDED_AT_ONCE`."""
    missing = _EMBEDDED_AT_ONCE - len(images)
    if len(images) == 1 or not missing:
        return images
    return torch.cat([images, images.new_zeros(missing, *images.shape[1:])])


def pooling_of(net: BackboneNet) -> Pooling:
    """How the maps of the net's backbone become features."""
    return Pooling(tuple(net.extremes), net.patch_stage, net.places)


def embedder_for(checkpoint: Checkpoint, net: Net, device: torch.device) -> Embedder | None:
    """The embedder of a checkpoint's net: None if it has no frozen backbone; in torch if there is no ONNX graph."""
    if not isinstance(net, BackboneNet):
        return None
    if device.type == "cpu" and checkpoint.onnx_graph is not None:
        return OnnxEmbedder(checkpoint.onnx_graph, net, torch.get_num_threads())
    return TorchEmbedder(net, device)


def _takes_weights(graph: bytes) -> bool:
    """Whether the graph takes its weights from the checkpoint: as protobuf writes {"location": LOCATION}."""
    value = LOCATION.encode()
    return b"\x0a\x08location\x12" + bytes([len(value)]) + value in graph


def graph_weights(net: BackboneNet) -> Mapping[str, Tensor]:
    """The weights that the ONNX graph of a backbone takes from the checkpoint, by the names that they have there."""
    folded = fold_batch_norms(net.backbone)
    return {f"net.backbone.{name}": tensor.contiguous() for name, tensor in folded.named_parameters()}


def with_weights(graph: bytes, net: BackboneNet) -> Any:
    """An ONNX graph with the weights in it that it would take from the checkpoint, as a ModelProto."""
    import onnx  # of the extra `export`
    from onnx import numpy_helper

    proto, weights = onnx.load_from_string(graph), graph_weights(net)
    for tensor in proto.graph.initializer:
        if tensor.data_location == tensor.EXTERNAL:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name].numpy(), tensor.name))
    return proto


def embed_images(
    embedder: Embedder,
    images: Sequence[Tensor],
    config: ImageConfig,
    *,
    views: Sequence[tuple[int, ...]] = FLIPS[:1],
    executor: FairExecutor | None = None,
    on_batch: Callable[[], None] | None = None,
) -> Tensor:
    """Preprocess and embed canonical images.

    Args:
        embedder: the backbone.
        images: canonical images, uint8 (1 or 3, height, width) each, of any sizes.
        config: preprocessing.
        views: axes of (batch, channels, height, width) that each view of the images is flipped along.
        executor: runs several batches at the same time.
        on_batch: called before every batch; an error that it raises ends the call.

    Returns:
        float32 (views * images, feature_count), view by view, as `Support` orders them. Each row depends on its own
        image alone, up to the rounding of sums.
    """
    batches = list(prepare_by_shape(images, config))

    def run(indices: list[int], prepared: Tensor, axes: tuple[int, ...]) -> tuple[list[int], Tensor]:
        if on_batch is not None:
            on_batch()
        turned = prepared.flip(axes) if axes else prepared
        return indices, embedder.embed(turned.contiguous())

    calls = [
        partial(run, [view * len(images) + index for index in indices], prepared, axes)
        for view, axes in enumerate(views)
        for indices, prepared in batches
    ]
    results = [call() for call in calls] if executor is None else executor.run(calls)
    row_of = {index: row for indices, features in results for index, row in zip(indices, features, strict=True)}
    return torch.stack([row_of[index] for index in range(len(row_of))])


def embed_task(embedder: Embedder, task: Task, *, flips: bool) -> Task:
    """Embed the images of a task, whose inputs become features.

    Args:
        embedder: the backbone.
        task: of prepared images, on the CPU.
        flips: also embed the support's images flipped left-right, top-bottom, and both.
    """
    support = task.support.with_flips() if flips else task.support
    inputs = torch.cat([support.inputs, task.query_inputs])
    features = torch.cat([embedder.embed(part.contiguous()) for part in torch.split(inputs, _EMBEDDED_AT_ONCE)])
    embedded = replace(support, inputs=features[: len(support)])
    return replace(task, support=embedded, query_inputs=features[len(support) :])
