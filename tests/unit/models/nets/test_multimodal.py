"""Nets for an image and a second modality: adapted, frozen, with one modality missing, and served."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models import weights as weight_ops
from models.adaptation.adapt import adapt, adapt_one
from models.checkpoint import load_checkpoint
from models.config import InnerLoopConfig, NetConfig
from models.errors import InvalidConfig
from models.images.preprocessing import ImageConfig
from models.inference.predict import (
    OnnxPredictor,
    PredictionRequest,
    TorchPredictor,
    fold_calibrated,
    predict_images,
)
from models.modalities.rows import keep_only, pack_rows
from models.modalities.text import text_vector
from models.nets import MultimodalNet, build, call_net, call_net_recording, heads
from models.nets.multimodal import encoder_multipliers
from models.task import Support

SIZE = 5
IMAGE = ImageConfig(channels=1, side=16)
CONFIG = NetConfig("conv4", IMAGE, width=8, second="vector", second_size=SIZE)
RECIPE = InnerLoopConfig(steps=3, learning_rate=0.1, batch_size=6)


def rows(seed: int, count: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 16, 16, generator=generator)
    return pack_rows(images, torch.randn(count, SIZE, generator=generator), SIZE)


def support(seed: int) -> Support:
    return Support(rows(seed), torch.arange(3).repeat_interleave(4), 3)


@pytest.fixture(params=["conv4", "surface", "resnet12"])
def net(request: pytest.FixtureRequest) -> MultimodalNet:
    width = {"conv4": 8, "surface": 16, "resnet12": 4}[request.param]
    built = build(replace(CONFIG, kind=request.param, width=width), seed=1)
    assert isinstance(built, MultimodalNet)
    return built


def test_features_are_two_embeddings_of_length_1(net: MultimodalNet) -> None:
    (features,) = call_net(net, weight_ops.expand(net.start(), 1), rows(0)[None])
    sizes = [net.image.feature_count, net.second.feature_count, 2]
    first, second, missing = torch.split(features, sizes, dim=1)
    assert not missing.any()
    assert torch.allclose(first.norm(dim=1), torch.ones(12), atol=1e-4)
    assert torch.allclose(second.norm(dim=1), torch.ones(12), atol=1e-4)


def test_tasks_side_by_side_and_tasks_that_share_weights_give_what_each_gives_alone(net: MultimodalNet) -> None:
    start, inputs = net.start(), torch.stack([rows(0), rows(1), rows(2)])
    side_by_side = call_net(net, weight_ops.expand(start, 3), inputs)
    shared = call_net(net, start, inputs)
    for task in range(3):
        alone = call_net(net, weight_ops.expand(start, 1), inputs[task : task + 1])[0]
        assert torch.allclose(side_by_side[task], alone, atol=1e-4)
        assert torch.allclose(shared[task], alone, atol=1e-4)


@pytest.mark.parametrize(("present", "missing"), [("image", slice(8, -2)), ("second", slice(8))])
def test_a_missing_modality_leaves_zeros_and_what_it_would_have_been_does_not_count(
    present: str, missing: slice
) -> None:
    net = build(CONFIG)
    kept = keep_only(rows(0), SIZE, present)  # type: ignore[arg-type]
    _, statistics = call_net_recording(net, weight_ops.expand(net.start(), 1), rows(3)[None])
    (features,) = call_net(net, weight_ops.expand(net.start(), 1), kept[None], statistics)
    assert not features[:, missing].any()
    assert features[:, -2:].tolist() == [[float(present != "image"), float(present != "second")]] * 12
    (whole,) = call_net(net, weight_ops.expand(net.start(), 1), rows(0)[None], statistics)
    other = slice(8) if missing.start else slice(8, -2)
    assert torch.equal(features[:, other], whole[:, other])


def test_without_steps_a_missing_modality_leaves_the_scores_of_prototypes_of_the_other() -> None:
    net = build(CONFIG)
    adapted = adapt_one(net, net.start(), support(0), replace(RECIPE, steps=0), seed=0)
    single = {name: tensor[None] for name, tensor in adapted.weights.items()}
    features = call_net(net, single, keep_only(rows(7), SIZE, "image")[None], adapted.statistics)
    images = features[0, :, :8]
    taught = call_net(net, single, support(0).inputs[None], adapted.statistics)[0].view(3, 4, -1).mean(1)
    gain = heads.feature_gain(taught[None], torch.zeros(1, 3, dtype=torch.bool)).flatten()
    expected = -RECIPE.head_scale * torch.cdist(images, taught[:, :8]).square() * gain**2
    scores = heads.logits(single, features)[0]
    assert torch.allclose(scores.log_softmax(-1), expected.log_softmax(-1), atol=1e-3)


@pytest.mark.parametrize(("modality", "frozen"), [("image", "second."), ("second", "image.")])
def test_an_encoder_that_is_not_adapted_keeps_its_bytes(modality: str, frozen: str, net: MultimodalNet) -> None:
    recipe = replace(RECIPE, lr_multipliers=encoder_multipliers(modality))  # type: ignore[arg-type]
    adapted = adapt_one(net, net.start(), support(0), recipe, seed=0)
    changed = weight_ops.changed(net.start(), adapted.weights)
    assert not [name for name in changed if name.startswith(frozen)]
    assert [name for name in changed if name.startswith(f"{modality}.")]
    assert "head.weight" in changed


def test_adapting_both_changes_both() -> None:
    net = build(CONFIG)
    recipe = replace(RECIPE, lr_multipliers=encoder_multipliers("both"))
    adapted = adapt_one(net, net.start(), support(0), recipe, seed=0)
    assert {name.partition(".")[0] for name in weight_ops.changed(net.start(), adapted.weights)} == {
        "image",
        "second",
        "head",
    }


def test_an_adaptation_gives_the_same_bits_again_and_beside_others() -> None:
    net = build(CONFIG)
    first, beside = adapt(net, net.start(), [support(0), support(1)], RECIPE, [0, 1])
    alone = adapt_one(net, net.start(), support(0), RECIPE, seed=0)
    assert weight_ops.digest(first.weights) == weight_ops.digest(alone.weights)  # type: ignore[union-attr]
    assert weight_ops.digest(beside.weights) != weight_ops.digest(alone.weights)  # type: ignore[union-attr]


def test_a_prediction_depends_on_its_row_alone_and_predictors_agree(net: MultimodalNet) -> None:
    adapted = adapt_one(net, net.start(), support(0), RECIPE, seed=0)
    folded = fold_calibrated(adapted.kept(), adapted.statistics)
    queries = torch.cat([rows(5, 3), keep_only(rows(6, 2), SIZE, "image")])
    together = predict_images(net, folded, queries).probabilities
    alone = torch.cat([predict_images(net, folded, query[None]).probabilities for query in queries])
    predictor = TorchPredictor(net, torch.device("cpu"))
    (served,) = predictor.predict([PredictionRequest(predictor.serving_weights(folded), queries.numpy())])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(served.probabilities, alone, atol=1e-5)


def test_onnxruntime_predicts_rows_with_both_modalities_and_with_images_alone() -> None:
    start = load_checkpoint("surface-notes")
    net, size, graph = start.build_net(), start.net_config.second_size, start.onnx_graph
    assert graph is not None
    images = torch.rand(9, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    inputs = pack_rows(images, torch.stack([text_vector(f"note {row}") for row in range(9)]), size)
    taught = Support(inputs[:6], torch.arange(3).repeat(2), 3)
    adapted = adapt_one(net, start.weights, taught, replace(start.recipe, steps=1), seed=0)
    folded = fold_calibrated(adapted.kept(), adapted.statistics)
    queries = torch.cat([inputs[6:8], keep_only(inputs[8:], size, "image")])
    predictor = OnnxPredictor(graph, net.config)
    (served,) = predictor.predict([PredictionRequest(predictor.serving_weights(folded), queries.numpy())])
    expected = predict_images(net, folded, queries)
    assert torch.allclose(served.probabilities, expected.probabilities, atol=1e-5)


def test_a_support_without_the_second_modality_is_learned_from_its_images() -> None:
    net = build(CONFIG)
    images = replace(support(0), inputs=keep_only(rows(0), SIZE, "image"))
    adapted = adapt_one(net, net.start(), images, RECIPE, seed=0)
    assert all(bool(tensor.isfinite().all()) for tensor in adapted.weights.values())


def test_the_units_of_readings_do_not_count() -> None:
    net = build(CONFIG)
    scaled = rows(0)
    scaled[:, -SIZE - 2 : -2] = 1000 * scaled[:, -SIZE - 2 : -2] + 300
    features, other = (call_net(net, weight_ops.expand(net.start(), 1), inputs[None]) for inputs in (rows(0), scaled))
    assert torch.allclose(features, other, atol=1e-3)


def test_the_settings_are_recorded_only_where_there_is_a_second_modality() -> None:
    assert "second" not in NetConfig("conv4", IMAGE).to_json()
    data = json.loads(json.dumps(NetConfig("conv4", IMAGE, second="text").to_json()))
    assert (data["second"], data["second_size"]) == ("text", 512)
    assert NetConfig.from_json(data) == NetConfig("conv4", IMAGE, second="text")


@pytest.mark.parametrize(
    "settings",
    [
        {"second": "sound"},
        {"second": "vector"},
        {"second": "text", "second_size": 100},
        {"second_size": 5},
        {"kind": "backbone", "factory": "a:b", "second": "text"},
    ],
)
def test_settings_that_do_not_fit_together_are_errors(settings: dict[str, object]) -> None:
    with pytest.raises(InvalidConfig, match="second"):
        NetConfig(**{"kind": "conv4", "image": IMAGE, **settings})  # type: ignore[arg-type]
