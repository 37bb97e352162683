"""Preprocessing as ONNX nodes: what `models.images` does to an image between decoding and the net.

Resizing with antialiasing is a product with two matrices, whose weights the graph computes from the image's size:
operators for it differ among runtimes, and none has the Lanczos filter with which large images are scaled down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from models.images.decoding import CANONICAL_MAX_SIDE, CANONICAL_PIXELS, REDUCING_GAP
from models.images.image_config import (
    CONTRAST_LIMIT,
    CONTRASTS,
    REC601_LUMA,
    STATISTICS_OF_IMAGENET,
    ImageConfig,
)
from models.images.preprocessing import blur_matrix
from models.inference.exports.graph import GraphWriter

_Filter = Callable[[GraphWriter, str], str]
_CUBIC: Final = -0.5
"""Parameter of the cubic filter, as Pillow and torch have it with antialiasing."""
_RECIPROCAL_UNIT: Final = 2**24
"""What Pillow multiplies reciprocals by."""


class _Resampling(NamedTuple):
    """How to resize.

    Attributes:
        kernel: the filter.
        dtype: in which its weights are computed. Where two grey levels are equally near, the last bit decides, so they
            are computed as the service computes them: in float64 as Pillow does, or in float32 as torch does.
        rounded: whether to round to whole numbers after the columns.
    """

    kernel: _Filter
    dtype: type[np.floating[Any]]
    rounded: bool


class _Size(NamedTuple):
    """Names of a height and a width, int64 (1,) each."""

    height: str
    width: str


def prepare(graph: GraphWriter, images: str, config: ImageConfig) -> str:
    """Write what ``models.images.preprocessing.prepare`` computes.

    Args:
        graph: is written to.
        images: uint8 (count, height, width, 3), RGB.
        config: input format of the net.

    Returns:
        The name of float32 (count, channels, height, width), of one of the config's shapes.
    """
    pixels = graph.cast(images, np.float32)
    size = _Size(graph.op("Shape", images, start=1, end=2), graph.op("Shape", images, start=2, end=3))
    bounded = _bounded(graph, pixels, size)
    size = _Size(graph.op("Shape", bounded, start=2, end=3), graph.op("Shape", bounded, start=3, end=4))
    if config.channels == 1:
        luma = graph.constant(np.reshape(REC601_LUMA, (1, 3, 1, 1)))
        bounded = graph.op("ReduceSum", graph.op("Mul", bounded, luma), graph.indices(1), keepdims=1)
    target = _target(graph, size, config)
    resampling = _Resampling(_triangle if config.fit == "stretch" else _cubic, np.float32, rounded=False)
    resized = _resized(graph, bounded, _scales(graph, size, target), target, resampling)
    return _scaled(graph, _as_bytes(graph, resized), config)


def _bounded(graph: GraphWriter, pixels: str, size: _Size) -> str:
    """Scale an image down to the bounds of a canonical image, as Pillow does; smaller ones keep their size.

    `pixels` are (count, height, width, 3), the result is (count, 3, height, width).
    """
    area = graph.op("Mul", size.height, size.width)
    longest = graph.op("Max", size.height, size.width)
    large = graph.op(
        "Or",
        graph.op("Greater", area, graph.indices(CANONICAL_PIXELS)),
        graph.op("Greater", longest, graph.indices(CANONICAL_MAX_SIDE)),
    )

    def scaled_down(branch: GraphWriter) -> str:
        target = _canonical_size(branch, size)
        gap = branch.indices(REDUCING_GAP)
        factors = _Size(
            *(
                branch.op("Max", branch.op("Div", length, branch.op("Mul", wanted, gap)), branch.indices(1))
                for length, wanted in zip(size, target, strict=True)
            )
        )
        reduces = branch.op("Greater", branch.op("Max", *factors), branch.indices(1))
        reduced = branch.choose(
            branch.op("Squeeze", reduces),
            lambda inner: _reduced(inner, pixels, size, factors),
            lambda inner: _channels_first(inner, pixels),
        )
        # The last row and column of a reduced image stand for fewer pixels than the others.
        scales = _Size(
            *(
                branch.op("Div", scale, branch.cast(factor, np.float64))
                for scale, factor in zip(_scales(branch, size, target), factors, strict=True)
            )
        )
        return _as_bytes(
            branch, _resized(branch, reduced, scales, target, _Resampling(_lanczos, np.float64, rounded=True))
        )

    return graph.choose(graph.op("Squeeze", large), scaled_down, lambda branch: _channels_first(branch, pixels))


def _channels_first(graph: GraphWriter, pixels: str) -> str:
    return graph.op("Transpose", pixels, perm=[0, 3, 1, 2])


def _canonical_size(graph: GraphWriter, size: _Size) -> _Size:
    """Write ``models.images.decoding._canonical_size``."""
    pixels = graph.op("Min", graph.op("Mul", *size), graph.indices(CANONICAL_PIXELS))
    most, one = graph.indices(CANONICAL_MAX_SIDE), graph.indices(1)
    sides = [
        _integer_root(graph, graph.op("Div", graph.op("Mul", pixels, own), other)) for own, other in (size, size[::-1])
    ]
    longest = graph.op("Max", *sides, most)
    return _Size(*(graph.op("Max", graph.op("Div", graph.op("Mul", side, most), longest), one) for side in sides))


def _integer_root(graph: GraphWriter, square: str) -> str:
    """Round a square root down. The corrections make it exact where a runtime computes in float32."""
    root = graph.cast(graph.op("Floor", graph.op("Sqrt", graph.cast(square, np.float64))), np.int64)
    one = graph.indices(1)
    too_large = graph.cast(graph.op("Greater", graph.op("Mul", root, root), square), np.int64)
    root = graph.op("Sub", root, too_large)
    above = graph.op("Add", root, one)
    too_small = graph.cast(graph.op("LessOrEqual", graph.op("Mul", above, above), square), np.int64)
    return graph.op("Add", root, too_small)


def _reduced(graph: GraphWriter, pixels: str, size: _Size, factors: _Size) -> str:
    """Average blocks of factors.height x factors.width pixels, as `PIL.Image.reduce` does.

    Blocks at the lower and the right border may have fewer pixels. `pixels` are (count, height, width, 3), the result
    is (count, 3, height / factors.height, width / factors.width), rounded up.
    """
    one, zero, three = graph.indices(1), graph.indices(0), graph.indices(3)
    blocks = _Size(
        *(
            graph.op("Div", graph.op("Sub", graph.op("Add", length, factor), one), factor)
            for length, factor in zip(size, factors, strict=True)
        )
    )
    missing = [
        graph.op("Sub", graph.op("Mul", count, factor), length)
        for count, factor, length in zip(blocks, factors, size, strict=True)
    ]
    pads = graph.op("Concat", *[zero] * 5, *missing, zero, axis=0)
    padded = graph.op("Pad", pixels, pads)
    full_width = graph.op("Mul", blocks.width, factors.width)
    by_block = graph.op("Concat", graph.indices(-1), factors.height, graph.op("Mul", full_width, three), axis=0)
    rows = graph.op("ReduceSum", graph.op("Reshape", padded, by_block), graph.indices(1), keepdims=0)
    by_row = graph.op("Concat", graph.indices(-1), blocks.height, full_width, three, axis=0)
    rows = _channels_first(graph, graph.op("Reshape", rows, by_row))
    by_block = graph.op("Concat", graph.indices(-1), three, *blocks, factors.width, axis=0)
    total = graph.op("ReduceSum", graph.op("Reshape", rows, by_block), graph.indices(4), keepdims=0)
    counts = [_block_sizes(graph, *axis) for axis in zip(blocks, factors, size, strict=True)]
    count = graph.op(
        "Mul", graph.op("Unsqueeze", counts[0], graph.indices(1)), graph.op("Unsqueeze", counts[1], graph.indices(0))
    )
    half = graph.op("Floor", graph.op("Mul", count, graph.constant(0.5)))
    return _divided(graph, graph.op("Add", total, half), count)


def _divided(graph: GraphWriter, total: str, count: str) -> str:
    """Divide whole numbers and round down, as Pillow does: by a product with a rounded reciprocal in fixed point."""
    unit = graph.constant(_RECIPROCAL_UNIT, np.float64)
    reciprocal = graph.op("Floor", graph.op("Div", unit, graph.cast(count, np.float64)))
    product = graph.op("Mul", graph.cast(total, np.float64), reciprocal)
    return graph.cast(graph.op("Floor", graph.op("Div", product, unit)), np.float32)


def _block_sizes(graph: GraphWriter, count: str, factor: str, length: str) -> str:
    """Lengths of the blocks along one axis, float32 (count,)."""
    starts = graph.op("Mul", _range(graph, count, np.int64), factor)
    return graph.cast(graph.op("Min", graph.op("Sub", length, starts), factor), np.float32)


def _target(graph: GraphWriter, size: _Size, config: ImageConfig) -> _Size:
    """Write ``ImageConfig.shape_for``."""
    shapes = config.shapes
    if len(shapes) == 1:
        return _Size(*(graph.indices(side) for side in shapes[0]))
    height, width = (graph.cast(side, np.float64) for side in size)
    aspect = graph.op("Log", graph.op("Div", width, height))
    aspects = graph.constant([np.log(wide / high) for high, wide in shapes], np.float64)
    nearest = graph.op("ArgMin", graph.op("Abs", graph.op("Sub", aspects, aspect)), axis=0, keepdims=1)
    return _Size(*(graph.op("Gather", graph.indices(*sides), nearest) for sides in zip(*shapes, strict=True)))


def _scales(graph: GraphWriter, size: _Size, target: _Size) -> _Size:
    """How many pixels one pixel of the result stands for, along both axes, float64 (1,) each."""
    pairs = zip(size, target, strict=True)
    return _Size(
        *(graph.op("Div", graph.cast(own, np.float64), graph.cast(wanted, np.float64)) for own, wanted in pairs)
    )


def _resized(graph: GraphWriter, pixels: str, scales: _Size, target: _Size, resampling: _Resampling) -> str:
    """Resize (count, channels, height, width) with a filter, columns first."""
    lengths = (graph.op("Shape", pixels, start=axis, end=axis + 1) for axis in (2, 3))
    down, across = (  # (target.height, height) and (target.width, width)
        _filter_matrix(graph, length, wanted, scale, resampling)
        for length, wanted, scale in zip(lengths, target, scales, strict=True)
    )
    narrowed = graph.op("MatMul", pixels, graph.op("Transpose", across, perm=[1, 0]))
    return graph.op("MatMul", down, _as_bytes(graph, narrowed) if resampling.rounded else narrowed)


def _filter_matrix(graph: GraphWriter, length: str, wanted: str, scale: str, resampling: _Resampling) -> str:
    """Weights of every pixel along an axis for every pixel of the result: float32 (wanted, length)."""
    dtype = resampling.dtype
    half, one, scale = graph.constant(0.5, dtype), graph.constant(1.0, dtype), graph.cast(scale, dtype)
    centres = graph.op("Mul", graph.op("Add", _range(graph, wanted, dtype), half), scale)
    distance = graph.op(
        "Sub",
        graph.op("Unsqueeze", _range(graph, length, dtype), graph.indices(0)),
        graph.op("Unsqueeze", centres, graph.indices(1)),
    )
    inverse = graph.op("Div", one, graph.op("Max", scale, one))
    weights = resampling.kernel(graph, graph.op("Mul", graph.op("Add", distance, half), inverse))
    total = graph.op("ReduceSum", weights, graph.indices(1), keepdims=1)
    return graph.cast(graph.op("Div", weights, total), np.float32)


def _range(graph: GraphWriter, count: str, dtype: type[np.generic]) -> str:
    """0, 1, 2 … up to a count, int64 (1,)."""
    numbers = graph.op("Range", graph.constant(0, np.int64), graph.op("Squeeze", count), graph.constant(1, np.int64))
    return numbers if dtype is np.int64 else graph.cast(numbers, dtype)


def _triangle(graph: GraphWriter, distance: str) -> str:
    return graph.op("Max", graph.op("Sub", graph.constant(1.0), graph.op("Abs", distance)), graph.constant(0.0))


def _cubic(graph: GraphWriter, distance: str) -> str:
    """The filter of Keys, step by step in float32 as torch computes it."""

    def stepwise(first: str, *steps: tuple[str, float | str]) -> str:
        for kind, operand in steps:
            first = graph.op(kind, first, operand if isinstance(operand, str) else graph.constant(operand))
        return first

    x = graph.op("Abs", distance)
    inner = stepwise(x, ("Mul", _CUBIC + 2), ("Sub", _CUBIC + 3), ("Mul", x), ("Mul", x), ("Add", 1.0))
    outer = stepwise(x, ("Sub", 5.0), ("Mul", x), ("Add", 8.0), ("Mul", x), ("Sub", 4.0), ("Mul", _CUBIC))
    beyond = graph.op("Where", graph.op("Less", x, graph.constant(2.0)), outer, graph.constant(0.0))
    return graph.op("Where", graph.op("Less", x, graph.constant(1.0)), inner, beyond)


def _lanczos(graph: GraphWriter, distance: str) -> str:
    """The filter of Lanczos with three lobes: sinc(x) sinc(x / 3)."""

    def sinc(value: str) -> str:
        angle = graph.op("Mul", value, graph.constant(np.pi, np.float64))
        small = graph.op("Less", graph.op("Abs", angle), graph.constant(1e-6, np.float64))
        one = graph.constant(1.0, np.float64)
        angle = graph.op("Where", small, one, angle)
        return graph.op("Where", small, one, graph.op("Div", graph.op("Sin", angle), angle))

    lobes = graph.constant(3.0, np.float64)
    inside = graph.op("Less", graph.op("Abs", distance), lobes)
    weights = graph.op("Mul", sinc(distance), sinc(graph.op("Div", distance, lobes)))
    return graph.op("Where", inside, weights, graph.constant(0.0, np.float64))


def _as_bytes(graph: GraphWriter, values: str) -> str:
    """Round to whole numbers from 0 to 255."""
    return graph.op("Clip", graph.op("Round", values), graph.constant(0.0), graph.constant(255.0))


def _scaled(graph: GraphWriter, values: str, config: ImageConfig) -> str:
    """Write ``models.images.preprocessing.scale_values``."""
    if config.contrast == "imagenet":
        return graph.op("Mul", graph.op("Sub", values, graph.constant(127.0)), graph.constant(1 / 128))
    values = graph.op("Div", values, graph.constant(255.0))
    if config.contrast == "torchvision":
        mean, deviation = (graph.constant(np.reshape(each, (1, 3, 1, 1))) for each in STATISTICS_OF_IMAGENET)
        return graph.op("Div", graph.op("Sub", values, mean), deviation)
    return values if config.contrast == "none" else _normalised_contrast(graph, values, config)


def _normalised_contrast(graph: GraphWriter, values: str, config: ImageConfig) -> str:
    """Write ``models.images.preprocessing._normalise_contrast``."""
    parameters, channel = CONTRASTS[config.contrast], graph.indices(1)
    matrix = blur_matrix(config.side, parameters.sigma_of_side).numpy()
    blur, blur_across = graph.constant(matrix), graph.constant(matrix.T)

    def blurred(maps: str) -> str:
        return graph.op("MatMul", graph.op("MatMul", blur, maps), blur_across)

    grey = graph.op("ReduceMean", values, channel, keepdims=1)
    centred = graph.op("Sub", values, blurred(grey))
    power = graph.op("ReduceMean", graph.op("Mul", centred, centred), channel, keepdims=1)
    of_image = graph.op("ReduceMean", power, graph.indices(2, 3), keepdims=1)
    floor = graph.op(
        "Add",
        graph.op("Mul", of_image, graph.constant(parameters.floor_of_image**2)),
        graph.constant(parameters.floor**2),
    )
    deviation = graph.op("Sqrt", graph.op("Add", blurred(power), floor))
    limit = (graph.constant(-CONTRAST_LIMIT), graph.constant(CONTRAST_LIMIT))
    return graph.op("Clip", graph.op("Div", centred, deviation), *limit)
