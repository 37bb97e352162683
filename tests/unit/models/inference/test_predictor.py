"""Many versions in one call score what each scores alone, whichever way they are computed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from models.adaptation.adapt import adapt_one
from models.config import InnerLoopConfig, NetConfig
from models.images.preprocessing import ImageConfig
from models.inference import onnx_predictor as predict_onnx
from models.inference.onnx_graphs import graph_of
from models.inference.onnx_predictor import OnnxPredictor
from models.inference.predict import Predictions, fold_calibrated, predict_images
from models.inference.predictor import BatchPredictor, PredictionRequest
from models.inference.torch_predictor import TorchPredictor
from models.nets import Net, build
from models.nets.heads import GAIN, MEANS
from tests.unit.models.conftest import MakeSupport

RECIPE = InnerLoopConfig(steps=2, learning_rate=0.05, batch_size=6)
TOLERANCE = 1e-5
NETS = {
    "conv4": NetConfig("conv4", ImageConfig(1, 16), width=8),
    "conv4, as wide as the runtime's blocks, odd maps": NetConfig("conv4", ImageConfig(3, 28), width=32),
    "conv4, pooled": NetConfig("conv4", ImageConfig(1, 28), width=16, pooling="max"),
    "resnet12": NetConfig("resnet12", ImageConfig(1, 34), width=8),
    "surface": NetConfig("surface", ImageConfig(1, 32), width=128),
}


@pytest.fixture(params=list(NETS.values()), ids=list(NETS))
def net(request: pytest.FixtureRequest) -> Net:
    return build(request.param, seed=3)


@pytest.fixture(params=["onnx", "torch"])
def forward(request: pytest.FixtureRequest, net: Net) -> BatchPredictor:
    return OnnxPredictor(net) if request.param == "onnx" else TorchPredictor(net, torch.device("cpu"))


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def folded_of(net: Net, seed: int, n_way: int) -> dict[str, Tensor]:
    """Folded weights of ordinary size, other ones for every seed."""
    weights = {}
    for index, (name, tensor) in enumerate(net.start().items()):
        weights[name] = tensor * (1 + 0.2 * (drawn(100 * seed + index, *tensor.shape) - 0.5))
    statistics = {}
    for name, tensor in weights.items():
        if tensor.dim() == 4:
            layer = name.removesuffix(".weight")
            statistics[f"{layer}.mean"] = drawn(seed, len(tensor)) - 0.5
            statistics[f"{layer}.variance"] = drawn(seed + 1, len(tensor)) + 0.5
    if net.config.kind == "surface":
        statistics["pooled.mean"] = drawn(seed, net.feature_count)
        statistics["pooled.variance"] = drawn(seed + 1, net.feature_count) + 0.5
    weights["head.weight"] = (drawn(seed + 2, n_way, net.feature_count) - 0.5) / net.feature_count**0.5
    weights["head.bias"] = drawn(seed + 3, n_way)
    weights["head.means"] = drawn(seed + 4, n_way, net.feature_count)
    return fold_calibrated(weights, statistics)


def images_of(net: Net, seed: int, count: int) -> Tensor:
    spec = net.config.image
    return 2 * drawn(seed, count, spec.channels, spec.side, spec.side) - 1


def assert_same(got: Predictions, expected: Predictions) -> None:
    assert got.in_distribution is not None
    assert expected.in_distribution is not None
    torch.testing.assert_close(got.probabilities, expected.probabilities, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(got.in_distribution, expected.in_distribution, atol=TOLERANCE, rtol=0)


def test_versions_with_other_weights_classes_and_numbers_of_images_are_judged_as_each_is_alone(
    net: Net, forward: BatchPredictor
) -> None:
    sizes = [(3, 1), (5, 4), (2, 1), (5, 11), (7, 2)]
    versions = [folded_of(net, seed, n_way) for seed, (n_way, _) in enumerate(sizes)]
    images = [images_of(net, 50 + seed, count) for seed, (_, count) in enumerate(sizes)]
    asked = [
        PredictionRequest(forward.serving_weights(folded), batch.numpy())
        for folded, batch in zip(versions, images, strict=True)
    ]
    for folded, batch, one, together in zip(versions, images, asked, forward.predict(asked), strict=True):
        assert_same(together, predict_images(net, folded, batch))
        for place, image in enumerate(one.images):
            (alone,) = forward.predict([PredictionRequest(one.weights, image[None])])
            assert together.in_distribution is not None
            here = slice(place, place + 1)
            assert_same(alone, Predictions(together.probabilities[here], together.in_distribution[here]))


def test_an_image_does_not_see_extreme_batch_mates(net: Net, forward: BatchPredictor) -> None:
    own, other = forward.serving_weights(folded_of(net, 1, 3)), forward.serving_weights(folded_of(net, 2, 3))
    image, mates = images_of(net, 7, 1).numpy(), 1000 * images_of(net, 8, 3).numpy()
    (alone,) = forward.predict([PredictionRequest(own, image)])
    first, _ = forward.predict(
        [PredictionRequest(own, np.concatenate([image, mates])), PredictionRequest(other, mates)]
    )
    torch.testing.assert_close(first.probabilities[:1], alone.probabilities, atol=TOLERANCE, rtol=0)


def test_an_adapted_version_is_judged_the_same(conv4: Net, make_support: MakeSupport) -> None:
    adapted = adapt_one(conv4, conv4.start(), make_support(1), RECIPE, seed=0)
    folded, images = fold_calibrated(adapted.kept(), adapted.statistics, 1.5), make_support(2).images
    forward = OnnxPredictor(conv4)
    (judged,) = forward.predict([PredictionRequest(forward.serving_weights(folded), images.numpy())])
    assert_same(judged, predict_images(conv4, folded, images))


def test_weights_without_class_means_have_no_familiarity(conv4: Net) -> None:
    folded = {name: tensor for name, tensor in folded_of(conv4, 1, 3).items() if name not in (MEANS, GAIN)}
    forward = OnnxPredictor(conv4)
    (judged,) = forward.predict([PredictionRequest(forward.serving_weights(folded), images_of(conv4, 7, 2).numpy())])
    assert judged.in_distribution is None


def test_ready_weights_say_what_they_hold(forward: BatchPredictor, net: Net) -> None:
    folded = folded_of(net, 1, 3)
    least = sum(tensor.numel() * tensor.element_size() for name, tensor in folded.items() if name != GAIN)
    assert least <= forward.serving_weights(folded).size_bytes <= 3 * least  # filled up to the runtime's blocks at most


@pytest.mark.parametrize("spec", list(NETS.values()), ids=list(NETS))
def test_graphs_are_valid(spec: NetConfig) -> None:
    graph = graph_of(build(spec))
    assert graph is not None
    onnx.checker.check_model(graph, full_check=True)


def test_a_layout_that_scores_otherwise_is_not_used(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out = predict_onnx._laid_out

    def wrong(values: object, layouts: object) -> object:
        found = laid_out(values, layouts)  # type: ignore[arg-type]
        return {name: value * (1 if name.startswith("head") else 2) for name, value in found.items()}

    monkeypatch.setattr(predict_onnx, "_laid_out", wrong)
    forward = OnnxPredictor(net)
    monkeypatch.undo()
    assert forward._layouts == {}
    folded, images = folded_of(net, 1, 3), images_of(net, 2, 2)
    (judged,) = forward.predict([PredictionRequest(forward.serving_weights(folded), images.numpy())])
    assert_same(judged, predict_images(net, folded, images))
