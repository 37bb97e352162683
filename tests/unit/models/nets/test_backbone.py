"""Nets with a frozen backbone: pooled stages of any module, and adaptation on top of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from models.adaptation.adapt import adapt, adapt_one
from models.adaptation.inner_loop import batch_plan
from models.config import BACKBONE_RECIPE, NetConfig
from models.errors import AdaptationDiverged, InvalidConfig
from models.images.preprocessing import ImageConfig
from models.inference.predict import fold_calibrated, predict_images
from models.nets import BackboneNet, call_net
from models.nets.backbone import fold_batch_norms
from models.nets.normalisation import fold
from models.task import Support

IMAGE = ImageConfig(3, 32, "imagenet")


class Tokens(nn.Module):
    """Splits images into patches, as transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 8, 8)
        self.block = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 12), nn.GELU())

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.block(self.patches(images).flatten(2).transpose(1, 2))
        return tokens


def convolutional() -> nn.Module:
    torch.nn.init.normal_(torch.empty(0))
    layers = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
    )
    generator = torch.Generator().manual_seed(0)
    for name, tensor in layers.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(0.0, 0.5, generator=generator)
    return layers


def not_a_module() -> str:
    return "weights"


def net_of(factory: Callable[[], object], *stages: str) -> BackboneNet:
    return BackboneNet(NetConfig("backbone", IMAGE, factory=f"{__name__}:{factory.__name__}", stages=stages))


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def textured(label: int, count: int, seed: int) -> Tensor:
    noise = images(count, seed)
    return noise if label == 0 else nn.functional.avg_pool2d(noise, 3, 1, 1) * 3


def task(net: BackboneNet, per_class: int = 6, seed: int = 0) -> Support:
    inputs = torch.cat([net.embed(textured(label, per_class, seed + label)) for label in (0, 1)])
    return Support(inputs, torch.arange(2).repeat_interleave(per_class), 2)


def test_features_are_mean_deviation_and_extremes_of_each_stage() -> None:
    net = net_of(convolutional, "0", "1")
    features = net.embed(images(2))
    assert features.shape == (2, 4 * (8 + 16) + 6) == (2, net.feature_count)
    maps = net.backbone[0](images(2)).flatten(2)  # type: ignore[index]
    mean, deviation, largest, smallest = features[:, :32].view(2, 4, 8).unbind(1)
    count = round(0.02 * maps.shape[-1])
    ordered = maps.sort(dim=-1).values
    assert torch.allclose(mean, maps.mean(-1), atol=1e-5)
    assert torch.allclose(deviation, maps.std(-1, correction=0), atol=1e-3)
    assert torch.allclose(largest, ordered[..., -count:].mean(-1), atol=1e-5)
    assert torch.allclose(smallest, ordered[..., :count].mean(-1), atol=1e-5)
    assert torch.allclose(features[:, -6:-3], images(2).mean((2, 3)), atol=1e-5)
    assert torch.allclose(features[:, -3:], images(2).flatten(2).std(-1, correction=0), atol=1e-3)


def test_tokens_of_a_transformer_are_pooled_like_pixels() -> None:
    net = net_of(Tokens, "block")
    assert net.embed(images(3)).shape == (3, 4 * 12 + 6)
    assert torch.allclose(net.embed(images(3))[:, :12], net.backbone(images(3)).mean(1), atol=1e-6)


def test_threads_share_a_backbone() -> None:
    net = net_of(convolutional, "0", "1")
    expected = [net.embed(images(4, seed)) for seed in range(16)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: net.embed(images(4, seed)), range(16)))
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_folding_batch_normalisation_keeps_the_output() -> None:
    net = net_of(convolutional, "0", "1")
    folded = fold_batch_norms(net.backbone)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    assert torch.allclose(net.with_backbone(folded).embed(images(2)), net.embed(images(2)), atol=1e-4)


def test_adaptation_recognises_textures_and_keeps_only_head_and_statistics() -> None:
    net = net_of(convolutional, "0", "1")
    support, queries = task(net), task(net, per_class=20, seed=50)
    adapted = adapt_one(net, net.start(), support, BACKBONE_RECIPE, seed=0)
    folded = fold_calibrated(adapted.kept(), adapted.statistics)
    predictions = predict_images(net, folded, queries.inputs)
    assert float((predictions.probabilities.argmax(-1) == queries.labels).float().mean()) > 0.9
    assert set(adapted.kept()) == {"head.weight", "head.bias", "head.level", "head.length"}
    assert set(adapted.statistics) == {"pooled.mean", "pooled.variance", "pooled.limit"}


def test_no_feature_of_an_image_counts_more_than_the_limit() -> None:
    net = net_of(convolutional, "0", "1")
    support = task(net, per_class=20)
    statistics = adapt_one(net, net.start(), support, BACKBONE_RECIPE, seed=0).statistics
    limit = float(statistics["pooled.limit"])
    assert limit == pytest.approx(1.7 + 60 / len(support))
    image = support.inputs[:1].clone()
    image[:, 3] += 1e4
    images = torch.cat([support.inputs[:1], image])
    weights = {name: tensor[None] for name, tensor in fold({}, statistics).items()}
    usual, strange = call_net(net, weights, images[None])[0]
    others = torch.arange(net.feature_count) != 3
    factor = strange[others].norm() / usual[others].norm()
    assert torch.allclose(strange[others], factor * usual[others], atol=1e-4)
    assert 0.8 < float(factor) < 1  # all rows have one length
    of_earlier_versions = {name: tensor for name, tensor in weights.items() if name != "pooled.limit"}
    assert float(call_net(net, of_earlier_versions, images[None])[0, 1, others].abs().max()) < 0.1


def test_versions_that_learned_from_flips_take_a_second_look() -> None:
    net = net_of(convolutional, "0", "1")
    one_view = task(net)
    views = Support(one_view.inputs.repeat(4, 1), one_view.labels.repeat(4), one_view.n_way, views=4)
    adapted = adapt_one(net, net.start(), views, BACKBONE_RECIPE, seed=0)
    assert 0 < float(adapted.weights["head.second_look"]) < float(adapted.weights["head.level"])
    assert "head.second_look" not in adapt_one(net, net.start(), one_view, BACKBONE_RECIPE, seed=0).weights


def test_tasks_of_different_sizes_adapt_together_as_alone() -> None:
    net = net_of(convolutional, "0", "1")
    supports = [task(net, 3), task(net, 5, seed=9)]
    together = adapt(net, net.start(), supports, BACKBONE_RECIPE, [0, 0])
    for support, one in zip(supports, together, strict=True):
        assert not isinstance(one, AdaptationDiverged)
        alone = adapt_one(net, net.start(), support, BACKBONE_RECIPE, 0)
        assert all(torch.allclose(one.weights[name], alone.weights[name], atol=1e-5) for name in alone.weights)


def test_steps_go_on_from_the_closed_form_and_lower_the_loss() -> None:
    net = net_of(convolutional, "0", "1")
    support = task(net)
    recipe = replace(BACKBONE_RECIPE.adjusted(20, 0.01), head_scale=0.1)
    plan = batch_plan(support.labels, recipe, torch.Generator().manual_seed(0))
    assert plan.shape == (20, recipe.batch_size)
    stepped = adapt_one(net, net.start(), support, recipe, 0)
    closed = adapt_one(net, net.start(), support, replace(recipe, steps=0), 0)
    assert stepped.losses[-1] < stepped.losses[0]
    assert not torch.equal(stepped.weights["head.weight"], closed.weights["head.weight"])
    assert torch.equal(stepped.statistics["pooled.mean"], closed.statistics["pooled.mean"])


def test_an_image_unlike_all_classes_scores_lower() -> None:
    net = net_of(convolutional, "0", "1")
    adapted = adapt_one(net, net.start(), task(net, 20), BACKBONE_RECIPE, 0)
    folded = fold_calibrated(adapted.kept(), adapted.statistics)
    known = predict_images(net, folded, task(net, 20, seed=70).inputs).in_distribution
    strange = predict_images(
        net, folded, net.embed(torch.full((20, 3, 32, 32), 0.5) + 0.01 * images(20))
    ).in_distribution
    assert known is not None
    assert strange is not None
    assert float(strange.median()) < float(known.median())


@pytest.mark.parametrize(
    ("factory", "stages", "message"),
    [
        ("no.such.module:net", ("0",), "cannot be imported"),
        (f"{__name__}:missing", ("0",), "cannot be imported"),
        (f"{__name__}:not_a_module", ("0",), "must return a module"),
        (f"{__name__}:convolutional", ("7",), "no stage 7"),
        (f"{__name__}:convolutional", (), "none were named"),
    ],
)
def test_a_backbone_that_cannot_be_used_is_explained(factory: str, stages: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        BackboneNet(NetConfig("backbone", IMAGE, factory=factory, stages=stages))


def test_a_stage_that_returns_no_maps_is_explained() -> None:
    with pytest.raises(InvalidConfig, match="name stages that return maps"):
        net_of(flat, "2")


def flat() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 32), nn.Flatten(), nn.Linear(4, 2))
