"""Many versions under onnxruntime on the CPU: one session for all of them, a version's weights are inputs of its run.

The runtime computes convolutions fastest on weights that it has laid out itself, which it does when they are constants
of the graph. Here they are not; so a graph with numbers for constants is given to it once, where each number went is
read back, and every version's weights are laid out so when they are made ready. It refuses to know clients and files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from models.inference.onnx_graphs import FEATURES, IMAGES, LOGITS, graph_of
from models.inference.predictor import BatchPredictor, NetOutput, PredictionRequest
from models.nets import Net, heads
from models.weights import Weights

_IMAGES_AT_ONCE = 8
"""More in one run are no faster, and their maps no longer fit the processor's cache."""

_LARGEST_WHOLE_NUMBER = 2**24
"""Up to here float32 holds every whole number."""

_AGREEMENT = 1e-4
"""How closely both layouts have to agree, relative to the largest logit, for the runtime's own to be used."""

_ALL, _BASIC = "ORT_ENABLE_ALL", "ORT_ENABLE_BASIC"
"""How far the runtime rewrites a graph: layouts too, or what holds on every machine."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the numbers of one weight go: `order` (flat, -1 for a filled-up zero) indexes its flat values."""

    source: str
    order: NDArray[np.int64]


class OnnxPredictor(BatchPredictor):
    """See `BatchPredictor`.

    Args:
        net: the architecture; one that `graph_of` has a graph for.
        threads: of one run.
        laid_out: lay weights out as the runtime does; False keeps them as they come, to compare.
    """

    def __init__(self, net: Net, threads: int = 1, laid_out: bool = True) -> None:
        graph = graph_of(net)
        if graph is None:
            raise NotImplementedError(
                f"{type(net).__name__} has no graph in models/inference/onnx_graphs.py; use TorchPredictor"
            )
        self._layouts: dict[str, _Layout] = {}
        self._session = _session(graph, threads, _ALL)
        if laid_out:
            self._lay_out_as_the_runtime_does(net, graph, threads)

    def _convert(self, folded: Weights) -> tuple[Mapping[str, Any], int]:
        values = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in folded.items()}
        values = _laid_out(values, self._layouts)
        return values, sum(array.nbytes for array in values.values())

    def _forward(self, requests: Sequence[PredictionRequest]) -> list[NetOutput]:
        return [self._run(one.weights.values, one.images) for one in requests]

    def _run(self, weights: Mapping[str, Any], images: NDArray[np.float32]) -> NetOutput:
        if len(images) <= _IMAGES_AT_ONCE:
            return NetOutput(*self._session.run([LOGITS, FEATURES], {IMAGES: images, **weights}))
        starts = range(0, len(images), _IMAGES_AT_ONCE)
        pieces = [self._run(weights, images[start : start + _IMAGES_AT_ONCE]) for start in starts]
        logits, features = zip(*((piece.logits, piece.features) for piece in pieces), strict=True)
        return NetOutput(np.concatenate(logits), np.concatenate(features))

    def _lay_out_as_the_runtime_does(self, net: Net, graph: ModelProto, threads: int) -> None:
        """Change to the layout that the runtime prefers on this machine, if it can be read and scores the same."""
        found = _preferred(graph)
        if found is None:
            return
        arranged, layouts = found
        session = _session(arranged, threads, _BASIC)
        values = _trial(net, graph)
        weights = {name: value for name, value in values.items() if name != IMAGES}
        expected = self._session.run([LOGITS], values)[0]
        got = session.run([LOGITS], {IMAGES: values[IMAGES], **_laid_out(weights, layouts)})[0]
        if np.abs(got - expected).max() <= _AGREEMENT * np.abs(expected).max():
            self._session, self._layouts = session, layouts


def _session(graph: ModelProto, threads: int, level: str, saved: Path | None = None) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 3  # errors; it warns that a saved graph is for this machine alone, where it stays
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if saved is not None:
        options.optimized_model_filepath = str(saved)
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _laid_out(values: Mapping[str, NDArray[Any]], layouts: Mapping[str, _Layout]) -> dict[str, NDArray[Any]]:
    moved = {layout.source for layout in layouts.values()}
    kept = {name: value for name, value in values.items() if name not in moved}
    for name, layout in layouts.items():
        flat = values[layout.source].reshape(-1)
        kept[name] = np.where(layout.order < 0, np.float32(0), flat[layout.order])
    return kept


def _preferred(graph: ModelProto) -> tuple[ModelProto, dict[str, _Layout]] | None:
    """The graph as the runtime rewrites it when its convolutions' weights are constants, and where their numbers went.

    None where that cannot be told: too many numbers, or one that is no longer among those given.
    """
    numbered, firsts = _numbered(graph)
    if numbered is None:
        return None
    with tempfile.TemporaryDirectory(prefix="anole-graph-") as folder:
        saved = Path(folder) / "arranged.onnx"
        _session(numbered, 1, _ALL, saved)
        arranged = onnx.load(str(saved))
    layouts: dict[str, _Layout] = {}
    constants = []
    for constant in arranged.graph.initializer:
        if constant.name in {given.name for given in graph.graph.initializer}:
            constants.append(constant)
            continue
        layout = _layout(numpy_helper.to_array(constant), firsts)
        if layout is None:
            return None
        layouts[constant.name] = layout
    _make_inputs(arranged, layouts, constants)
    return arranged, layouts


def _numbered(graph: ModelProto) -> tuple[ModelProto | None, dict[str, tuple[int, int]]]:
    """The graph with each convolution's numbers counted through from 1; by weight its first number and their count."""
    sizes = {value.name: _sizes(value) for value in graph.graph.input}
    weights = [name for node in graph.graph.node if node.op_type == "Conv" for name in node.input[1:]]
    copy = ModelProto()
    copy.CopyFrom(graph)
    firsts: dict[str, tuple[int, int]] = {}
    first = 1
    for name in weights:
        count = int(np.prod(sizes[name]))
        firsts[name] = (first, count)
        numbers = np.arange(first, first + count, dtype=np.float32).reshape(sizes[name])
        copy.graph.initializer.append(numpy_helper.from_array(numbers, name))
        first += count
    open_inputs = [value for value in graph.graph.input if value.name not in firsts]
    del copy.graph.input[:]
    copy.graph.input.extend(open_inputs)
    return (copy if first <= _LARGEST_WHOLE_NUMBER else None), firsts


def _layout(values: NDArray[np.float32], firsts: Mapping[str, tuple[int, int]]) -> _Layout | None:
    """Which weight's numbers these are, and in which order."""
    largest = float(values.max())
    for source, (first, count) in firsts.items():
        if first <= largest < first + count:
            order = values.astype(np.int64) - first
            order[values == 0] = -1
            inside = ((order >= -1) & (order < count)).all() and (values == np.rint(values)).all()
            return _Layout(source, order) if inside else None
    return None


def _make_inputs(graph: ModelProto, layouts: Mapping[str, _Layout], constants: Sequence[TensorProto]) -> None:
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(constants)
    del graph.graph.value_info[:]
    for name, layout in layouts.items():
        graph.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(layout.order.shape)))


def _trial(net: Net, graph: ModelProto) -> dict[str, NDArray[np.float32]]:
    """Two images and weights of ordinary size, the same in every run."""
    draws = np.random.default_rng(0)
    given: dict[str, NDArray[np.float32]] = {}
    for value in graph.graph.input:
        named = {IMAGES: 2, "ways": 5}
        sizes = [size if isinstance(size, int) else named.get(size, net.feature_count) for size in _sizes(value)]
        fan_in = max(1, int(np.prod(sizes[1:])))
        spread = 1.0 if value.name in (IMAGES, heads.BIAS) else (2.0 / fan_in) ** 0.5
        given[value.name] = draws.normal(0, spread, sizes).astype(np.float32)
    return given


def _sizes(value: Any) -> list[Any]:
    """An input's sizes; open ones by their names."""
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
