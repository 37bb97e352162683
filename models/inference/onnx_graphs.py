"""The nets as ONNX graphs whose weights are inputs: one graph scores images for every version of a net.

The graphs say what `features` of each net says under a `FoldedPass`, and `heads.logits` after it. They are written out
here rather than exported, so that nothing is traced when a service starts. It refuses to know who runs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from models.nets import Net, heads, resnet12
from models.nets.conv4 import Conv4
from models.nets.resnet12 import ResNet12
from models.nets.surface import PLAN, SPREAD_EPSILON, SurfaceNet

IMAGES, FEATURES, LOGITS = "images", "features", "logits"
"""Input float32 (images, channels, side, side); outputs float32 (images, feature_count) and (images, n_way)."""

_OPSET = 17
_IR_VERSION = 9
_EPSILON = "epsilon"


def has_graph(net: Net) -> bool:
    """Whether `graph_of` has one for the net."""
    return isinstance(net, Conv4 | SurfaceNet | ResNet12)


def graph_of(net: Net) -> ModelProto | None:
    """The net with its head as a graph of the folded weights' names; None for a net that has none written out.

    The numbers of images and classes are open; all other sizes are fixed.
    """
    drawing = _Drawing(net)
    if isinstance(net, Conv4):
        features = _conv4(drawing, net)
    elif isinstance(net, SurfaceNet):
        features = _surface(drawing)
    elif isinstance(net, ResNet12):
        features = _resnet12(drawing, net)
    else:
        return None
    return drawing.finished(features, net.feature_count)


def _conv4(drawing: _Drawing, net: Conv4) -> str:
    maps = IMAGES
    strided = net.config.pooling == "stride"
    for name in net.stage_names:
        maps = drawing.node("Relu", [drawing.conv(name, maps, 2 if strided else 1)])
        if not strided:
            maps = drawing.node("MaxPool", [maps], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    return drawing.node("Flatten", [maps], axis=1)


def _surface(drawing: _Drawing) -> str:
    maps = IMAGES
    pooled: list[str] = []
    for name, _, stride, _ in PLAN:
        maps = drawing.node("Relu", [drawing.conv(name, maps, stride)])
        if name != "block1":
            pooled += _mean_and_spread(drawing, maps)
    joined = drawing.node("Flatten", [drawing.node("Concat", pooled, axis=1)], axis=1)
    return drawing.standardised("pooled", joined)


def _resnet12(drawing: _Drawing, net: ResNet12) -> str:
    maps = IMAGES
    for name in net.stage_names:
        inner = maps
        for place in ("conv1", "conv2"):
            inner = drawing.node("LeakyRelu", [drawing.conv(f"{name}.{place}", inner, 1)], alpha=resnet12.SLOPE)
        ends = [drawing.conv(f"{name}.conv3", inner, 1), drawing.conv(f"{name}.shortcut", maps, 1)]
        joined = drawing.node("LeakyRelu", [drawing.node("Add", ends)], alpha=resnet12.SLOPE)
        maps = drawing.node("MaxPool", [joined], kernel_shape=[2, 2], strides=[2, 2])
    return drawing.node("Flatten", [drawing.node("GlobalAveragePool", [maps])], axis=1)


def _mean_and_spread(drawing: _Drawing, maps: str) -> list[str]:
    mean = drawing.node("GlobalAveragePool", [maps])
    apart = drawing.node("Sub", [maps, mean])
    variance = drawing.node("GlobalAveragePool", [drawing.node("Mul", [apart, apart])])
    return [mean, drawing.node("Sqrt", [drawing.node("Add", [variance, _EPSILON])])]


class _Drawing:
    """Nodes and inputs as they are written down."""

    def __init__(self, net: Net) -> None:
        image = net.config.image
        self._shapes = {name: tuple(tensor.shape) for name, tensor in net.start().items()}
        self._inputs = [_value(IMAGES, (IMAGES, image.channels, image.side, image.side))]
        self._nodes: list[NodeProto] = []

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node; gives the name of what comes out of it."""
        output = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def conv(self, name: str, maps: str, stride: int) -> str:
        """A folded convolution."""
        shape = self._shapes[f"{name}.weight"]
        weight, bias = self._weight(f"{name}.weight", shape), self._weight(f"{name}.bias", shape[:1])
        kernel = shape[-1]
        return self.node(
            "Conv", [maps, weight, bias], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4
        )

    def standardised(self, name: str, features: str) -> str:
        """A folded standardisation; its length is left open."""
        scale, shift = self._weight(f"{name}.scale", (name,)), self._weight(f"{name}.shift", (name,))
        return self.node("Add", [self.node("Mul", [features, scale]), shift])

    def finished(self, features: str, feature_count: int) -> ModelProto:
        """The graph, with a linear head on the features."""
        weight = self._weight(heads.WEIGHT, ("ways", feature_count))
        bias = self._weight(heads.BIAS, ("ways",))
        self._nodes.append(helper.make_node("Identity", [features], [FEATURES]))
        self._nodes.append(helper.make_node("Gemm", [features, weight, bias], [LOGITS], transB=1))
        outputs = [_value(FEATURES, (IMAGES, feature_count)), _value(LOGITS, (IMAGES, "ways"))]
        epsilon = numpy_helper.from_array(np.array([SPREAD_EPSILON], np.float32), _EPSILON)
        used = {name for node in self._nodes for name in node.input}
        constants = [epsilon] if _EPSILON in used else []
        graph = helper.make_graph(self._nodes, "net", self._inputs, outputs, constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)

    def _weight(self, name: str, shape: Sequence[int | str]) -> str:
        self._inputs.append(_value(name, shape))
        return name


def _value(name: str, shape: Sequence[int | str]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
