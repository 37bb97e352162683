"""The four-block net: max pooling, variants, and configurations saved before pooling could be chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F

from models.adaptation.adapt import adapt_one
from models.checkpoint import Checkpoint
from models.config import InnerLoopConfig, MetaTrainingConfig, NetConfig
from models.errors import InvalidConfig
from models.images.preprocessing import ImageConfig
from models.inference.export import export_onnx
from models.inference.predict import (
    BatchPredictor,
    OnnxPredictor,
    PredictionRequest,
    TorchPredictor,
    class_probabilities,
    fold_calibrated,
    predict_images,
)
from models.nets import build, call_net, heads
from models.nets.normalisation import fold
from tests.unit.models.conftest import MakeSupport

POOLED = NetConfig("conv4", ImageConfig(channels=1, side=16, contrast="none"), width=8, pooling="max")
VARIANT = NetConfig(
    "conv4",
    POOLED.image,
    width=6,
    depth=3,
    growth=1.5,
    kernel=5,
    stem=2,
    halvings=2,
    global_pool=True,
    normalisation="image",
)


def test_the_digest_of_a_net_with_the_default_pooling_has_not_changed() -> None:
    spec = NetConfig("conv4", ImageConfig(channels=1, side=28, contrast="none"), width=64)
    checkpoint = Checkpoint("zeros", spec, InnerLoopConfig(steps=5, learning_rate=0.1), {"w": torch.zeros(2)})
    assert checkpoint.digest == "f1323c48c5ed5eba57f2ffb7a0350b5e7c2454665a4a760dbb5ba5a85598e29f"


def test_pooling_survives_json_and_is_omitted_at_its_default() -> None:
    assert POOLED.to_json()["pooling"] == "max"
    assert NetConfig.from_json(POOLED.to_json()) == POOLED
    strided = NetConfig("conv4", POOLED.image, 8)
    assert "pooling" not in strided.to_json()
    assert NetConfig.from_json(strided.to_json()) == strided


def test_other_nets_reject_max_pooling() -> None:
    with pytest.raises(InvalidConfig, match="stride with the surface net"):
        NetConfig("surface", POOLED.image, 16, pooling="max")


def test_the_published_mini_imagenet_net_has_1152_features() -> None:
    net = build(NetConfig("conv4", ImageConfig(channels=3, side=84), width=32, pooling="max"))
    stacked = {name: tensor[None] for name, tensor in net.start().items()}
    features = call_net(net, stacked, torch.zeros(1, 2, 3, 84, 84))
    assert features.shape == (1, 2, 1152)
    assert net.feature_count == 1152


def test_pooled_features_equal_those_of_plain_torch_operations(make_support: MakeSupport) -> None:
    net, images = build(POOLED, seed=3), make_support(1).inputs
    start = net.start()
    features = call_net(net, {name: tensor[None] for name, tensor in start.items()}, images[None])
    for block in ("block1", "block2", "block3", "block4"):
        raw = F.conv2d(images, start[f"{block}.weight"], padding=1)
        images = F.max_pool2d(F.relu(F.batch_norm(raw, None, None, training=True)), 2)
    torch.testing.assert_close(features[0], images.flatten(1), rtol=1e-4, atol=1e-5)


def test_folding_is_exact_with_pooling_and_negative_scales(make_support: MakeSupport) -> None:
    net, support = build(POOLED, seed=3), make_support(1)
    start = net.start()
    start["block2.scale"] = start["block2.scale"] * torch.tensor([1.0, -1.0] * 4)
    adapted = adapt_one(net, start, support, InnerLoopConfig(steps=2, learning_rate=0.01), seed=0)
    stacked = {name: tensor[None] for name, tensor in adapted.weights.items()}
    statistics = {name: tensor[None] for name, tensor in adapted.statistics.items()}
    features = call_net(net, stacked, support.inputs[None], statistics)
    unfolded = heads.logits(stacked, features)[0].softmax(-1)
    folded = class_probabilities(net, fold(adapted.weights, adapted.statistics), support.inputs)
    torch.testing.assert_close(folded, unfolded, rtol=1e-4, atol=1e-5)


def test_a_meta_training_config_with_defaults_survives_json() -> None:
    meta = MetaTrainingConfig(meta_steps=3)
    assert MetaTrainingConfig.from_json(meta.to_json()) == meta


def test_a_variant_survives_json_and_its_fields_are_omitted_at_their_defaults() -> None:
    assert NetConfig.from_json(VARIANT.to_json()) == VARIANT
    assert NetConfig("conv4", POOLED.image, 8).to_json().keys() == {"kind", "image", "width"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("depth", 0), ("growth", 0.5), ("kernel", 4), ("stem", 3), ("halvings", -1), ("normalisation", "layer")],
)
def test_an_impossible_variant_is_rejected(field: str, value: object) -> None:
    with pytest.raises(InvalidConfig, match=f"{field} is {value!r}; allowed"):
        NetConfig("conv4", POOLED.image, **{field: value})  # type: ignore[arg-type]


def test_other_nets_have_no_variants() -> None:
    with pytest.raises(InvalidConfig, match="depth is 5; allowed: 4 with the resnet12 net"):
        NetConfig("resnet12", POOLED.image, depth=5)


@pytest.mark.parametrize("pooling", ["stride", "max"])
@pytest.mark.parametrize("stem", [0, 4])
@pytest.mark.parametrize("kernel", [1, 5])
@pytest.mark.parametrize("side", [27, 28])
def test_the_number_of_features_of_a_variant_is_known_beforehand(
    pooling: Literal["stride", "max"], stem: int, kernel: int, side: int
) -> None:
    image = replace(POOLED.image, side=side)
    net = build(replace(VARIANT, image=image, pooling=pooling, stem=stem, kernel=kernel, global_pool=False))
    assert net(torch.zeros(1, 1, side, side)).shape == (1, net.feature_count)


def test_each_block_of_a_variant_has_more_channels_and_only_the_first_ones_halve() -> None:
    net = build(replace(VARIANT, depth=5, global_pool=False))
    shapes = [tuple(net.start()[f"block{number}.weight"].shape) for number in range(1, 6)]
    assert shapes == [(6, 1, 2, 2), (9, 6, 5, 5), (13, 9, 5, 5), (20, 13, 5, 5), (30, 20, 5, 5)]
    assert net.feature_count == 30 * 4 * 4  # 16 pixels, halved by the stem and by the second block


def test_normalised_by_image_features_equal_those_of_plain_torch_operations(make_support: MakeSupport) -> None:
    net, images = build(VARIANT, seed=3), make_support(1).inputs
    start = net.start()
    features = call_net(net, {name: tensor[None] for name, tensor in start.items()}, images[None])
    for block, (stride, padding) in {"block1": (2, 0), "block2": (2, 2), "block3": (1, 2)}.items():
        raw = F.conv2d(images, start[f"{block}.weight"], stride=stride, padding=padding)
        images = F.relu(F.group_norm(raw, 1))
    torch.testing.assert_close(features[0], images.mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_normalised_by_image_tasks_with_shared_kernels_equal_tasks_with_their_own(make_support: MakeSupport) -> None:
    net, generator = build(VARIANT, seed=3), torch.Generator().manual_seed(0)
    images = torch.stack([make_support(seed).inputs for seed in (1, 2)])
    scales = {f"block2.{name}": torch.rand(2, 9, generator=generator) for name in ("scale", "shift")}
    shared = {**net.start(), **scales}
    own = {name: tensor if name in scales else torch.stack([tensor] * 2) for name, tensor in shared.items()}
    torch.testing.assert_close(call_net(net, shared, images), call_net(net, own, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalisation", ["image", "batch"])
def test_a_variant_predicts_the_same_with_every_predictor(
    make_support: MakeSupport, normalisation: Literal["image", "batch"]
) -> None:
    net, support = build(replace(VARIANT, normalisation=normalisation), seed=3), make_support(1)
    adapted = adapt_one(net, net.start(), support, InnerLoopConfig(steps=2, learning_rate=0.01), seed=0)
    folded = fold_calibrated(adapted.kept(), adapted.statistics)
    expected = predict_images(net, folded, support.inputs).probabilities
    predictors: list[BatchPredictor] = [
        TorchPredictor(net, torch.device("cpu")),
        OnnxPredictor(export_onnx(net), net.config),
    ]
    for predictor in predictors:
        weights = predictor.serving_weights(folded)
        (predicted,) = predictor.predict([PredictionRequest(weights, support.inputs.numpy())])
        torch.testing.assert_close(predicted.probabilities, expected, rtol=1e-3, atol=1e-5)
