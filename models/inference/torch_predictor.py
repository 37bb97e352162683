"""Batch prediction in torch: the channels of many versions side by side, as grouped convolutions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.inference.predictor import BatchPredictor, NetOutput, PredictionRequest, concatenate
from models.nets import Net, call_net, heads
from models.weights import Weights

_IMAGES_PER_RUN = 32
"""Of one version; more images take several runs."""


class TorchPredictor(BatchPredictor):
    """Runs on accelerators, and for nets without an ONNX graph.

    Requests with similar numbers of images run together, each padded to the next power of two.

    Args:
        net: the architecture.
        device: where it computes and where serving weights are held.
    """

    def __init__(self, net: Net, device: torch.device) -> None:
        self._net = net
        self._device = device

    def _convert(self, folded: Weights) -> tuple[Mapping[str, Tensor], int]:
        values = {name: tensor.to(self._device) for name, tensor in folded.items()}
        return values, sum(tensor.nbytes for tensor in values.values())

    def _forward(self, requests: Sequence[PredictionRequest]) -> list[NetOutput]:
        by_size: defaultdict[int, list[tuple[int, PredictionRequest]]] = defaultdict(list)
        for index, chunk in _chunks(requests):
            by_size[1 << (len(chunk.images) - 1).bit_length()].append((index, chunk))
        outputs: defaultdict[int, list[NetOutput]] = defaultdict(list)
        for padded_size, chunks in by_size.items():
            batch = self._run([chunk for _, chunk in chunks], padded_size)
            for (index, _), output in zip(chunks, batch, strict=True):
                outputs[index].append(output)
        return [concatenate(outputs[index]) for index in range(len(requests))]

    def _run(self, requests: Sequence[PredictionRequest], padded_size: int) -> list[NetOutput]:
        ways = [len(request.weights.values[heads.BIAS]) for request in requests]
        stacked = {name: _stack(name, requests, max(ways)) for name in requests[0].weights.values}
        images = np.zeros((len(requests), padded_size, *requests[0].images.shape[1:]), np.float32)
        for row, request in zip(images, requests, strict=True):
            row[: len(request.images)] = request.images
        with torch.inference_mode():
            on_device = torch.from_numpy(images).to(self._device)  # (tasks, batch, channels, side, side)
            features = call_net(self._net, stacked, on_device)  # (tasks, batch, features)
            logits = heads.logits(stacked, features)  # (tasks, batch, ways)
            arrays = features.cpu().numpy(), logits.cpu().numpy()
        return [
            NetOutput(logits[: len(request.images), :n_way], features[: len(request.images)])
            for request, n_way, features, logits in zip(requests, ways, *arrays, strict=True)
        ]


def _chunks(requests: Sequence[PredictionRequest]) -> Iterator[tuple[int, PredictionRequest]]:
    """Split each request into chunks of at most `_IMAGES_PER_RUN` images; yield them with the request's index."""
    for index, request in enumerate(requests):
        for start in range(0, len(request.images), _IMAGES_PER_RUN):
            yield index, PredictionRequest(request.weights, request.images[start : start + _IMAGES_PER_RUN])


def _stack(name: str, requests: Sequence[PredictionRequest], ways: int) -> Tensor:
    """Stack one weight of all requests; heads are padded with zeros to `ways` classes."""
    tensors: list[Tensor] = [request.weights.values[name] for request in requests]
    if name in (heads.WEIGHT, heads.BIAS):
        tensors = [F.pad(tensor, (0, 0) * (tensor.dim() - 1) + (0, ways - len(tensor))) for tensor in tensors]
    return torch.stack(tensors)  # (tasks, ...)
