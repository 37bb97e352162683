"""The four-block net: max pooling, and configurations saved before pooling could be chosen."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from models.adaptation.adapt import adapt_one
from models.checkpoint import Checkpoint
from models.config import InnerLoopConfig, MetaTrainingConfig, NetConfig
from models.errors import InvalidConfig
from models.images.preprocessing import ImageConfig
from models.inference.predict import class_probabilities
from models.nets import build, call_net, heads
from models.nets.normalisation import fold
from tests.unit.models.conftest import MakeSupport

POOLED = NetConfig("conv4", ImageConfig(channels=1, side=16, contrast="none"), width=8, pooling="max")


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
