"""Writes ONNX graphs node by node. Needs the package onnx, of the extra ``export``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

OPSET: Final = 20
"""Version of the operators: that of the graphs beside the shipped checkpoints."""

IR_VERSION: Final = 10

Branch = Callable[["GraphWriter"], str]
"""Writes one branch of a condition, and returns the name of its result."""

Branches = Callable[["GraphWriter"], Sequence[str]]
"""The same for several results."""


class GraphWriter:
    """Collects nodes and constants.

    Args:
        outer: the graph that this one is a branch of; the two share names and constants.

    Attributes:
        nodes: what was written so far.
        initializers: constants by name.
    """

    def __init__(self, outer: GraphWriter | None = None) -> None:
        self.nodes: list[Any] = []
        self.initializers: dict[str, NDArray[Any]] = {} if outer is None else outer.initializers
        self._numbers: itertools.count[int] = itertools.count() if outer is None else outer._numbers  # noqa: SLF001

    def constant(self, value: ArrayLike, dtype: DTypeLike = np.float32) -> str:
        """Add a constant and return its name."""
        name = f"constant_{next(self._numbers)}"
        self.initializers[name] = np.ascontiguousarray(np.asarray(value, dtype)).reshape(np.shape(value))
        return name

    def indices(self, *values: int) -> str:
        """Add a constant of whole numbers, int64 (len(values),), such as axes or sizes."""
        return self.constant(values, np.int64)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        return self.ops(kind, *inputs, outputs=1, **attributes)[0]

    def ops(self, kind: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Add a node with several outputs and return their names."""
        from onnx import helper

        names = [f"{kind.lower()}_{next(self._numbers)}" for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def cast(self, value: str, dtype: DTypeLike) -> str:
        """Convert a value to another type."""
        from onnx import helper

        return self.op("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def choose(self, condition: str, then: Branch, otherwise: Branch) -> str:
        """Compute only one of two float32 values, by a condition that is known when the graph runs."""
        return self.choose_all(
            condition, lambda branch: [then(branch)], lambda branch: [otherwise(branch)], dtypes=[np.float32]
        )[0]

    def choose_all(self, condition: str, then: Branches, otherwise: Branches, dtypes: Sequence[DTypeLike]) -> list[str]:
        """Compute only one of two lists of values. `dtypes` are those of the values."""
        branches = {}
        for name, write in (("then_branch", then), ("else_branch", otherwise)):
            branch = GraphWriter(self)
            results = [branch.op("Identity", value) for value in write(branch)]
            described = [_described(value, dtype, None) for value, dtype in zip(results, dtypes, strict=True)]
            branches[name] = branch._as_graph(name, [], described)
        return self.ops("If", condition, outputs=len(dtypes), **branches)

    def insert(self, graph: Any, inputs: Mapping[str, str]) -> list[str]:
        """Write the nodes of another graph, whose initializers are in `initializers` already.

        Args:
            graph: a GraphProto.
            inputs: names of its inputs, and what they stand for here.

        Returns:
            The names of its outputs here.
        """
        names = {**{name: name for name in self.initializers}, **inputs, "": ""}
        for node in graph.node:
            copied = type(node)()
            copied.CopyFrom(node)
            names.update({name: f"{name}_{next(self._numbers)}" for name in node.output})
            copied.name = ""
            copied.input[:] = [names[name] for name in node.input]
            copied.output[:] = [names[name] for name in node.output]
            self.nodes.append(copied)
        return [names[output.name] for output in graph.output]

    def finish(self, opsets: Iterable[Any], inputs: Sequence[Any], outputs: Mapping[str, tuple[str, Any]]) -> Any:
        """Return the ModelProto.

        Args:
            opsets: further sets of operators that inserted graphs use.
            inputs: from `described`.
            outputs: the names that the outputs get -> the value here, and the description from `described`.
        """
        from onnx import helper

        for name, (value, _) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [value], [name]))
        graph = self._as_graph("anole", inputs, [description for _, description in outputs.values()])
        used = [helper.make_opsetid("", OPSET), *(opset for opset in opsets if opset.domain)]
        return helper.make_model(graph, opset_imports=used, ir_version=IR_VERSION)

    def _as_graph(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        from onnx import helper, numpy_helper

        constants = self.initializers.items() if name == "anole" else ()
        tensors = [numpy_helper.from_array(array, constant) for constant, array in constants]
        return helper.make_graph(self.nodes, name, list(inputs), list(outputs), tensors)


def described(name: str, dtype: DTypeLike, shape: Sequence[int | str] | None) -> Any:
    """Describe an input or an output: names in `shape` are sizes that only a run determines."""
    return _described(name, dtype, shape)


def _described(name: str, dtype: DTypeLike, shape: Sequence[int | str] | None) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
