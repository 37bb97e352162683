"""Embedding with the shipped backbone: in onnxruntime as in torch, for images of any shape."""

from __future__ import annotations

import threading

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from models.adaptation.executor import FairExecutor
from models.checkpoint import load_checkpoint
from models.errors import CheckpointInvalid
from models.images.preprocessing import prepare_by_shape
from models.inference.embedding import OnnxEmbedder, TorchEmbedder, embed_images
from models.nets import BackboneNet
from models.task import FLIPS, flipped

CHECKPOINT = load_checkpoint("efficientnet-lite0")
CONFIG = CHECKPOINT.net_config.image
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def net() -> BackboneNet:
    built = CHECKPOINT.build_net()
    assert isinstance(built, BackboneNet)
    return built


@pytest.fixture(scope="module")
def embedder(net: BackboneNet) -> OnnxEmbedder:
    assert CHECKPOINT.onnx_graph is not None
    return OnnxEmbedder(CHECKPOINT.onnx_graph, net)


def picture(height: int, width: int, seed: int = 0, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (1, channels, 6, 6), generator=generator).float()
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255)
    return smooth[0].to(torch.uint8)


PICTURES = [picture(200, 200), picture(60, 240, 1), picture(256, 40, 2), picture(128, 170, 3, channels=1)]


def test_onnx_and_torch_agree_on_images_of_every_shape(net: BackboneNet, embedder: OnnxEmbedder) -> None:
    ours = embed_images(embedder, PICTURES, CONFIG, views=FLIPS)
    reference = embed_images(TorchEmbedder(net, CPU), PICTURES, CONFIG, views=FLIPS)
    assert ours.shape == (16, net.embedding_count)
    assert torch.allclose(ours, reference, atol=1e-3, rtol=1e-3)


def test_as_on_a_gpu_all_batches_run_on_one_thread_and_have_one_of_two_sizes(
    net: BackboneNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[int, int]] = set()
    embed = BackboneNet.embed

    def watched(net: BackboneNet, images: Tensor) -> Tensor:
        seen.add((threading.get_ident(), len(images)))
        return embed(net, images)

    pictures = [picture(192, 192, seed) for seed in range(11)]
    usual = embed_images(TorchEmbedder(net, CPU), pictures, CONFIG)
    monkeypatch.setattr(BackboneNet, "embed", watched)
    planned, executor = TorchEmbedder(net, CPU, planned=True), FairExecutor(3)
    planned.warm_up([(192, 192)], 3)
    warmed = set(seen)
    several = embed_images(planned, pictures, CONFIG, executor=executor)
    alone = embed_images(planned, pictures[:1], CONFIG)
    planned.close()
    executor.close()
    assert {count for _, count in warmed} == {1, 8}
    assert seen == warmed
    assert len({thread for thread, _ in seen}) == 1
    assert torch.allclose(several, usual, atol=1e-3, rtol=1e-3)
    assert torch.allclose(alone, usual[:1], atol=1e-3, rtol=1e-3)


def test_features_are_those_written_down_from_the_published_model(embedder: OnnxEmbedder) -> None:
    ramp = torch.linspace(0, 255, 192).round().to(torch.uint8)
    image = torch.stack([ramp.expand(192, 192), ramp.flip(0).expand(192, 192).T, torch.full((192, 192), 90).byte()])
    (features,) = embed_images(embedder, [image], CONFIG)
    written_down = torch.tensor(PUBLISHED)
    assert torch.allclose(features[torch.tensor(PLACES)], written_down, rtol=5e-3, atol=0.05)


PLACES = [0, 5, 30, 40, 60, 100, 150, 200, 300, 500, 700, 900, 1200, 1500, 1900, 2300, 2700, 3000, 3167]
PUBLISHED = [
    -1.7644,
    7.999,
    3.0155,
    1.5301,
    8.437,
    -3.7487,
    3.6105,
    5.6259,
    15.3147,
    1.8192,
    0.2863,
    11.005,
    8.6028,
    2.191,
    -0.337,
    0.937,
    3.0507,
    -3.441,
    -4.1093,
]
"""Computed from the published float32 weights by an independent implementation; the shipped kernels are float16."""


def test_rows_are_ordered_view_by_view(embedder: OnnxEmbedder) -> None:
    pictures = PICTURES[:2]
    rows = embed_images(embedder, pictures, CONFIG, views=FLIPS)
    for index, one in enumerate(pictures):
        ((_, prepared),) = prepare_by_shape([one], CONFIG)
        alone = embedder.embed(flipped(prepared))
        assert torch.allclose(rows[index::2], alone, atol=1e-4)


def test_a_row_does_not_depend_on_the_other_images(embedder: OnnxEmbedder) -> None:
    together = embed_images(embedder, PICTURES * 3, CONFIG)
    for index, one in enumerate(PICTURES):
        assert torch.allclose(together[index], embed_images(embedder, [one], CONFIG)[0], atol=1e-4)


def test_threads_give_the_same_rows_and_a_stop_ends_the_call(embedder: OnnxEmbedder) -> None:
    executor = FairExecutor(2)
    try:
        spread = embed_images(embedder, PICTURES, CONFIG, executor=executor)
        assert torch.equal(spread, embed_images(embedder, PICTURES, CONFIG))

        def stop() -> None:
            raise TimeoutError

        with pytest.raises(TimeoutError):
            embed_images(embedder, PICTURES, CONFIG, executor=executor, on_batch=stop)
    finally:
        executor.close()


def test_a_graph_of_another_net_is_rejected(net: BackboneNet) -> None:
    graph = load_checkpoint("surfaces").onnx_graph
    assert graph is not None
    with pytest.raises(CheckpointInvalid, match="export it again"):
        OnnxEmbedder(graph, net)


def test_a_graph_that_pools_the_maps_itself_still_works(net: BackboneNet) -> None:
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["images", 3, "height", "width"])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["images", net.feature_count])
    nodes = [
        helper.make_node("ReduceMax", ["images"], ["largest"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["largest"], ["column"], axes=[1]),
        helper.make_node("Expand", ["column", "shape"], ["features"]),
    ]
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1, net.feature_count])
    graph = helper.make_graph(nodes, "older", [images], [features], [shape])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)
    embedder = OnnxEmbedder(model.SerializeToString(), net)
    assert torch.equal(embedder.embed(torch.full((2, 3, 192, 192), 0.5)), torch.full((2, net.feature_count), 0.5))
