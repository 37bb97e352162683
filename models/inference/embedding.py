"""Embedding: the part of a net that no task adapts, run once per image for all tasks and versions.

`TorchEmbedder` runs a frozen backbone on any device. `OnnxEmbedder` runs it in onnxruntime on the CPU, and pools its
maps in numpy as `BackboneNet.embed` does in torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.adaptation.executor import FairExecutor
from models.checkpoint import Checkpoint
from models.errors import CheckpointInvalid
from models.images.preprocessing import ImageConfig, prepare_by_shape
from models.nets import BackboneNet, Net
from models.nets.backbone import SPREAD_EPSILON, fold_batch_norms
from models.task import FLIPS, Task

Floats = NDArray[np.float32]

EMBED_IMAGES = "images"
"""Name of the input of the ONNX graph."""

POOLED = "features"
"""Name of the only output of older graphs, which pooled the maps themselves."""

LOCATION = "checkpoint"
"""What the ONNX graph gives as the location of weights that it takes from the checkpoint."""

_SORTED_PIXELS = 256
"""Up to this length, sorting a row is faster than partitioning it twice."""

_EMBEDDED_AT_ONCE = 8
"""Larger batches exceed the processor's cache."""


class Embedder(ABC):
    """Computes the features of a frozen backbone. Thread-safe."""

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Compute features: float32 (batch, channels, height, width) -> (batch, feature_count), on the CPU."""


class TorchEmbedder(Embedder):
    """Runs in torch.

    Args:
        net: its backbone is copied.
        device: where it computes.
    """

    def __init__(self, net: BackboneNet, device: torch.device) -> None:
        backbone = fold_batch_norms(net.backbone).to(device=device)
        self._net = net.with_backbone(backbone.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        self._device = device

    def embed(self, images: Tensor) -> Tensor:
        """See `Embedder.embed`."""
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
        # Imported here, so that a service can switch off onnxruntime's telemetry before the import.
        import onnxruntime  # type: ignore[import-untyped]

        weights = graph_weights(net) if _takes_weights(graph) else {}
        self._values = [onnxruntime.OrtValue.ortvalue_from_numpy(tensor.numpy()) for tensor in weights.values()]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_external_initializers(list(weights), self._values)
        image, self._net = net.config.image, net
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            self._pooled = [output.name for output in self._session.get_outputs()] == [POOLED]
            features = self.embed(torch.zeros(1, image.channels, *image.shapes[0])).shape[-1]
        except Exception as error:  # onnxruntime raises classes of its own that share no base but Exception
            raise CheckpointInvalid(
                f"the ONNX graph beside the checkpoint does not fit its backbone; export it again: {error}"
            ) from error
        expected = net.feature_count if self._pooled else net.embedding_count
        if features != expected:
            raise CheckpointInvalid(
                f"the ONNX graph beside the checkpoint gives {features} features, the net {expected}; export it again "
                "or remove it"
            )

    def embed(self, images: Tensor) -> Tensor:
        """See `Embedder.embed`."""
        outputs: list[Floats] = self._session.run(None, {EMBED_IMAGES: images.numpy()})
        if self._pooled:
            return torch.from_numpy(outputs[0])
        pooled = torch.from_numpy(_pool(images.numpy(), outputs, self._net.extremes))
        return torch.cat([pooled, self._net.patches([torch.from_numpy(maps) for maps in outputs])], dim=-1)


def _pool(images: Floats, stages: Sequence[Floats], extremes: Sequence[int]) -> Floats:
    """What `BackboneNet.embed` computes from maps (batch, channels, pixels): (batch, feature_count).

    In numpy, which selects the largest and smallest pixels several times as fast as onnxruntime and torch.
    """
    pooled: list[Floats] = []
    for pixels, count in zip(stages, extremes, strict=True):
        size = pixels.shape[-1]
        if size <= _SORTED_PIXELS:
            lower = upper = np.sort(pixels)
        else:
            lower, upper = np.partition(pixels, count - 1), np.partition(pixels, size - count)
        pooled += [*_mean_and_deviation(pixels), _mean(upper[..., size - count :]), _mean(lower[..., :count])]
    pooled += _mean_and_deviation(images.reshape(*images.shape[:2], -1))
    return np.concatenate(pooled, axis=-1)


def _mean_and_deviation(pixels: Floats) -> tuple[Floats, Floats]:
    """(batch, channels, pixels) -> two (batch, channels)."""
    mean = _mean(pixels)
    centred = pixels - mean[..., None]
    return mean, np.sqrt(np.vecdot(centred, centred) / np.float32(pixels.shape[-1]) + np.float32(SPREAD_EPSILON))


def _mean(pixels: Floats) -> Floats:
    """(batch, channels, pixels) -> (batch, channels). Takes half the time of `ndarray.mean` on rows this short."""
    total: Floats = np.add.reduce(pixels, axis=-1)
    return total / np.float32(pixels.shape[-1])


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
