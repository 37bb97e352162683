"""A frozen backbone in onnxruntime, with its maps pooled in numpy. This module does not import torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.feature_arrays import Floats, pool, projection_signs

EMBED_IMAGES = "images"
"""Name of the input of the ONNX graph."""

POOLED = "features"
"""Name of the only output of older graphs, which pooled the maps themselves."""


@dataclass(frozen=True, slots=True)
class Pooling:
    """How the maps of a backbone become features; see `models.nets.backbone.BackboneNet`.

    Attributes:
        extremes: of each stage, the number of pixels that count as the largest, and as the smallest.
        patch_stage: index of the stage that gives local features; None without.
        places: number of places of this stage.
    """

    extremes: tuple[int, ...]
    patch_stage: int | None
    places: int


class OnnxBackbone:
    """Runs a backbone on the CPU. Thread-safe.

    Args:
        graph: from `models.inference.export.export_backbone`.
        weights: those that the graph takes from outside, by name.
        pooling: how the maps become features.
        threads: of one run.
    """

    def __init__(self, graph: bytes, weights: Mapping[str, Floats], pooling: Pooling, threads: int = 1) -> None:
        # Imported here, so that a service can switch off onnxruntime's telemetry before the import.
        import onnxruntime  # type: ignore[import-untyped]

        self._values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_external_initializers(list(weights), self._values)
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._pooling = pooling
        self.pooled_by_graph = [output.name for output in self._session.get_outputs()] == [POOLED]

    def embed(self, images: Floats) -> Floats:
        """Compute features: float32 (batch, channels, height, width) -> (batch, feature_count)."""
        stages: list[Floats] = self._session.run(None, {EMBED_IMAGES: images})
        if self.pooled_by_graph:
            return stages[0]
        pooled = pool(images, stages, self._pooling.extremes)
        return np.concatenate([pooled, self._patches(stages)], axis=-1)

    def _patches(self, stages: Sequence[Floats]) -> Floats:
        """What `BackboneNet.patches` computes: (batch, PATCH_CHANNELS * places)."""
        stage, places = self._pooling.patch_stage, self._pooling.places
        if stage is None:
            return stages[0][:, :0, 0]
        maps = stages[stage][..., :places]
        projected = np.matmul(projection_signs(maps.shape[1]), maps)
        filled = np.pad(projected, ((0, 0), (0, 0), (0, places - maps.shape[-1])))
        return filled.reshape(len(maps), -1)
