"""A start with a quantised backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.errors import CheckpointInvalid
from models.inference.embedding import OnnxEmbedder, embed_images
from models.inference.quantise import quantised
from models.nets import BackboneNet

START = load_checkpoint("efficientnet-lite0")


def pictures(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    coarse = torch.rand(count, 3, 12, 12, generator=generator) * 255
    fine = torch.nn.functional.interpolate(coarse, (96, 96), mode="bicubic") + 20 * torch.rand(
        count, 3, 96, 96, generator=generator
    )
    return list(fine.clamp(0, 255).to(torch.uint8))


@pytest.fixture(scope="module")
def made() -> Checkpoint:
    return quantised(START, pictures(6))


def features(graph: bytes | None, net: BackboneNet, images: list[Tensor]) -> Tensor:
    assert graph is not None
    return embed_images(OnnxEmbedder(graph, net), images, START.net_config.image)


@pytest.mark.slow
def test_a_quantised_start_is_a_start_of_its_own_with_similar_features(made: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "efficientnet-lite0-int8.safetensors"
    save_checkpoint(made, path)
    loaded, net = load_checkpoint(path), START.build_net()
    assert isinstance(net, BackboneNet)
    assert loaded.name == "efficientnet-lite0-int8"
    assert loaded.digest != START.digest
    images = pictures(8)
    exact, rounded = features(START.onnx_graph, net, images), features(made.onnx_graph, net, images)
    both = torch.stack([exact - exact.mean(0), rounded - rounded.mean(0)])  # (2, images, features)
    agreement = torch.nn.functional.cosine_similarity(both[0] / exact.std(0), both[1] / exact.std(0))
    assert not torch.equal(exact, rounded)
    assert agreement.min() > 0.7


@pytest.mark.slow
def test_kernels_of_a_quantised_start_have_seven_bits_for_each_output_channel(made: Checkpoint) -> None:
    kernel = made.backbone["blocks.3.expand.0.weight"].float().flatten(1)
    values = [len(row.abs().unique()) for row in kernel]
    assert max(values) <= 64


def test_a_start_without_a_frozen_backbone_or_a_graph_is_rejected() -> None:
    for start in (load_checkpoint("surfaces"), replace(START, onnx_graph=None)):
        with pytest.raises(CheckpointInvalid, match="no frozen backbone"):
            quantised(start, [])
