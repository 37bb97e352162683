"""ResNet-12: its size, its features compared with torch's layers, and invalid configurations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.config import InnerLoopConfig, NetConfig
from models.errors import InvalidConfig
from models.images.preprocessing import ImageConfig
from models.nets import build, call_net
from tests.unit.models.conftest import RESNET_SPEC, MakeSupport


def count(width: int) -> int:
    return sum(tensor.numel() for tensor in build(NetConfig("resnet12", ImageConfig(3, 84), width)).start().values())


def test_the_published_width_has_the_published_number_of_weights_and_features() -> None:
    assert count(64) == 12_424_320  # without a head; MetaOptNet's backbone
    assert build(NetConfig("resnet12", ImageConfig(3, 84), 64)).feature_count == 640


def plain_features(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """Compute the features of one task with torch's operations, without groups."""

    def normalised(name: str, maps: Tensor) -> Tensor:
        weight = weights[f"{name}.weight"]
        raw = F.conv2d(maps, weight, padding=weight.shape[-1] // 2)
        return F.batch_norm(raw, None, None, weights[f"{name}.scale"], weights[f"{name}.shift"], training=True)

    for block in ("block1", "block2", "block3", "block4"):
        maps = F.leaky_relu(normalised(f"{block}.conv1", images), 0.1)
        maps = F.leaky_relu(normalised(f"{block}.conv2", maps), 0.1)
        maps = normalised(f"{block}.conv3", maps) + normalised(f"{block}.shortcut", images)
        images = F.max_pool2d(F.leaky_relu(maps, 0.1), 2)
    return images.mean((2, 3))


def test_tasks_in_one_batch_have_the_features_of_plain_torch_operations(make_support: MakeSupport) -> None:
    starts = [build(RESNET_SPEC, seed).start() for seed in (1, 2)]
    images = [make_support(seed).inputs for seed in (3, 4)]
    stacked = {name: torch.stack([start[name] for start in starts]) for name in starts[0]}
    features = call_net(build(RESNET_SPEC), stacked, torch.stack(images))
    assert features.shape == (2, 12, 40)
    for task in (0, 1):
        torch.testing.assert_close(features[task], plain_features(starts[task], images[task]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [16, 21, 28, 84])
def test_images_of_any_allowed_size_give_features(side: int) -> None:
    net = build(NetConfig("resnet12", ImageConfig(1, side), 2))
    stacked = {name: tensor[None] for name, tensor in net.start().items()}
    features = call_net(net, stacked, torch.rand(1, 2, 1, side, side, generator=torch.Generator()))
    assert features.shape == (1, 2, net.feature_count)


def test_an_odd_width_and_max_pooling_are_rejected() -> None:
    with pytest.raises(InvalidConfig, match="width is 7; allowed: an even number with the resnet12 net"):
        NetConfig("resnet12", ImageConfig(1, 16), 7)
    with pytest.raises(InvalidConfig, match="stride with the resnet12 net"):
        NetConfig("resnet12", ImageConfig(1, 16), 8, pooling="max")


def test_a_resnet12_checkpoint_survives_saving_and_loading(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    recipe = InnerLoopConfig(steps=1, learning_rate=0.1, precision="bfloat16", recompute=True)
    save_checkpoint(Checkpoint("net", RESNET_SPEC, recipe, build(RESNET_SPEC).start()), path)
    made = load_checkpoint(path)
    assert (made.net_config, made.recipe) == (RESNET_SPEC, recipe)
    assert NetConfig.from_json(json.loads(json.dumps(RESNET_SPEC.to_json()))) == RESNET_SPEC
