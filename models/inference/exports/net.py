"""A version's net, head and novelty score as ONNX nodes: what `models.inference.predict` computes from prepared images.

The nodes of the net itself come from the graph that lies beside the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from models.feature_arrays import LEAST_PATCH_DISTANCE, SPREAD_EPSILON
from models.inference.array_predict import IMAGES
from models.inference.exports.graph import GraphWriter
from models.inference.onnx_backbone import EMBED_IMAGES, POOLED
from models.nets import BackboneNet, heads, patch_memory
from models.nets.head_posterior import HeadPosterior
from models.weights import Weights

_SHORTEST = 1e-12
_NET = "net."
"""Prefix of the constants of the net's graph."""


class _Outputs(NamedTuple):
    """Names of logits (count, n_way) and features (count, features), and of lengths (count,) or None."""

    logits: str
    features: str
    length: str | None


class Finish(NamedTuple):
    """Writes what comes after the net.

    Attributes:
        write: turns the names of probabilities (count, n_way) and of in-distribution scores, float64 (count,) or None,
            into those of the results.
        dtypes: of the results.
    """

    write: Callable[[GraphWriter, str, str | None], list[str]]
    dtypes: Sequence[DTypeLike]


class NetWriter:
    """Writes the net of one version.

    Args:
        graph: is written to.
        net: of the checkpoint.
        net_graph: the GraphProto beside the checkpoint, with its weights.
        folded: weights of the version, from `fold_calibrated`.
    """

    def __init__(self, graph: GraphWriter, net: Any, net_graph: Any, folded: Weights) -> None:
        from onnx import numpy_helper

        self._net = net
        self._weights = {name: tensor.detach().cpu().float().numpy() for name, tensor in folded.items()}
        self._net_graph = type(net_graph)()
        self._net_graph.CopyFrom(net_graph)
        names = {tensor.name: f"{_NET}{tensor.name}" for tensor in net_graph.initializer}
        names |= {name: f"{_NET}{name}" for name in self._taken_weights()}
        for node in self._net_graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
        graph.initializers.update({names[each.name]: numpy_helper.to_array(each) for each in net_graph.initializer})
        graph.initializers.update({f"{_NET}{name}": self._weights[name] for name in self._taken_weights()})

    def predict(self, graph: GraphWriter, prepared: str, folded: Weights, finish: Finish) -> list[str]:
        """Write what `BatchPredictor.predict` computes.

        Args:
            graph: is written to.
            prepared: float32 (count, channels, height, width).
            folded: as given to the constructor.
            finish: writes what comes after the net. It is written into both branches of the second look, so that
                nothing comes after them: OpenVINO 2026.4 computes wrong values from the results of branches when it
                runs a graph for the first time.

        Returns:
            The names of the results.
        """
        outputs = self._outputs(graph, prepared)

        def finished(writer: GraphWriter, logits: str) -> list[str]:
            return finish.write(writer, *self._predictions(writer, outputs._replace(logits=logits), folded))

        if heads.SECOND_LOOK not in folded or not isinstance(self._net, BackboneNet):
            return finished(graph, outputs.logits)
        lead, doubtful = self._doubt(graph, outputs.logits)
        return graph.choose_all(
            doubtful,
            lambda branch: finished(branch, self._second_look(branch, prepared, outputs.logits, lead)),
            lambda branch: finished(branch, outputs.logits),
            finish.dtypes,
        )

    def _predictions(self, graph: GraphWriter, outputs: _Outputs, folded: Weights) -> tuple[str, str | None]:
        """Write the probabilities and the in-distribution scores for given logits; see `predict`."""
        posterior = HeadPosterior.of(folded)
        if posterior is None:
            probabilities = graph.op("Softmax", outputs.logits, axis=1)
        else:
            probabilities = _averaged(graph, outputs.logits, posterior)
        distance = self._distance(graph, outputs)
        if distance is None:
            return probabilities, None
        confidence = _reduced(graph, "ReduceMax", probabilities)
        familiarity = graph.op("Div", confidence, graph.op("Add", confidence, distance))
        return probabilities, graph.cast(familiarity, np.float64)

    def _taken_weights(self) -> list[str]:
        """The weights that the net's graph takes as inputs."""
        return [each.name for each in self._net_graph.input if each.name not in (EMBED_IMAGES, IMAGES)]

    def _outputs(self, graph: GraphWriter, prepared: str) -> _Outputs:
        results = graph.insert(self._net_graph, {self._net_graph.input[0].name: prepared})
        if not isinstance(self._net, BackboneNet):
            return _Outputs(results[0], results[1], None)
        if [output.name for output in self._net_graph.output] == [POOLED]:
            return self._head(graph, results[0], None)
        pooled = [
            part for maps, most in zip(results, self._net.extremes, strict=True) for part in _pool(graph, maps, most)
        ]
        flat = graph.op("Reshape", prepared, graph.indices(0, 0, -1))
        pooled += _mean_and_deviation(graph, flat)
        stage = self._net.patch_stage
        return self._head(graph, graph.op("Concat", *pooled, axis=1), None if stage is None else results[stage])

    def _head(self, graph: GraphWriter, pooled: str, patch_maps: str | None) -> _Outputs:
        """Write `FeaturePredictor`: standardise, limit, compare with the patch memory, and score."""
        own = {name: graph.constant(array) for name, array in self._weights.items() if name in _AFTER_BACKBONE}
        standardised = graph.op("Add", graph.op("Mul", pooled, own["pooled.scale"]), own["pooled.shift"])
        limited = standardised
        if "pooled.limit" in own:
            lowest = graph.op("Neg", own["pooled.limit"])
            limited = graph.op("Min", graph.op("Max", standardised, lowest), own["pooled.limit"])
        features = _same_length(graph, limited)
        if patch_memory.PATCHES in own and patch_maps is not None:
            compared = self._compared(graph, patch_maps, own)
            features = graph.op("Concat", features, compared, axis=1)
        logits = graph.op("Gemm", features, own[heads.WEIGHT], own[heads.BIAS], transB=1)
        return _Outputs(logits, features, graph.op("Squeeze", _rms(graph, standardised), graph.indices(1)))

    def _compared(self, graph: GraphWriter, maps: str, own: Mapping[str, str]) -> str:
        """Write `BackboneNet.patches` and `patch_memory.compare`: (count, n_way * FEATURES_PER_CLASS)."""
        patches = self._weights[patch_memory.PATCHES]  # (n_way, stored, channels, places)
        channels, places = patches.shape[2:]
        projection = patch_memory.projection(self._patch_channels()).numpy()
        projected = graph.op("MatMul", graph.constant(projection), maps)
        padded = graph.op("Pad", projected, graph.indices(0, 0, 0, 0, 0, places))
        cut = graph.op("Slice", padded, graph.indices(0), graph.indices(places), graph.indices(2))
        image = graph.op("Reshape", cut, graph.indices(-1, 1, 1, channels, places))
        difference = graph.op("Sub", image, own[patch_memory.PATCHES])
        if patch_memory.BASIS in own:
            difference = self._beyond_usual(graph, difference, own[patch_memory.BASIS])
        squares = graph.op("ReduceMean", graph.op("Mul", difference, difference), graph.indices(3), keepdims=0)
        nearest = graph.op("ReduceMin", squares, graph.indices(2), keepdims=0)  # (count, n_way, places)
        summarised = _summarise(graph, nearest, places)
        standardised = graph.op("Mul", summarised, own[patch_memory.SCALE])
        return _same_length(graph, graph.op("Add", standardised, own[patch_memory.SHIFT]))

    def _beyond_usual(self, graph: GraphWriter, difference: str, basis: str) -> str:
        """Write `patch_memory.beyond_usual` for differences (count, n_way, stored, channels, places)."""
        n_way, stored, channels, places = self._weights[patch_memory.PATCHES].shape
        flat = graph.op("Reshape", difference, graph.indices(-1, n_way, stored, channels * places))
        shares = graph.op("MatMul", flat, graph.op("Transpose", basis, perm=[1, 0]))
        beyond = graph.op("Sub", flat, graph.op("MatMul", shares, basis))
        return graph.op("Reshape", beyond, graph.indices(-1, n_way, stored, channels, places))

    def _patch_channels(self) -> int:
        """Channels of the stage that local features come from."""
        stage = self._net.patch_stage
        return int(self._net_graph.output[stage].type.tensor_type.shape.dim[1].dim_value)

    def _doubt(self, graph: GraphWriter, logits: str) -> tuple[str, str]:
        """The lead of the best class, (count, 1), and whether `heads.second_look` is due for any image, bool ()."""
        best, _ = graph.ops("TopK", logits, graph.indices(2), axis=1, outputs=2)
        first, second = graph.ops("Split", best, outputs=2, axis=1, num_outputs=2)
        lead = graph.op("Sub", first, second)
        return lead, graph.op("Less", graph.op("ReduceMin", lead, keepdims=0), self._margin(graph))

    def _margin(self, graph: GraphWriter) -> str:
        return graph.constant(self._weights[heads.SECOND_LOOK].reshape(()))

    def _second_look(self, graph: GraphWriter, prepared: str, logits: str, lead: str) -> str:
        """Write `heads.second_look`: logits (count, n_way)."""
        share = graph.op("Div", graph.op("Mul", lead, graph.constant(-2.0)), self._margin(graph))
        share = graph.op("Add", share, graph.constant(2.0))
        share = graph.op("Clip", share, graph.constant(0.0), graph.constant(1.0))
        axes, ends, steps = graph.indices(2, 3), graph.indices(_FIRST, _FIRST), graph.indices(-1, -1)
        turned = graph.op("Slice", prepared, graph.indices(-1, -1), ends, axes, steps)
        difference = graph.op("Sub", self._outputs(graph, turned).logits, logits)
        half = graph.op("Mul", difference, graph.constant(0.5))
        return graph.op("Add", logits, graph.op("Mul", share, half))

    def _distance(self, graph: GraphWriter, outputs: _Outputs) -> str | None:
        """Write `novelty.novelty_distance`: (count,)."""
        weights = self._weights
        if heads.LEVEL in weights:
            best = _reduced(graph, "ReduceMax", outputs.logits)
            distance = graph.op("Exp", graph.op("Div", best, graph.constant(-weights[heads.LEVEL].reshape(()))))
            if heads.LENGTH not in weights or outputs.length is None:
                return distance
            usual = graph.constant(weights[heads.LENGTH].reshape(()))
            beyond = graph.op("Max", graph.op("Div", outputs.length, usual), graph.constant(1.0))
            return graph.op("Mul", distance, graph.op("Mul", beyond, beyond))
        if heads.MEANS not in weights:
            return None
        label = graph.op("ArgMax", outputs.logits, axis=1, keepdims=0)
        nearest = graph.op("Gather", graph.constant(weights[heads.MEANS]), label)
        difference = graph.op("Sub", outputs.features, nearest)
        squares = graph.op("ReduceSum", graph.op("Mul", difference, difference), graph.indices(1), keepdims=0)
        return graph.op("Mul", squares, graph.constant(np.square(weights[heads.GAIN]).reshape(())))


_AFTER_BACKBONE = ("pooled.scale", "pooled.shift", "pooled.limit", heads.WEIGHT, heads.BIAS, *patch_memory.NAMES)
_FIRST = -(2**31) + 1
"""End of a slice that runs backwards over a whole axis."""


def _pool(graph: GraphWriter, pixels: str, extremes: int) -> list[str]:
    """Mean, deviation, and means of the largest and smallest: (count, channels, pixels) -> four (count, channels)."""
    last, most = graph.indices(2), graph.indices(extremes)
    ends = []
    for largest in (1, 0):
        values, _ = graph.ops("TopK", pixels, most, axis=2, largest=largest, sorted=0, outputs=2)
        ends.append(graph.op("ReduceMean", values, last, keepdims=0))
    return [*_mean_and_deviation(graph, pixels), *ends]


def _mean_and_deviation(graph: GraphWriter, pixels: str) -> list[str]:
    last = graph.indices(2)
    mean = graph.op("ReduceMean", pixels, last, keepdims=1)
    centred = graph.op("Sub", pixels, mean)
    variance = graph.op("ReduceMean", graph.op("Mul", centred, centred), last, keepdims=0)
    return [
        graph.op("Squeeze", mean, last),
        graph.op("Sqrt", graph.op("Add", variance, graph.constant(SPREAD_EPSILON))),
    ]


def _rms(graph: GraphWriter, features: str) -> str:
    """Root mean square: (count, features) -> (count, 1)."""
    squares = graph.op("Mul", features, features)
    return graph.op("Sqrt", graph.op("ReduceMean", squares, graph.indices(1), keepdims=1))


def _same_length(graph: GraphWriter, features: str) -> str:
    """Scale to a mean square of 1."""
    length = graph.op("Max", _rms(graph, features), graph.constant(_SHORTEST))
    return graph.op("Div", features, length)


def _reduced(graph: GraphWriter, kind: str, values: str) -> str:
    return graph.op(kind, values, graph.indices(1), keepdims=0)


def _summarise(graph: GraphWriter, squares: str, places: int) -> str:
    """Write ``patch_memory._summarise``: (count, n_way, places) -> (count, n_way * FEATURES_PER_CLASS)."""
    last, counts = graph.indices(2), patch_memory.largest_counts(places)
    largest, _ = graph.ops("TopK", squares, graph.indices(max(counts)), axis=2, outputs=2)
    parts = []
    for count in counts:
        chosen = graph.op("Slice", largest, graph.indices(0), graph.indices(count), last)
        parts.append(graph.op("ReduceMean", chosen, last, keepdims=1))
    parts.append(graph.op("ReduceMean", squares, last, keepdims=1))
    joined = graph.op("Max", graph.op("Concat", *parts, axis=2), graph.constant(LEAST_PATCH_DISTANCE))
    return graph.op("Reshape", graph.op("Log", joined), graph.indices(0, -1))


def _averaged(graph: GraphWriter, logits: str, posterior: HeadPosterior) -> str:
    """Write `HeadPosterior.predict`: (count, n_way)."""

    def constant(values: ArrayLike) -> str:
        return graph.constant(values, np.float64)

    gram, bias = posterior.gram.numpy(), posterior.bias.numpy()
    scores = graph.cast(logits, np.float64)
    products = graph.op("Sub", scores, constant(bias))
    solved = graph.op("MatMul", products, constant(posterior.inverse_gram().numpy()))
    length = graph.op("ReduceSum", graph.op("Mul", solved, products), graph.indices(1), keepdims=1)
    doubled = graph.op("Mul", products, constant(2.0))
    squares = graph.op("Add", graph.op("Sub", length, doubled), constant(gram.diagonal()))
    squares = graph.op("Max", squares, constant(0.0))
    factor = posterior.spread / np.sqrt(posterior.counts.numpy())
    deviation = graph.op("Mul", graph.op("Sqrt", squares), constant(factor))
    one = graph.indices(1)
    moved = graph.op("Mul", graph.op("Unsqueeze", deviation, one), constant(posterior.draws.numpy()))
    sampled = graph.op("Softmax", graph.op("Add", graph.op("Unsqueeze", scores, one), moved), axis=2)
    return graph.cast(graph.op("ReduceMean", sampled, one, keepdims=0), np.float32)
