"""Serves one version with LitServe, as its documentation recommends; used by `predict_vs_litserve.py`.

    python benchmarks/litserve_side.py PORT WORKERS BATCH_TIMEOUT CHECKPOINT WEIGHTS TEMPERATURE LABEL...

Batching: waiting requests are batched up to 16 images, prepared together and predicted with the checkpoint's ONNX
graph, by the same code as in our service. BATCH_TIMEOUT is how many seconds a batch waits to become full. It decodes
with our decoder and returns label and scores. It has no store, versions, keys or request logs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import litserve
import torch
from torch import Tensor

from models.checkpoint import load_checkpoint
from models.images.preprocessing import decode
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.store.tensor_bytes import from_bytes

MAX_BATCH: Final = 16


class Version(litserve.LitAPI):  # type: ignore[misc]
    """Predicts images with one version."""

    def __init__(
        self, batch_timeout_s: float, checkpoint: str, weights: Path, temperature: float, labels: Sequence[str]
    ) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=batch_timeout_s, api_path="/predict")
        self._checkpoint, self._weights = checkpoint, weights
        self._temperature, self._labels = temperature, tuple(labels)

    def setup(self, device: str) -> None:
        """Load the net in the worker process."""
        torch.set_num_threads(1)
        self._learner = LoadedCheckpoint(load_checkpoint(self._checkpoint), torch.device("cpu"))
        self._serving = self._learner.serving_weights(from_bytes(self._weights.read_bytes()), self._temperature)

    def decode_request(self, request) -> Tensor:  # type: ignore[no-untyped-def]
        """A form with one image; without an annotation, LitServe accepts forms and JSON."""
        return decode(request["images"].file.read())

    def batch(self, inputs: list[Tensor]) -> list[Tensor]:
        """The images as they are: they may differ in size."""
        return inputs

    def predict(self, images: list[Tensor]) -> Tensor:
        """Probabilities, float32 (batch, n_way)."""
        return self._learner.predict([(self._serving, images)])[0].probabilities

    def unbatch(self, output: Tensor) -> list[Tensor]:
        """One row per image."""
        return list(output)

    def encode_response(self, output: Tensor) -> dict[str, Any]:
        """The most probable label and all scores."""
        scores = dict(zip(self._labels, output.tolist(), strict=True))
        return {"label": max(scores, key=scores.__getitem__), "scores": scores}


if __name__ == "__main__":
    port, workers, batch_timeout_s, checkpoint, weights, temperature, *labels = sys.argv[1:]
    api = Version(float(batch_timeout_s), checkpoint, Path(weights), float(temperature), labels)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(workers))
    server.run(host="127.0.0.1", port=int(port), log_level="warning", generate_client_file=False, num_api_servers=1)
