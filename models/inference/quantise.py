"""Makes a start with a quantised backbone: 8-bit integers in place of float32, for processors.

A prediction then takes about three quarters of the time. Pass images like those that the start will see, a folder or
.zip with one folder per class:

    python -m models.inference.quantise efficientnet-lite0 IMAGES OUT

This writes ``efficientnet-lite0-int8.safetensors`` and ``.onnx`` to the folder OUT; serve it with
``anole serve --model OUT/efficientnet-lite0-int8.safetensors``. It is a start of its own, with a digest of its own,
because a version that was adapted on features in float32 loses up to 3 points on quantised ones. Needs the extra
``export``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.atomic_files import write_atomically
from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.data.folders import open_folder
from models.errors import AnoleError, CheckpointInvalid
from models.images.preprocessing import ImageConfig, prepare_by_shape
from models.inference.embedding import with_weights
from models.inference.onnx_backbone import EMBED_IMAGES
from models.nets import BackboneNet

_CALIBRATION_IMAGES = 100
"""Images that set the range of each layer's values."""

_LARGEST_WEIGHT = 63
"""Weights have 7 bits: products with 8 bits overflow on processors without VNNI."""


def quantised(checkpoint: Checkpoint, images: Sequence[Tensor]) -> Checkpoint:
    """Make a start with quantised kernels and an ONNX graph that computes in 8-bit integers.

    Args:
        checkpoint: has a frozen backbone and an ONNX graph.
        images: canonical images, uint8 (1 or 3, height, width) each. They set the range of each layer's values.

    Raises:
        CheckpointInvalid: the checkpoint has no frozen backbone or no ONNX graph.
    """
    net, graph = checkpoint.build_net(), checkpoint.onnx_graph
    if not isinstance(net, BackboneNet) or graph is None:
        raise CheckpointInvalid(
            f"the checkpoint {checkpoint.name!r} has no frozen backbone with an ONNX graph; quantise one that has, "
            "such as efficientnet-lite0"
        )
    kernels = {name: _rounded(tensor) if tensor.ndim > 1 else tensor for name, tensor in checkpoint.backbone.items()}
    net.backbone.load_state_dict(kernels)
    integers = in_integers(with_weights(graph, net), images, checkpoint.net_config.image)
    return replace(checkpoint, name=f"{checkpoint.name}-int8", backbone=kernels, onnx_graph=integers)


def _rounded(kernel: Tensor) -> Tensor:
    """Round to the multiples of one number for each output channel."""
    step = kernel.float().abs().flatten(1).amax(1) / _LARGEST_WEIGHT
    step = step.clamp(min=torch.finfo(torch.float32).tiny).view(-1, *[1] * (kernel.ndim - 1))
    return ((kernel.float() / step).round() * step).to(kernel.dtype)


class _Calibration:
    """Passes one image after another to onnxruntime, which calls `get_next` until it returns None."""

    def __init__(self, images: Iterable[NDArray[np.float32]]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        image = next(self._images, None)
        return None if image is None else {EMBED_IMAGES: image}


def in_integers(proto: Any, images: Sequence[Tensor], config: ImageConfig) -> bytes:
    """The graph of a ModelProto with operators of 8-bit integers.

    Args:
        proto: of a frozen backbone, with its weights.
        images: canonical images that set the range of each layer's values.
        config: their preprocessing.
    """
    from onnxruntime.quantization import (  # type: ignore[import-untyped]  # takes a second, and needs the extra
        QuantFormat,
        QuantType,
        quantize_static,
    )

    prepared = (row[None].numpy() for _, batch in prepare_by_shape(images, config) for row in batch)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "integers.onnx"
        quantize_static(
            proto,
            written,
            _Calibration(prepared),
            quant_format=QuantFormat.QOperator,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )
        return written.read_bytes()


def _write(name: str, images: Path, out: Path) -> None:
    """Quantise the named start with about `_CALIBRATION_IMAGES` images, evenly from all classes."""
    checkpoint = load_checkpoint(name)
    dataset = open_folder(images, replace(checkpoint.net_config.image, fit="stretch"))
    each = -(-_CALIBRATION_IMAGES // len(dataset))
    made = quantised(checkpoint, [image for index in range(len(dataset)) for image in dataset.images(index)[:each]])
    path = out / f"{made.name}.safetensors"
    save_checkpoint(made, path)
    write_atomically(path.with_suffix(".onnx"), made.onnx_graph or b"")
    sys.stdout.write(f"wrote {path}; to serve it: anole serve --model {path}\n")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Make a start with a quantised backbone.")
    parser.add_argument("name", metavar="NAME", help="start with a frozen backbone: a shipped name, or a path")
    parser.add_argument("images", metavar="IMAGES", type=Path, help="folder or .zip with one folder per class")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the new start")
    arguments = parser.parse_args()
    try:
        _write(arguments.name, arguments.images, arguments.out)
    except AnoleError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
