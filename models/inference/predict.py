"""Prediction with adapted versions: the plain path that defines the right answer, and predictors of many versions.

`predict_images` predicts with one version. A `BatchPredictor` predicts images of many versions in one call, each with
its own weights: `OnnxPredictor` in onnxruntime on the CPU, where the weights are inputs of one graph, `TorchPredictor`
with the channels of many versions side by side, as grouped convolutions, and `FeaturePredictor` in numpy for nets with
a frozen backbone, which has run by then.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.adaptation.gaussian_weights import means
from models.config import NetConfig
from models.feature_arrays import Floats
from models.inference.array_predict import (
    ClassMeans,
    Discriminants,
    NetOutput,
    OnnxNet,
    concatenate,
    familiarity,
    lead,
    novelty_of,
    run_head,
    second_look,
    softmax,
)
from models.nets import BackboneNet, Net, call_net, heads
from models.nets.backbone import standardised_length
from models.nets.head_posterior import GRAM, NAMES, HeadPosterior, Uncertainty
from models.nets.normalisation import fold
from models.validation.novelty import in_distribution_score, novelty_distance
from models.weights import Weights

_TORCH_IMAGES_PER_RUN = 32
"""Of one version; more images take several runs."""


@dataclass(frozen=True)
class Predictions:
    """Predictions for a batch of images.

    Attributes:
        probabilities: (batch, n_way), each row sums to 1.
        in_distribution: (batch,), see `novelty.in_distribution_score`; None for weights without class means.
        uncertainty: (batch,) each; None for weights without a `HeadPosterior`.
    """

    probabilities: Tensor
    in_distribution: Tensor | None
    uncertainty: Uncertainty | None = None


def fold_calibrated(weights: Weights, statistics: Mapping[str, Tensor], temperature: float = 1.0) -> dict[str, Tensor]:
    """Fold the statistics into the weights, divide the head by `temperature` and add the gain of the class means."""
    folded = fold(means(weights), statistics)
    if temperature != 1.0:
        logits_and_scales = (heads.WEIGHT, heads.BIAS, heads.LEVEL, heads.SECOND_LOOK, GRAM)
        scaled = [name for name in logits_and_scales if name in folded]
        folded.update({name: folded[name] / temperature for name in scaled})
    if heads.MEANS in folded:
        folded[heads.GAIN] = heads.class_means_gain(folded[heads.MEANS])
    return folded


def logits_and_features(
    net: Net, stacked: Weights, images: Tensor, turned: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Class scores (tasks, batch, n_way) and features (tasks, batch, features).

    Args:
        net: the architecture.
        stacked: folded weights, (tasks, ...) each.
        images: inputs of the net, (tasks, batch, ...).
        turned: inputs for the images turned by 180 degrees, (tasks, batch, ...); None scores without a
            `heads.second_look`.
    """
    features = call_net(net, stacked, images)
    scores = heads.logits(stacked, features)
    if turned is not None and heads.SECOND_LOOK in stacked:
        of_turned = heads.logits(stacked, call_net(net, stacked, turned))
        scores = heads.second_look(scores, of_turned, stacked[heads.SECOND_LOOK][:, None])
    return scores, features


def predict_images(net: Net, folded: Weights, images: Tensor, turned: Tensor | None = None) -> Predictions:
    """Predict with one version's folded weights. Each prediction depends on its own image alone.

    Args:
        net: the architecture.
        folded: from `fold_calibrated`, or from `fold`.
        images: float32 (batch, ...), inputs of the net.
        turned: the same for the images turned by 180 degrees, see `logits_and_features`.
    """
    single = {name: tensor[None] for name, tensor in folded.items()}
    with torch.inference_mode():
        scores, features = logits_and_features(net, single, images[None], None if turned is None else turned[None])
        return predictions_from(folded, images, features, scores)


def predictions_from(folded: Weights, images: Tensor, features: Tensor, scores: Tensor) -> Predictions:
    """Turn the class scores of one version into predictions.

    Args:
        folded: from `fold_calibrated`, or from `fold`.
        images: float32 (batch, ...), inputs of the net.
        features: (1, batch, features).
        scores: (1, batch, n_way).
    """
    probabilities, uncertainty = scores[0].softmax(-1), None
    posterior = HeadPosterior.of(folded)
    if posterior is not None:
        averaged, uncertainty = posterior.predict(scores[0])
        probabilities = averaged.to(scores.device)
    if heads.MEANS not in folded and heads.LEVEL not in folded:
        return Predictions(probabilities, None, uncertainty)
    single = {name: tensor[None] for name, tensor in folded.items()}
    distance = novelty_distance(single, images[None], features, scores)[0]
    return Predictions(probabilities, in_distribution_score(probabilities.amax(-1), distance), uncertainty)


def class_probabilities(net: Net, folded: Weights, images: Tensor) -> Tensor:
    """The probabilities of `predict_images`: (batch, n_way), each row sums to 1."""
    return predict_images(net, folded, images).probabilities


@dataclass(frozen=True, slots=True)
class ServingWeights:
    """One version's weights in the format of the `BatchPredictor` that made them.

    Attributes:
        values: weights by name.
        novelty: for the in-distribution score; None for weights without.
        size_bytes: memory held.
        second_look: margin of `heads.second_look`; None for weights without.
        posterior: of the class means; None for weights without.
    """

    values: Mapping[str, Any]
    novelty: ClassMeans | Discriminants | None
    size_bytes: int
    second_look: float | None = None
    posterior: HeadPosterior | None = None


@dataclass(frozen=True, slots=True)
class PredictionRequest:
    """Images to predict with one version.

    Attributes:
        weights: of the version.
        images: inputs of the net: float32 (images, channels, side, side) or (images, features).
        turned: computes the inputs for the images at some indices, turned by 180 degrees: float32 (indices, ...). None
            predicts without a `heads.second_look`.
    """

    weights: ServingWeights
    images: Floats
    turned: Callable[[Sequence[int]], Floats] | None = None


class BatchPredictor(ABC):
    """Predicts images of many versions of one net in one call. Thread-safe.

    A prediction depends on its image and version alone: probabilities and in-distribution scores are within 1e-5 of
    `predict_images` for that image by itself.
    """

    def predict(self, requests: Sequence[PredictionRequest]) -> list[Predictions]:
        """Predict the images of each request, in order. Requests may differ in their numbers of images and classes."""
        outputs = self._forward(requests)
        return [
            _predictions(request.weights, self._look_again(request, output))
            for request, output in zip(requests, outputs, strict=True)
        ]

    def serving_weights(self, folded: Weights) -> ServingWeights:
        """Convert the weights of `fold_calibrated` to the format of this predictor."""
        of_novelty = (heads.LEVEL, heads.LENGTH, heads.MEANS, heads.GAIN)
        novelty = novelty_of({name: folded[name].cpu().numpy() for name in of_novelty if name in folded})
        margin = float(folded[heads.SECOND_LOOK]) if heads.SECOND_LOOK in folded else None
        after_the_head = (heads.MEANS, heads.GAIN, heads.LEVEL, heads.LENGTH, heads.SECOND_LOOK, *NAMES)
        values, size_bytes = self._convert({name: own for name, own in folded.items() if name not in after_the_head})
        size_bytes += novelty.means.nbytes if isinstance(novelty, ClassMeans) else 0
        posterior = HeadPosterior.of(folded)
        size_bytes += 0 if posterior is None else posterior.size_bytes
        return ServingWeights(values, novelty, size_bytes, margin, posterior)

    def _look_again(self, request: PredictionRequest, output: NetOutput) -> NetOutput:
        """Take a `heads.second_look` at the images whose class is in doubt."""
        margin = request.weights.second_look
        if margin is None or request.turned is None:
            return output
        (doubtful,) = np.nonzero(lead(output.logits) < margin)
        if not len(doubtful):
            return output
        (seen,) = self._forward([PredictionRequest(request.weights, request.turned(doubtful.tolist()))])
        combined = output.logits.copy()
        combined[doubtful] = second_look(output.logits[doubtful], seen.logits, margin)
        return replace(output, logits=combined)

    @abstractmethod
    def _convert(self, folded: Weights) -> tuple[Mapping[str, Any], int]:
        """Convert the net's and the head's weights to the format that `_forward` reads; also return their bytes."""

    @abstractmethod
    def _forward(self, requests: Sequence[PredictionRequest]) -> list[NetOutput]: ...


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
        self._net = OnnxNet(graph, net_config.to_json(), threads)

    def _convert(self, folded: Weights) -> tuple[Mapping[str, Any], int]:
        return _as_arrays(folded)

    def _forward(self, requests: Sequence[PredictionRequest]) -> list[NetOutput]:
        return [self._net.run(request.weights.values, request.images) for request in requests]


class FeaturePredictor(BatchPredictor):
    """Computes what follows a frozen backbone: `BackboneNet.forward` and the head; see `run_head`.

    Args:
        embedding_count: of the net, behind which inputs may have notes; None if they never do.
    """

    def __init__(self, embedding_count: int | None = None) -> None:
        self._embedding_count = embedding_count

    def _convert(self, folded: Weights) -> tuple[Mapping[str, Any], int]:
        return _as_arrays(folded)

    def _forward(self, requests: Sequence[PredictionRequest]) -> list[NetOutput]:
        count = self._embedding_count
        if count is None:
            return [run_head(request.weights.values, request.images) for request in requests]
        return [
            run_head(request.weights.values, request.images[:, :count], request.images[:, count:])
            for request in requests
        ]


class TorchPredictor(BatchPredictor):
    """Runs on accelerators, and for nets without an ONNX graph and without a frozen backbone.

    Requests with similar numbers of images and the same kinds of weights run together, each padded to the next power of
    two.

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
        alike: defaultdict[tuple[int, frozenset[str]], list[tuple[int, PredictionRequest]]] = defaultdict(list)
        for index, chunk in _chunks(requests):
            padded_size = 1 << (len(chunk.images) - 1).bit_length()
            alike[padded_size, frozenset(chunk.weights.values)].append((index, chunk))
        outputs: defaultdict[int, list[NetOutput]] = defaultdict(list)
        for (padded_size, _), chunks in alike.items():
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
            outputs = [logits, features]
            if isinstance(self._net, BackboneNet):
                outputs.append(standardised_length(on_device, stacked["pooled.scale"], stacked["pooled.shift"]))
            arrays = [output.cpu().numpy() for output in outputs]
        return [
            NetOutput(rows[0][: len(request.images), :n_way], *(row[: len(request.images)] for row in rows[1:]))
            for request, n_way, *rows in zip(requests, ways, *arrays, strict=True)
        ]


def _as_arrays(folded: Weights) -> tuple[Mapping[str, Floats], int]:
    """The weights as arrays, and their bytes."""
    values = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in folded.items()}
    return values, sum(array.nbytes for array in values.values())


def _predictions(weights: ServingWeights, output: NetOutput) -> Predictions:
    """As `predict_images`, in numpy."""
    uncertainty = None
    if weights.posterior is None:
        probabilities = softmax(output.logits)
    else:
        averaged, uncertainty = weights.posterior.predict(torch.from_numpy(output.logits))
        probabilities = averaged.numpy()
    if weights.novelty is None:
        return Predictions(torch.from_numpy(probabilities), None, uncertainty)
    scores = familiarity(weights.novelty, output, probabilities)
    return Predictions(torch.from_numpy(probabilities), torch.from_numpy(scores), uncertainty)


def _chunks(requests: Sequence[PredictionRequest]) -> Iterator[tuple[int, PredictionRequest]]:
    """Split each request into chunks of at most `_TORCH_IMAGES_PER_RUN` images; yield them with the request's index."""
    for index, request in enumerate(requests):
        for start in range(0, len(request.images), _TORCH_IMAGES_PER_RUN):
            yield index, replace(request, images=request.images[start : start + _TORCH_IMAGES_PER_RUN])


def _stack(name: str, requests: Sequence[PredictionRequest], ways: int) -> Tensor:
    """Stack one weight of all requests; heads are padded with zeros to `ways` classes."""
    tensors: list[Tensor] = [request.weights.values[name] for request in requests]
    if name in (heads.WEIGHT, heads.BIAS):
        tensors = [F.pad(tensor, (0, 0) * (tensor.dim() - 1) + (0, ways - len(tensor))) for tensor in tensors]
    return torch.stack(tensors)  # (tasks, ...)
