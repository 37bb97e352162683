"""Builds the ONNX graph of a whole version: from an image of any size to what the service predicts for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike
from torch import Tensor

from models.checkpoint import Checkpoint
from models.errors import ExportUnsupported
from models.images.preprocessing import ImageConfig
from models.inference.embedding import with_weights
from models.inference.exports import formats
from models.inference.exports.file import IMAGE, KNOWN, LABEL, SCORES, UNKNOWN_SCORE
from models.inference.exports.graph import GraphWriter, described
from models.inference.exports.net import Finish, NetWriter
from models.inference.exports.preprocessing import prepare
from models.nets import BackboneNet, Net
from models.weight_names import NOTES_CENTRE
from models.weights import Weights

SCORE_DIGITS: Final = 1e6
"""The service rounds scores to six digits before it compares them."""


@dataclass(frozen=True)
class ExportedNet:
    """What the graph of a version is built from.

    Attributes:
        net: of the checkpoint.
        image: its preprocessing.
        net_graph: ModelProto of the net, with its weights; None for a program of torch.
        folded: weights of the version, from `fold_calibrated`.
        unknown_threshold: unknown score above which an image is unknown; None if no image can be.
    """

    net: Net
    image: ImageConfig
    net_graph: Any
    folded: Weights
    unknown_threshold: float | None


def exported_net(
    checkpoint: Checkpoint,
    folded: Weights,
    unknown_threshold: float | None,
    calibration: Sequence[Tensor] | None = None,
) -> ExportedNet:
    """Return what the graph of a version is built from.

    Args:
        checkpoint: that the version was adapted from.
        folded: weights of the version, from `fold_calibrated`.
        unknown_threshold: unknown score above which an image is unknown; None if no image can be.
        calibration: canonical images that set the range of each layer's values, for a net in 8-bit integers; None for
            one in float32.

    Raises:
        ExportUnsupported: the packages are not installed, or the net cannot be exported so.
    """
    formats.require("onnx")
    import onnx

    require_images_alone(checkpoint, folded)
    config, net = checkpoint.net_config, checkpoint.build_net().eval()
    content = checkpoint.onnx_graph or _exported(net)
    graph = with_weights(content, net) if isinstance(net, BackboneNet) else onnx.load_from_string(content)
    if calibration is not None:
        graph = onnx.load_from_string(_quantised(checkpoint, net, graph, calibration))
    return ExportedNet(net, config.image, graph, folded, unknown_threshold)


def require_images_alone(checkpoint: Checkpoint, folded: Weights) -> None:
    """Raises ExportUnsupported if a net, or a version of it, takes more than an image."""
    if NOTES_CENTRE in folded:
        raise ExportUnsupported(
            "the version was taught with texts, and an exported file takes images alone; teach the images without "
            "texts in a client of their own and export that version"
        )
    second = checkpoint.net_config.second
    if second != "none":
        raise ExportUnsupported(
            f"the model {checkpoint.name!r} takes a {second} with each image, and an exported file takes images "
            "alone; export a version of a model that takes images alone"
        )


def _quantised(checkpoint: Checkpoint, net: Net, graph: Any, images: Sequence[Tensor]) -> bytes:
    from models.inference.quantise import in_integers

    if not isinstance(net, BackboneNet):
        raise ExportUnsupported(
            f"the model {checkpoint.name!r} has no frozen backbone, so its kernels differ by version and are not "
            "quantised; export with precision=float32"
        )
    return in_integers(graph, images, checkpoint.net_config.image)


def _exported(net: Net) -> bytes:
    from models.inference.export import export_backbone, export_onnx

    return export_backbone(net) if isinstance(net, BackboneNet) else export_onnx(net)


def build_graph(version: ExportedNet, *, batch: bool = False) -> Any:
    """Return the ModelProto of a version.

    The input ``image`` is uint8 (height, width, 3), RGB, of any size. The outputs are ``scores`` float32 (n_way,), the
    probabilities in the order of the classes; ``label`` int64, the index of the most probable class; ``unknown_score``
    float32; and ``known`` bool. A version that measures no novelty has the unknown score NaN.

    Args:
        version: what to build it from.
        batch: all of them have one more axis in front, of images of one size.
    """
    graph = GraphWriter()
    count: list[int | str] = ["count"] if batch else []
    images = IMAGE if batch else graph.op("Unsqueeze", IMAGE, graph.indices(0))
    writer = NetWriter(graph, version.net, version.net_graph.graph, version.folded)
    prepared = prepare(graph, images, version.image)
    n_way = len(version.folded["head.bias"])
    found: dict[str, tuple[DTypeLike, list[int | str]]] = {
        SCORES: (np.float32, [n_way]),
        LABEL: (np.int64, []),
        UNKNOWN_SCORE: (np.float32, []),
        KNOWN: (np.bool_, []),
    }

    def finish(part: GraphWriter, probabilities: str, familiarity: str | None) -> list[str]:
        scaled = part.op("Mul", part.cast(probabilities, np.float64), part.constant(SCORE_DIGITS, np.float64))
        label = part.op("ArgMax", part.cast(part.op("Round", scaled), np.float32), axis=1, keepdims=0)
        results = [probabilities, label, *_unknown(part, familiarity, label, version.unknown_threshold)]
        return results if batch else [part.op("Squeeze", each, part.indices(0)) for each in results]

    finishing = Finish(finish, [dtype for dtype, _ in found.values()])
    results = writer.predict(graph, prepared, version.folded, finishing)
    outputs = {
        name: (value, described(name, dtype, count + shape))
        for (name, (dtype, shape)), value in zip(found.items(), results, strict=True)
    }
    return graph.finish(
        version.net_graph.opset_import, [described(IMAGE, np.uint8, [*count, "height", "width", 3])], outputs
    )


def _unknown(graph: GraphWriter, familiarity: str | None, label: str, threshold: float | None) -> tuple[str, str]:
    """The unknown score, float32 (count,), and whether the verdict is "known", bool (count,)."""
    count = graph.op("Shape", label)
    always = graph.op("Expand", graph.constant(True, np.bool_), count)
    if familiarity is None:
        return graph.op("Expand", graph.constant(np.nan), count), always
    digits = graph.constant(SCORE_DIGITS, np.float64)
    score = graph.op("Sub", digits, graph.op("Round", graph.op("Mul", familiarity, digits)))
    shown = graph.cast(graph.op("Div", score, digits), np.float32)
    if threshold is None:
        return shown, always
    return shown, graph.op("LessOrEqual", score, graph.constant(np.rint(threshold * SCORE_DIGITS), np.float64))
