"""Batch predictors: many versions in one call give what each gives alone, in torch and in onnxruntime."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import Tensor

from models.adaptation.adapt import adapt_one
from models.checkpoint import load_checkpoint, shipped_names
from models.config import NetConfig
from models.errors import CheckpointInvalid
from models.images.preprocessing import ImageConfig
from models.inference.export import export_onnx
from models.inference.predict import (
    BatchPredictor,
    OnnxPredictor,
    PredictionRequest,
    Predictions,
    TorchPredictor,
    fold_calibrated,
    predict_images,
)
from models.nets import Net, build
from models.nets.heads import GAIN, MEANS
from models.task import Support

TOLERANCE = 1e-5
EXPORTED = {
    "conv4, pooled, odd maps": NetConfig("conv4", ImageConfig(3, 28), width=16, pooling="max"),
    "resnet12": NetConfig("resnet12", ImageConfig(1, 34), width=8),
}
"""Exported by the tests; exporting a net takes seconds."""

ALL_SHIPPED = {name: load_checkpoint(name) for name in shipped_names()}
SHIPPED = {name: shipped for name, shipped in ALL_SHIPPED.items() if shipped.net_config.kind != "backbone"}
"""Nets whose weights are inputs of the graph; for the others see test_embedding.py."""

NETS = {**EXPORTED, **{name: checkpoint.net_config for name, checkpoint in SHIPPED.items()}}


@functools.cache
def graph_of(name: str) -> bytes:
    if name in EXPORTED:
        return export_onnx(build(EXPORTED[name]))
    graph = SHIPPED[name].onnx_graph
    assert graph is not None
    return graph


@pytest.fixture(params=list(NETS))
def net(request: pytest.FixtureRequest) -> Net:
    return build(NETS[request.param], seed=3)


@pytest.fixture(params=["onnx", "torch"])
def predictor(request: pytest.FixtureRequest, net: Net) -> BatchPredictor:
    if request.param == "torch":
        return TorchPredictor(net, torch.device("cpu"))
    (name,) = (name for name, config in NETS.items() if config is net.config)
    return OnnxPredictor(graph_of(name), net.config)


def uniform(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def folded_of(net: Net, seed: int, n_way: int) -> dict[str, Tensor]:
    """Folded weights of ordinary size, different for every seed."""
    weights = {}
    for index, (name, tensor) in enumerate(net.start().items()):
        weights[name] = tensor * (1 + 0.2 * (uniform(100 * seed + index, *tensor.shape) - 0.5))
    statistics = {}
    for name, tensor in weights.items():
        if tensor.dim() == 4:
            layer = name.removesuffix(".weight")
            statistics[f"{layer}.mean"] = uniform(seed, len(tensor)) - 0.5
            statistics[f"{layer}.variance"] = uniform(seed + 1, len(tensor)) + 0.5
    if net.config.kind == "surface":
        statistics["pooled.mean"] = uniform(seed, net.feature_count)
        statistics["pooled.variance"] = uniform(seed + 1, net.feature_count) + 0.5
    weights["head.weight"] = (uniform(seed + 2, n_way, net.feature_count) - 0.5) / net.feature_count**0.5
    weights["head.bias"] = uniform(seed + 3, n_way)
    weights["head.means"] = uniform(seed + 4, n_way, net.feature_count)
    return fold_calibrated(weights, statistics)


def images_of(net: Net, seed: int, count: int) -> Tensor:
    config = net.config.image
    return 2 * uniform(seed, count, config.channels, config.side, config.side) - 1


def assert_same(got: Predictions, expected: Predictions) -> None:
    assert got.in_distribution is not None
    assert expected.in_distribution is not None
    torch.testing.assert_close(got.probabilities, expected.probabilities, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(got.in_distribution, expected.in_distribution, atol=TOLERANCE, rtol=0)


def test_requests_with_different_weights_classes_and_sizes_get_the_same_predictions_as_alone(
    net: Net, predictor: BatchPredictor
) -> None:
    sizes = [(3, 1), (5, 4), (2, 1), (5, 11), (7, 2)]
    versions = [folded_of(net, seed, n_way) for seed, (n_way, _) in enumerate(sizes)]
    images = [images_of(net, 50 + seed, count) for seed, (_, count) in enumerate(sizes)]
    requests = [
        PredictionRequest(predictor.serving_weights(folded), batch.numpy())
        for folded, batch in zip(versions, images, strict=True)
    ]
    for folded, batch, request, together in zip(versions, images, requests, predictor.predict(requests), strict=True):
        assert_same(together, predict_images(net, folded, batch))
        for index, image in enumerate(request.images):
            (alone,) = predictor.predict([PredictionRequest(request.weights, image[None])])
            assert together.in_distribution is not None
            row = slice(index, index + 1)
            assert_same(alone, Predictions(together.probabilities[row], together.in_distribution[row]))


def test_extreme_images_in_the_same_batch_do_not_change_a_prediction(net: Net, predictor: BatchPredictor) -> None:
    first, second = (predictor.serving_weights(folded_of(net, seed, 3)) for seed in (1, 2))
    image, others = images_of(net, 7, 1).numpy(), 1000 * images_of(net, 8, 3).numpy()
    (alone,) = predictor.predict([PredictionRequest(first, image)])
    batched, _ = predictor.predict(
        [PredictionRequest(first, np.concatenate([image, others])), PredictionRequest(second, others)]
    )
    torch.testing.assert_close(batched.probabilities[:1], alone.probabilities, atol=TOLERANCE, rtol=0)


def test_an_adapted_version_gets_the_same_predictions() -> None:
    checkpoint = SHIPPED["omniglot"]
    net, labels = checkpoint.build_net(), torch.arange(3).repeat_interleave(4)
    support = Support(images_of(net, 1, 12) * 0.1 + 0.3 * labels[:, None, None, None], labels, 3)
    adapted = adapt_one(net, checkpoint.weights, support, checkpoint.recipe.adjusted(2, None), seed=0)
    folded = fold_calibrated(adapted.kept(), adapted.statistics, 1.5)
    predictor = OnnxPredictor(graph_of("omniglot"), net.config)
    (predictions,) = predictor.predict([PredictionRequest(predictor.serving_weights(folded), support.inputs.numpy())])
    assert_same(predictions, predict_images(net, folded, support.inputs))


def test_weights_without_class_means_have_no_in_distribution_score(net: Net, predictor: BatchPredictor) -> None:
    folded = {name: tensor for name, tensor in folded_of(net, 1, 3).items() if name not in (MEANS, GAIN)}
    request = PredictionRequest(predictor.serving_weights(folded), images_of(net, 7, 2).numpy())
    assert predictor.predict([request])[0].in_distribution is None


def test_serving_weights_count_their_bytes(predictor: BatchPredictor, net: Net) -> None:
    folded = folded_of(net, 1, 3)
    expected = sum(tensor.nbytes for name, tensor in folded.items() if name != GAIN)
    assert predictor.serving_weights(folded).size_bytes == expected


def test_a_graph_of_another_net_is_rejected() -> None:
    with pytest.raises(CheckpointInvalid, match="exported from the net"):
        OnnxPredictor(graph_of("omniglot"), SHIPPED["surfaces"].net_config)


def test_a_graph_contains_no_stack_traces_and_no_paths() -> None:
    for name in NETS:
        assert b".py" not in graph_of(name)
        assert b"/models/" not in graph_of(name)
