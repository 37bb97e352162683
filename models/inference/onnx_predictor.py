"""Batch prediction in onnxruntime on the CPU: one session for every version, whose weights are inputs of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.config import NetConfig
from models.errors import CheckpointInvalid
from models.inference.predictor import BatchPredictor, NetOutput, PredictionRequest, concatenate
from models.weights import Weights

IMAGES, LOGITS, FEATURES = "images", "logits", "features"
"""Names of the graph's input and outputs; its other inputs are the folded weights."""

NET_CONFIG = "net_config"
"""Key of the net's config in the metadata of the graph."""

_IMAGES_PER_RUN = 8
"""More in one run are no faster, and their maps no longer fit into the processor's cache."""


class OnnxPredictor(BatchPredictor):
    """See `BatchPredictor`.

    Args:
        graph: from `export_onnx`.
        net_config: of the net that the weights belong to.
        threads: of one run.

    Raises:
        CheckpointInvalid: the graph was exported from another net.
    """

    def __init__(self, graph: bytes, net_config: NetConfig, threads: int = 1) -> None:
        # Imported here, so that a service can switch off onnxruntime's telemetry before the import.
        import onnxruntime  # type: ignore[import-untyped]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        exported_config = self._session.get_modelmeta().custom_metadata_map.get(NET_CONFIG)
        if exported_config != json.dumps(net_config.to_json(), sort_keys=True):
            raise CheckpointInvalid(
                f"the ONNX graph beside the checkpoint was exported from the net {exported_config}, but the checkpoint "
                f"has the net {net_config}; export it again or remove it"
            )

    def _convert(self, folded: Weights) -> tuple[Mapping[str, Any], int]:
        values = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in folded.items()}
        return values, sum(array.nbytes for array in values.values())

    def _forward(self, requests: Sequence[PredictionRequest]) -> list[NetOutput]:
        return [self._run(request.weights.values, request.images) for request in requests]

    def _run(self, weights: Mapping[str, Any], images: NDArray[np.float32]) -> NetOutput:
        chunks = [images[start : start + _IMAGES_PER_RUN] for start in range(0, len(images), _IMAGES_PER_RUN)]
        return concatenate(
            [NetOutput(*self._session.run([LOGITS, FEATURES], {IMAGES: chunk, **weights})) for chunk in chunks]
        )
