"""Batch predictors: many versions in one call give what each gives alone, in torch and in onnxruntime."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from models.adaptation.adapt import adapt_one
from models.checkpoint import load_checkpoint, shipped_names
from models.config import NetConfig
from models.errors import CheckpointInvalid
from models.feature_arrays import Floats
from models.images.preprocessing import ImageConfig
from models.inference.export import export_onnx
from models.inference.predict import (
    BatchPredictor,
    FeaturePredictor,
    OnnxPredictor,
    PredictionRequest,
    Predictions,
    TorchPredictor,
    fold_calibrated,
    predict_images,
)
from models.nets import BackboneNet, Net, build, heads
from models.nets.head_posterior import posterior_weights
from models.nets.heads import GAIN, MEANS, WEIGHT
from models.task import Support

TOLERANCE = 1e-5
EXPORTED = {
    "conv4, pooled, odd maps": NetConfig("conv4", ImageConfig(3, 28), width=16, pooling="max"),
    "resnet12": NetConfig("resnet12", ImageConfig(1, 34), width=8),
}
"""Exported by the tests; exporting a net takes seconds."""

ALL_SHIPPED = {name: load_checkpoint(name) for name in shipped_names()}
SHIPPED = {
    name: shipped
    for name, shipped in ALL_SHIPPED.items()
    if shipped.net_config.kind != "backbone" and shipped.net_config.second == "none"
}
"""Nets of images whose weights are inputs of the graph. `nets.test_multimodal` predicts with two modalities."""

BACKBONE = "efficientnet-lite0"
NETS = {
    **EXPORTED,
    **{name: checkpoint.net_config for name, checkpoint in SHIPPED.items()},
    BACKBONE: ALL_SHIPPED[BACKBONE].net_config,
}
PREDICTORS = [
    *[(name, kind) for name in (*EXPORTED, *SHIPPED) for kind in ("onnx", "torch")],
    *[(BACKBONE, kind) for kind in ("numpy", "torch")],
]


@functools.cache
def graph_of(name: str) -> bytes:
    if name in EXPORTED:
        return export_onnx(build(EXPORTED[name]))
    graph = SHIPPED[name].onnx_graph
    assert graph is not None
    return graph


@functools.cache
def net_of(name: str) -> Net:
    return build(NETS[name], seed=3)


@pytest.fixture(params=PREDICTORS, ids=", ".join)
def net_and_predictor(request: pytest.FixtureRequest) -> tuple[Net, BatchPredictor]:
    name, kind = request.param
    net = net_of(name)
    if kind == "onnx":
        return net, OnnxPredictor(graph_of(name), net.config)
    return net, FeaturePredictor() if kind == "numpy" else TorchPredictor(net, torch.device("cpu"))


@pytest.fixture
def net(net_and_predictor: tuple[Net, BatchPredictor]) -> Net:
    return net_and_predictor[0]


@pytest.fixture
def predictor(net_and_predictor: tuple[Net, BatchPredictor]) -> BatchPredictor:
    return net_and_predictor[1]


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
    if net.config.kind in ("surface", "backbone"):
        statistics["pooled.mean"] = uniform(seed, net.feature_count)
        statistics["pooled.variance"] = uniform(seed + 1, net.feature_count) + 0.5
    if net.config.kind == "backbone" and seed % 2:  # versions of earlier releases have no limit
        statistics["pooled.limit"] = torch.tensor([1.5])
    weights["head.weight"] = (uniform(seed + 2, n_way, net.feature_count) - 0.5) / net.feature_count**0.5
    weights["head.bias"] = uniform(seed + 3, n_way)
    weights["head.means"] = uniform(seed + 4, n_way, net.feature_count)
    return fold_calibrated(weights, statistics)


def images_of(net: Net, seed: int, count: int) -> Tensor:
    """Inputs of the net: images, or pooled features of a frozen backbone."""
    if isinstance(net, BackboneNet):
        return 4 * uniform(seed, count, net.feature_count) - 1
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


def test_probabilities_averaged_over_class_means_are_the_same_with_every_predictor_and_among_others(
    net: Net, predictor: BatchPredictor
) -> None:
    point, images = folded_of(net, 1, 3), images_of(net, 60, 5)
    generator = torch.Generator().manual_seed(7)
    bayes = {**point, **posterior_weights(point[WEIGHT], point[MEANS], torch.tensor([1, 2, 3]), generator)}
    requests = [PredictionRequest(predictor.serving_weights(own), images.numpy()) for own in (point, bayes)]
    of_point, together = predictor.predict(requests)
    expected = predict_images(net, bayes, images)
    assert_same(together, expected)
    assert of_point.uncertainty is None
    assert together.uncertainty is not None
    assert expected.uncertainty is not None
    torch.testing.assert_close(together.uncertainty.epistemic, expected.uncertainty.epistemic, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(together.uncertainty.total, expected.uncertainty.total, atol=TOLERANCE, rtol=0)
    assert float((together.probabilities - of_point.probabilities).abs().max()) > TOLERANCE
    assert requests[1].weights.size_bytes > requests[0].weights.size_bytes


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


def test_an_lda_head_gives_the_same_predictions_and_scores_with_every_predictor() -> None:
    net, labels = net_of(BACKBONE), torch.arange(3).repeat_interleave(4)
    support = Support(images_of(net, 1, 12) + 0.3 * labels[:, None], labels, 3)
    adapted = adapt_one(net, net.start(), support, ALL_SHIPPED[BACKBONE].recipe, seed=0)
    folded, queries = fold_calibrated(adapted.kept(), adapted.statistics, 1.5), images_of(net, 2, 40)
    queries[::2] *= 3  # far outside of the support
    expected = predict_images(net, folded, queries)
    for predictor in (FeaturePredictor(), TorchPredictor(net, torch.device("cpu"))):
        request = PredictionRequest(predictor.serving_weights(folded), queries.numpy())
        assert_same(predictor.predict([request])[0], expected)


def test_features_of_zeros_give_finite_predictions_after_a_frozen_backbone() -> None:
    folded = {**folded_of(net_of(BACKBONE), 1, 3), "pooled.shift": torch.zeros(3174)}
    predictor, rows = FeaturePredictor(), torch.zeros(1, 3174)
    (got,) = predictor.predict([PredictionRequest(predictor.serving_weights(folded), rows.numpy())])
    assert_same(got, predict_images(net_of(BACKBONE), folded, rows))


def test_no_bit_of_a_prediction_after_a_frozen_backbone_depends_on_the_other_images() -> None:
    net, predictor = net_of(BACKBONE), FeaturePredictor()
    weights, rows = predictor.serving_weights(folded_of(net, 1, 5)), images_of(net, 2, 9).numpy()
    (together,) = predictor.predict([PredictionRequest(weights, rows)])
    for index in range(len(rows)):
        (alone,) = predictor.predict([PredictionRequest(weights, rows[index : index + 1])])
        assert torch.equal(alone.probabilities[0], together.probabilities[index])


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
    for name in (*EXPORTED, *SHIPPED):
        assert b".py" not in graph_of(name)
        assert b"/models/" not in graph_of(name)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_images_in_doubt_are_also_looked_at_turned(kind: str) -> None:
    net = net_of(BACKBONE)
    predictor = FeaturePredictor() if kind == "numpy" else TorchPredictor(net, torch.device("cpu"))
    folded = folded_of(net, 1, 3)
    images, turned = images_of(net, 60, 8), images_of(net, 61, 8)
    leads = heads.lead(predict_images(net, folded, images).probabilities.log())
    folded[heads.SECOND_LOOK] = leads.sort().values[3:5].mean()  # half of the images are in doubt
    asked: list[list[int]] = []

    def turned_images(indices: Sequence[int]) -> Floats:
        asked.append(list(indices))
        return turned[list(indices)].numpy()

    request = PredictionRequest(predictor.serving_weights(folded), images.numpy(), turned_images)
    (predictions,) = predictor.predict([request])
    assert asked == [(leads < folded[heads.SECOND_LOOK]).nonzero().flatten().tolist()]
    assert_same(predictions, predict_images(net, folded, images, turned))
    alone = predict_images(net, folded, images)
    assert not torch.allclose(predictions.probabilities, alone.probabilities, atol=1e-3)


def test_images_are_not_turned_for_a_version_without_a_margin() -> None:
    def never(_: Sequence[int]) -> Floats:
        raise AssertionError("an image was turned")

    net = net_of(BACKBONE)
    predictor, images = FeaturePredictor(), images_of(net, 60, 8)
    weights = predictor.serving_weights(folded_of(net, 1, 3))
    (predictions,) = predictor.predict([PredictionRequest(weights, images.numpy(), never)])
    assert_same(predictions, predict_images(net, folded_of(net, 1, 3), images))
