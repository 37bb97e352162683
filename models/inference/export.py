"""Exports a net to ONNX, with the weights that differ by version as inputs of the graph.

One graph then serves every version of a net. Exporting takes seconds and needs the extra ``export``, so the graph is
written once, beside the checkpoint: ``surfaces.onnx`` beside ``surfaces.safetensors``. To write it again:

    python -m models.inference.export surfaces
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim
from torch.func import functional_call

from models.atomic_files import write_atomically
from models.checkpoint import find_checkpoint, load_checkpoint
from models.errors import CheckpointInvalid
from models.inference.array_predict import FEATURES, IMAGES, LOGITS, NET_CONFIG
from models.inference.embedding import LOCATION, OnnxEmbedder, graph_weights
from models.inference.onnx_backbone import EMBED_IMAGES
from models.nets import BackboneNet, Net, call_net_recording, heads
from models.nets.backbone import fold_batch_norms
from models.nets.normalisation import fold

_EXAMPLE_IMAGES, _EXAMPLE_WAYS = 2, 3

_AGREEMENT = 1e-3
"""Largest difference between features from torch and from onnxruntime, absolute and relative."""


def can_export() -> bool:
    """Return whether the packages that exporting needs are installed."""
    return importlib.util.find_spec("onnxscript") is not None


def export_onnx(net: Net) -> bytes:
    """Export a net and its head as one ONNX graph.

    The inputs are ``images``, float32 (images, channels, side, side), and the folded weights by name. The outputs are
    ``logits`` (images, n_way) and ``features`` (images, feature_count). The numbers of images and classes are dynamic.
    """
    images, weights = example_inputs(net)
    dynamic_images, dynamic_ways = Dim("images"), Dim("ways")
    head = (heads.WEIGHT, heads.BIAS)
    with _quiet_exporter():
        program = torch.onnx.export(
            _WithHead(net).eval(),
            (images, weights, {}),  # the empty dict: a last dict would be taken for keyword arguments
            input_names=[IMAGES, *weights],
            output_names=[LOGITS, FEATURES],
            dynamic_shapes=({0: dynamic_images}, {name: {0: dynamic_ways} if name in head else {} for name in weights}),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    graph = program.model_proto
    _strip(graph)
    graph.metadata_props.add(key=NET_CONFIG, value=json.dumps(net.config.to_json(), sort_keys=True))
    content: bytes = graph.SerializeToString()
    return content


def export_backbone(net: BackboneNet) -> bytes:
    """Export the frozen backbone of a net as an ONNX graph, if possible without the weights.

    `models.inference.embedding.OnnxEmbedder` then adds them from the checkpoint, so that they are stored once. The
    input is ``images``, float32 (images, channels, height, width); the outputs are the maps of each stage,
    (images, channels, pixels), which `OnnxEmbedder` pools. The number of images is dynamic; with the fit "area", so is
    their shape.
    """
    image = net.config.image
    images = torch.zeros(_EXAMPLE_IMAGES, image.channels, image.side, image.side)
    folded = _Stages(net.with_backbone(fold_batch_norms(net.backbone)))
    with _quiet_exporter():
        program = torch.onnx.export(
            folded.eval(),
            (images,),
            input_names=[EMBED_IMAGES],
            output_names=[f"stage_{index}" for index in range(len(net.config.stages))],
            dynamic_shapes=({0: Dim("images")},),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    proto = program.model_proto
    _strip(proto)
    if image.fit == "area":
        _free_height_and_width(proto.graph)
    _leave_out(proto.graph, graph_weights(net))
    content: bytes = proto.SerializeToString()
    return content


def checked_backbone_graph(net: BackboneNet) -> bytes:
    """Export a frozen backbone of any origin, and compare the graph with the net on images of every shape.

    Raises:
        CheckpointInvalid: the backbone cannot be exported, or its graph computes something else.
    """
    try:
        graph = export_backbone(net)
    except Exception as error:  # the exporter, and the code of a backbone, may raise anything
        raise CheckpointInvalid(f"the backbone cannot be exported: {' '.join(str(error).split())[:200]}") from error
    embedder, generator = OnnxEmbedder(graph, net), torch.Generator().manual_seed(0)
    for shape in net.config.image.shapes:
        images = torch.randn(_EXAMPLE_IMAGES + 1, net.config.image.channels, *shape, generator=generator)
        try:
            agrees = torch.allclose(embedder.embed(images), net.embed(images), rtol=_AGREEMENT, atol=_AGREEMENT)
        except Exception as error:  # onnxruntime raises classes of its own that share no base but Exception
            raise CheckpointInvalid(f"the graph does not run on images of {shape[0]} x {shape[1]}: {error}") from error
        if not agrees:
            raise CheckpointInvalid(f"the graph computes something else on images of {shape[0]} x {shape[1]}")
    return graph


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter of torch 2.13, which warns about its own internals and about packages that it can miss."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _free_height_and_width(graph: Any) -> None:
    """Make the graph independent of the images' shape, for which the exporter would take minutes of symbolic algebra.

    Only the outputs depend on it: maps are flattened to (images, channels, pixels). Backbones that reshape on their own
    are found out by `checked_backbone_graph`.
    """
    del graph.value_info[:]
    for axis, name in ((2, "height"), (3, "width")):
        graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    for output in graph.output:
        output.type.tensor_type.shape.dim[2].dim_param = f"pixels_of_{output.name}"
    reshapes = [node for node in graph.node if node.op_type == "Reshape"]
    for node in reshapes:
        del node.attribute[:]  # then 0 copies the number of images
    shapes = {node.input[1] for node in reshapes}
    for tensor in graph.initializer:
        if tensor.name in shapes and list(tensor.dims) == [3]:
            channels = np.frombuffer(tensor.raw_data, np.int64)[1]
            tensor.raw_data = np.array([0, channels, -1], np.int64).tobytes()


def _leave_out(graph: Any, weights: Mapping[str, Tensor]) -> None:
    """Mark the initializers that come from the checkpoint as stored elsewhere, and drop their values.

    A graph that does not take all weights as they are keeps its own: the exporter rearranges those of linear layers,
    for example, and leaves out a classifier's, and onnxruntime accepts no weights that a graph does not take.
    """
    declared = {tensor.name: tensor for tensor in graph.initializer}
    if not declared.keys() >= weights.keys():
        return
    for name in weights:
        tensor = declared[name]
        tensor.ClearField("raw_data")
        tensor.data_location = tensor.EXTERNAL
        location = tensor.external_data.add()
        location.key, location.value = "location", LOCATION


def _strip(proto: Any) -> None:
    """Remove stack traces of the exporter."""
    for element in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        element.doc_string = ""
        del element.metadata_props[:]


def write_graph(checkpoint: Path) -> Path:
    """Export the net of a checkpoint and write the graph beside it."""
    path, net = checkpoint.with_suffix(".onnx"), load_checkpoint(checkpoint).build_net()
    write_atomically(path, export_backbone(net) if isinstance(net, BackboneNet) else export_onnx(net))
    return path


class _Stages(nn.Module):
    """Calls `BackboneNet.stage_maps`, whose name the exporter does not know."""

    def __init__(self, net: BackboneNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.net.stage_maps(images))


class _WithHead(nn.Module):
    """Calls the net and a linear head with given weights."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        net_weights = {name: tensor for name, tensor in weights.items() if name not in (heads.WEIGHT, heads.BIAS)}
        features = functional_call(self.net, net_weights, (images,), tie_weights=False)
        return F.linear(features, weights[heads.WEIGHT], weights[heads.BIAS]), features


def example_inputs(net: Net) -> tuple[Tensor, dict[str, Tensor]]:
    """Inputs of zeros, and folded weights of the right shapes with a head of three classes."""
    images = torch.zeros(_EXAMPLE_IMAGES, *net.input_shape)
    weights = net.start()
    _, statistics = call_net_recording(net, {name: tensor[None] for name, tensor in weights.items()}, images[None])
    folded = fold(weights, {name: tensor[0] for name, tensor in statistics.items()})
    folded[heads.WEIGHT] = torch.zeros(_EXAMPLE_WAYS, net.feature_count)
    folded[heads.BIAS] = torch.zeros(_EXAMPLE_WAYS)
    return images, folded


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_graph(find_checkpoint(name))
