"""Many versions in one pass of torch: their channels side by side, as many convolution groups as versions.

The way for accelerators, and for nets that have no graph. It refuses to know clients and versions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.inference.predictor import BatchPredictor, NetOutput, PredictionRequest
from models.nets import heads
from models.nets.base import Net, grouped
from models.nets.normalisation import FoldedPass
from models.weights import Weights

_IMAGES_AT_ONCE = 32
"""Of one version; more are taken in several turns."""


class TorchPredictor(BatchPredictor):
    """See `BatchPredictor`. Versions with about as many images run together, filled up to the next power of two.

    Args:
        net: the architecture.
        device: where it computes and where ready weights lie.
    """

    def __init__(self, net: Net, device: torch.device) -> None:
        self._net = net
        self._device = device

    def _values(self, folded: Weights) -> tuple[Mapping[str, Tensor], int]:
        values = {name: tensor.to(self._device) for name, tensor in folded.items()}
        return values, sum(tensor.numel() * tensor.element_size() for tensor in values.values())

    def _scored(self, asked: Sequence[PredictionRequest]) -> list[NetOutput]:
        alike: defaultdict[int, list[tuple[int, PredictionRequest]]] = defaultdict(list)
        for index, piece in _pieces(asked):
            alike[1 << (len(piece.images) - 1).bit_length()].append((index, piece))
        found: defaultdict[int, list[NetOutput]] = defaultdict(list)
        for filled, pieces in alike.items():
            scored = self._together([piece for _, piece in pieces], filled)
            for (index, _), one in zip(pieces, scored, strict=True):
                found[index].append(one)
        return [_joined(found[index]) for index in range(len(asked))]

    def _together(self, asked: Sequence[PredictionRequest], filled: int) -> list[NetOutput]:
        ways = [len(one.weights.values[heads.BIAS]) for one in asked]
        stacked = {name: _stack(name, asked, max(ways)) for name in asked[0].weights.values}
        images = np.zeros((len(asked), filled, *asked[0].images.shape[1:]), np.float32)
        for row, one in zip(images, asked, strict=True):
            row[: len(one.images)] = one.images
        with torch.inference_mode():
            on_device = torch.from_numpy(images).to(self._device)  # (tasks, batch, channels, side, side)
            features = self._net.features(FoldedPass(stacked), grouped(on_device))  # (tasks, batch, features)
            logits = heads.logits(stacked, features)  # (tasks, batch, ways)
            found = features.cpu().numpy(), logits.cpu().numpy()
        return [
            NetOutput(logits[: len(one.images), :n_way], features[: len(one.images)])
            for one, n_way, features, logits in zip(asked, ways, *found, strict=True)
        ]


def _pieces(asked: Sequence[PredictionRequest]) -> Iterator[tuple[int, PredictionRequest]]:
    """Each request's images, no more than `_IMAGES_AT_ONCE` at a time, in order."""
    for index, one in enumerate(asked):
        for start in range(0, len(one.images), _IMAGES_AT_ONCE):
            yield index, PredictionRequest(one.weights, one.images[start : start + _IMAGES_AT_ONCE])


def _stack(name: str, asked: Sequence[PredictionRequest], ways: int) -> Tensor:
    """One weight of all versions, heads filled up with zeros to `ways` classes."""
    tensors: list[Tensor] = [one.weights.values[name] for one in asked]
    if name in (heads.WEIGHT, heads.BIAS):
        tensors = [F.pad(tensor, (0, 0) * (tensor.dim() - 1) + (0, ways - len(tensor))) for tensor in tensors]
    return torch.stack(tensors)  # (tasks, ...)


def _joined(pieces: Sequence[NetOutput]) -> NetOutput:
    if len(pieces) == 1:
        return pieces[0]
    return NetOutput(
        np.concatenate([piece.logits for piece in pieces]), np.concatenate([piece.features for piece in pieces])
    )
