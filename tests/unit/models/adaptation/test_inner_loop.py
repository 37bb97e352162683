"""The batched inner loop compared with a plain loop over tasks and torch's optimisers."""

from __future__ import annotations

import copy
import math
from contextlib import closing
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import weights as weight_ops
from models.adaptation.adapt import Adapted, BatchingOptions, adapt, adapt_one
from models.adaptation.executor import FairExecutor
from models.adaptation.inner_loop import STATISTICS_SAMPLES, InnerLoopOptions, batch_plan, run_inner_loop
from models.adaptation.optimisers import Moments, Optimiser
from models.config import InnerLoopConfig
from models.errors import AdaptationDiverged, InvalidConfig
from models.nets import Net, call_net, heads
from models.task import Support
from tests.unit.models.conftest import MakeSupport

SGD = InnerLoopConfig(steps=4, learning_rate=0.005, batch_size=5)
ADAM = InnerLoopConfig(steps=4, learning_rate=0.001, batch_size=5, optimiser="adam")
RECIPES = {
    "sgd": SGD,
    "adam": ADAM,
    "clipped": replace(SGD, clip_norm=0.05),
    "rates": replace(SGD, lr_multipliers=(("block*", 0.1), ("head.*", 3.0))),
    "frozen part": replace(SGD, lr_multipliers=(("block[12]*", 0.0),)),
    "replacement": replace(SGD, replacement=True),
    "batch larger than the support": replace(SGD, batch_size=30),
}


def plain_conv4_features(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """Compute the features of one task with batch statistics, without grouped convolutions."""
    for block in ("block1", "block2", "block3", "block4"):
        raw = F.conv2d(images, weights[f"{block}.weight"], stride=2, padding=1)
        mean = raw.mean((0, 2, 3), keepdim=True)
        variance = ((raw - mean) ** 2).mean((0, 2, 3), keepdim=True)
        scale, shift = (weights[f"{block}.{part}"][None, :, None, None] for part in ("scale", "shift"))
        images = torch.relu((raw - mean) / torch.sqrt(variance + 1e-5) * scale + shift)
    return images.flatten(1)


def plain_adapt(start: dict[str, Tensor], support: Support, recipe: InnerLoopConfig, seed: int) -> dict[str, Tensor]:
    """Run the inner loop of one task with torch's optimisers and no batching over tasks."""
    features = plain_conv4_features(start, support.inputs)
    prototypes = torch.stack([features[support.labels == label].mean(0) for label in range(support.n_way)])
    gain = ((prototypes - prototypes.mean(0)) ** 2).sum(1).mean() ** -0.5
    prototypes = prototypes * gain
    head = {"head.weight": 2 * recipe.head_scale * prototypes, "head.bias": -recipe.head_scale * (prototypes**2).sum(1)}
    weights = {name: tensor.clone().requires_grad_() for name, tensor in {**start, **head}.items()}
    rates = weight_ops.lr_multipliers_by_name(list(weights), recipe.lr_multipliers)
    groups = [{"params": [weights[name]], "lr": recipe.learning_rate * rates[name]} for name in weights]
    optimiser: torch.optim.Optimizer
    if recipe.optimiser == "sgd":
        optimiser = torch.optim.SGD(groups)
    else:
        optimiser = torch.optim.Adam(groups, betas=(0.0, 0.999), eps=1e-8)
    for rows in batch_plan(support.labels, recipe, torch.Generator().manual_seed(seed)):
        optimiser.zero_grad()
        features = plain_conv4_features(weights, support.inputs[rows])
        scores = gain * features @ weights["head.weight"].T + weights["head.bias"]
        torch.autograd.backward(F.cross_entropy(scores, support.labels[rows]))
        if recipe.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(weights.values()), recipe.clip_norm)
        optimiser.step()
    return {name: tensor.detach() * (gain if name == "head.weight" else 1) for name, tensor in weights.items()}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_a_batch_of_tasks_gets_the_weights_of_a_plain_loop(
    conv4: Net, make_support: MakeSupport, recipe: InnerLoopConfig
) -> None:
    supports = [make_support(1), make_support(2, n_way=2, n_shot=7), make_support(3, n_way=5, n_shot=1)]
    start = conv4.start()
    together = adapt(conv4, start, supports, recipe, seeds=[11, 12, 13], batching=BatchingOptions(3))
    for support, seed, result in zip(supports, (11, 12, 13), together, strict=True):
        assert isinstance(result, Adapted)
        expected = plain_adapt(start, support, recipe, seed)
        for name, tensor in expected.items():
            torch.testing.assert_close(result.weights[name], tensor, rtol=1e-3, atol=2e-5, msg=name)


def test_a_task_adapted_alone_and_in_a_batch_agree_within_1e5(net: Net, make_support: MakeSupport) -> None:
    supports = [make_support(seed, n_way=2 + seed, n_shot=1 + seed) for seed in range(4)]
    recipe = replace(SGD, learning_rate=5e-4)  # an untrained net amplifies rounding errors more than a trained one
    together = adapt(net, net.start(), supports, recipe, seeds=[5, 6, 7, 8], batching=BatchingOptions(4))
    for support, seed, result in zip(supports, (5, 6, 7, 8), together, strict=True):
        alone = adapt_one(net, net.start(), support, recipe, seed)
        assert isinstance(result, Adapted)
        for name, tensor in alone.weights.items():
            assert float((result.weights[name] - tensor).abs().max()) <= 1e-5, name
        torch.testing.assert_close(dict(result.statistics), dict(alone.statistics), rtol=1e-4, atol=1e-5)


def test_on_the_cpu_other_tasks_change_no_bit_even_at_a_high_learning_rate(net: Net, make_support: MakeSupport) -> None:
    supports = [make_support(seed, n_way=2 + seed, n_shot=1 + seed) for seed in range(4)]
    recipe = replace(SGD, learning_rate=0.5, steps=8)
    batched = adapt(net, net.start(), supports, recipe, seeds=[5, 6, 7, 8])
    for support, seed, result in zip(supports, (5, 6, 7, 8), batched, strict=True):
        alone = adapt_one(net, net.start(), support, recipe, seed)
        assert isinstance(result, Adapted)
        assert weight_ops.digest(result.weights) == weight_ops.digest(alone.weights)
        assert weight_ops.digest(result.statistics) == weight_ops.digest(alone.statistics)


def test_threads_change_neither_bits_nor_order(net: Net, make_support: MakeSupport) -> None:
    supports = [make_support(seed, n_way=2 + seed, n_shot=1 + seed) for seed in range(4)]
    recipes = [replace(SGD, learning_rate=0.5, steps=2 + task) for task in range(4)]
    with closing(FairExecutor(3)) as executor:
        options = BatchingOptions(executor=executor)
        threaded = adapt(net, net.start(), supports, recipes, seeds=[5, 6, 7, 8], batching=options)
    for support, recipe, seed, result in zip(supports, recipes, (5, 6, 7, 8), threaded, strict=True):
        alone = adapt_one(net, net.start(), support, recipe, seed)
        assert isinstance(result, Adapted)
        assert weight_ops.digest(result.weights) == weight_ops.digest(alone.weights)


def test_tasks_with_different_recipes_never_share_a_batch(net: Net, make_support: MakeSupport) -> None:
    supports = [make_support(seed) for seed in range(4)]
    recipes = [SGD, SGD, replace(SGD, steps=1), SGD]
    mixed = adapt(net, net.start(), supports, recipes, seeds=[5, 6, 7, 8], batching=BatchingOptions(4))
    assert [len(result.losses) for result in mixed if isinstance(result, Adapted)] == [4, 4, 1, 4]


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(net: Net, make_support: MakeSupport) -> None:
    first, again, other = (adapt_one(net, net.start(), make_support(1), SGD, seed) for seed in (4, 4, 5))
    assert weight_ops.digest(first.weights) == weight_ops.digest(again.weights)
    assert weight_ops.digest(first.weights) != weight_ops.digest(other.weights)


def test_adapting_changes_neither_the_start_nor_the_support(net: Net, make_support: MakeSupport) -> None:
    start, support = net.start(), make_support(1)
    before = weight_ops.digest(start), support.inputs.clone()
    adapt_one(net, start, support, ADAM, seed=0)
    assert weight_ops.digest(start) == before[0]
    assert torch.equal(support.inputs, before[1])


def test_frozen_weights_keep_their_bits(net: Net, make_support: MakeSupport) -> None:
    start = net.start()
    recipe = replace(SGD, lr_multipliers=(("*", 0.0), ("block3.*", 1.0), ("head.*", 1.0)))
    adapted = adapt_one(net, start, make_support(1), recipe, seed=0)
    changed = weight_ops.changed(start, adapted.weights)
    assert set(changed) == {name for name in start if name.startswith("block3.")} | {"head.weight", "head.bias"}


def test_frozen_weights_get_no_gradients_which_would_count_when_they_are_clipped() -> None:
    names = ["block1.weight", "head.weight", "head.bias"]
    head_only = replace(SGD, lr_multipliers=(("block*", 0.0),))
    assert Optimiser(head_only, names).adapted_names == ("head.weight", "head.bias")
    assert Optimiser(replace(SGD, lr_multipliers=(("*", 0.0),)), names).adapted_names == ("head.bias",)


def test_zero_steps_leave_the_start_and_classify_by_prototypes(net: Net, make_support: MakeSupport) -> None:
    start = net.start()
    adapted = adapt_one(net, start, make_support(1), replace(SGD, steps=0), seed=0)
    assert set(weight_ops.changed(start, adapted.weights)) == {heads.WEIGHT, heads.BIAS}
    assert adapted.losses == ()


def test_steps_lower_the_loss(net: Net, make_support: MakeSupport) -> None:
    recipe = InnerLoopConfig(steps=30, learning_rate=0.005, batch_size=12)
    losses = adapt_one(net, net.start(), make_support(1), recipe, seed=0).losses
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_task_that_diverges_does_not_affect_the_others(conv4: Net, make_support: MakeSupport) -> None:
    good, bad = make_support(1), make_support(2)
    bad = replace(bad, inputs=torch.full_like(bad.inputs, float("inf")))
    alone = adapt_one(conv4, conv4.start(), good, SGD, seed=1)
    with_bad = adapt(conv4, conv4.start(), [good, bad, good], SGD, seeds=[1, 1, 1], batching=BatchingOptions(3))
    assert isinstance(with_bad[1], AdaptationDiverged)
    for result in (with_bad[0], with_bad[2]):
        assert isinstance(result, Adapted)
        torch.testing.assert_close(dict(result.weights), dict(alone.weights), rtol=1e-5, atol=1e-5)


def test_divergence_is_an_error_that_names_the_first_bad_step(conv4: Net, make_support: MakeSupport) -> None:
    support = make_support(1)
    damaged = replace(support, inputs=torch.full_like(support.inputs, float("nan")))
    with pytest.raises(AdaptationDiverged, match="after inner step 1;") as at_once:
        adapt_one(conv4, conv4.start(), damaged, replace(SGD, steps=10), seed=0)
    with pytest.raises(AdaptationDiverged, match="after inner step 2;") as by_its_first_update:
        adapt_one(conv4, conv4.start(), support, replace(SGD, learning_rate=1e30, steps=10), seed=0)
    assert (at_once.value.step, by_its_first_update.value.step) == (1, 2)


def test_weights_that_are_not_finite_are_an_error_though_losses_and_statistics_are(
    conv4: Net, make_support: MakeSupport
) -> None:
    start = conv4.start()
    start = {**start, "block4.shift": start["block4.shift"] * math.nan}  # applied after the last statistics
    with pytest.raises(AdaptationDiverged):
        adapt_one(conv4, start, make_support(1), replace(SGD, steps=0), seed=0)


def test_a_multiplier_pattern_that_matches_no_weight_is_an_error(conv4: Net, make_support: MakeSupport) -> None:
    recipe = replace(SGD, lr_multipliers=(("attention*", 0.1),))
    with pytest.raises(InvalidConfig, match="attention"):
        adapt_one(conv4, conv4.start(), make_support(1), recipe, seed=0)


def test_a_linear_head_rejects_more_classes_than_it_was_trained_for(conv4: Net, make_support: MakeSupport) -> None:
    head = heads.linear_head(conv4.feature_count, 2, torch.Generator().manual_seed(0))
    recipe = replace(SGD, head="linear")
    adapted = adapt_one(conv4, {**conv4.start(), **head}, make_support(1, n_way=2), recipe, seed=0)
    assert adapted.weights[heads.WEIGHT].shape[0] == 2
    with pytest.raises(InvalidConfig, match="2 classes but the task has 3"):
        adapt_one(conv4, {**conv4.start(), **head}, make_support(1, n_way=3), recipe, seed=0)


def test_batches_without_replacement_go_through_the_support_before_repeating() -> None:
    plan = batch_plan(torch.arange(6) % 2, replace(SGD, steps=4, batch_size=3), torch.Generator().manual_seed(0))
    assert plan.shape == (4, 3)
    assert sorted(plan[:2].flatten().tolist()) == list(range(6))
    assert sorted(plan[2:].flatten().tolist()) == list(range(6))


def test_each_pass_through_the_support_has_an_order_of_its_own() -> None:
    plan = batch_plan(torch.arange(30) % 3, replace(SGD, steps=3, batch_size=30), torch.Generator().manual_seed(0))
    assert len({tuple(order) for order in plan.tolist()}) == 3
    assert list(range(30)) not in plan.tolist()


@pytest.mark.parametrize("replacement", [False, True])
def test_batches_hold_the_classes_evenly_whatever_their_sizes(replacement: bool) -> None:
    labels = torch.tensor([0] * 50 + [1] * 2 + [2] * 8)
    recipe = replace(SGD, steps=20, batch_size=30, replacement=replacement)
    drawn = batch_plan(labels, recipe, torch.Generator().manual_seed(0)).flatten()
    shares = torch.bincount(labels[drawn]).double() / len(drawn)
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3, dtype=torch.float64), rtol=0, atol=0.06)
    of_rare_classes = torch.bincount(drawn, minlength=60)[50:]
    assert of_rare_classes[:2].min() > 80
    assert of_rare_classes[2:].min() > 10
    if not replacement:
        assert set(drawn[:150].tolist()) == set(range(60))


def test_every_image_of_a_smaller_class_may_be_one_that_comes_again() -> None:
    labels = torch.tensor([0] * 5 + [1] * 3)
    one_pass = replace(SGD, steps=1, batch_size=10)
    again = set[int]()
    for seed in range(20):
        drawn = batch_plan(labels, one_pass, torch.Generator().manual_seed(seed)).flatten()
        counts = torch.bincount(drawn, minlength=8).tolist()
        assert (counts[:5], sorted(counts[5:])) == ([1] * 5, [1, 2, 2])
        again.update(image for image in range(5, 8) if counts[image] == 2)
    assert again == {5, 6, 7}


def test_equal_classes_are_drawn_as_shuffled_passes_of_the_support() -> None:
    recipe = replace(SGD, steps=4, batch_size=3)
    plan = batch_plan(torch.tensor([0, 1, 0, 1, 0, 1]), recipe, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    assert plan.flatten().tolist() == [row for _ in range(2) for row in torch.randperm(6, generator=generator).tolist()]


def test_batches_with_replacement_repeat_images() -> None:
    recipe = replace(SGD, steps=4, batch_size=30, replacement=True)
    plan = batch_plan(torch.arange(30) % 3, recipe, torch.Generator().manual_seed(0))
    assert plan.shape == (4, 30)
    assert all(len(set(batch)) < 30 for batch in plan.tolist())
    assert len(set(plan.flatten().tolist())) > 25


def test_carried_moments_continue_from_their_state(conv4: Net, make_support: MakeSupport) -> None:
    recipe = replace(ADAM, carry_moments=True, steps=2)
    starts = weight_ops.expand(conv4.start(), 1)
    fresh = run_inner_loop(conv4, starts, [make_support(1)], recipe, [0])
    assert fresh.moments is not None
    kept = Moments(weight_ops.task_mean(fresh.moments.second), fresh.moments.steps)
    before = copy.deepcopy(kept.second)
    carried = run_inner_loop(conv4, starts, [make_support(1)], recipe, [0], InnerLoopOptions(kept))
    assert carried.moments is not None
    assert (fresh.moments.steps, carried.moments.steps) == (2, 4)
    assert not torch.equal(carried.weights["block1.weight"], fresh.weights["block1.weight"])
    torch.testing.assert_close(dict(kept.second), dict(before), rtol=0, atol=0)


def test_statistics_are_the_mean_and_the_biased_variance_of_the_support(conv4: Net, make_support: MakeSupport) -> None:
    start, support = conv4.start(), make_support(1, n_shot=2)
    statistics = adapt_one(conv4, start, support, replace(SGD, steps=0), seed=0).statistics
    maps = F.conv2d(support.inputs, start["block1.weight"], stride=2, padding=1)
    torch.testing.assert_close(statistics["block1.mean"], maps.mean((0, 2, 3)))
    torch.testing.assert_close(statistics["block1.variance"], maps.var((0, 2, 3), correction=0))
    assert list(statistics) == [f"block{block}.{name}" for block in range(1, 5) for name in ("mean", "variance")]


def test_statistics_of_a_large_support_represent_every_class(conv4: Net, make_support: MakeSupport) -> None:
    """Clients send their samples class by class, so the first samples are not like the others."""
    large = make_support(1, n_way=3, n_shot=(STATISTICS_SAMPLES + 50) // 3)
    large = replace(large, inputs=large.inputs + large.labels[:, None, None, None])
    start = conv4.start()
    adapted = adapt_one(conv4, start, large, replace(SGD, steps=0), seed=0)
    maps = F.conv2d(large.inputs, start["block1.weight"], stride=2, padding=1)
    torch.testing.assert_close(adapted.statistics["block1.mean"], maps.mean((0, 2, 3)), rtol=0, atol=0.02)
    torch.testing.assert_close(adapted.statistics["block1.variance"], maps.var((0, 2, 3)), rtol=0, atol=0.02)


def test_class_means_of_a_large_support_include_every_sample(conv4: Net, make_support: MakeSupport) -> None:
    large = make_support(1, n_way=3, n_shot=(STATISTICS_SAMPLES + 50) // 3)
    adapted = adapt_one(conv4, conv4.start(), large, replace(SGD, steps=1), seed=0)
    features = call_net(conv4, adapted.weights, large.inputs[None], adapted.statistics)[0]
    expected = torch.stack([features[large.labels == label].mean(0) for label in range(3)])
    torch.testing.assert_close(adapted.means, expected, rtol=1e-4, atol=1e-4)
    predicted = (features @ adapted.weights[heads.WEIGHT].T + adapted.weights[heads.BIAS]).argmax(1)
    assert adapted.support_accuracy == pytest.approx(float((predicted == large.labels).float().mean()), abs=0.01)


@pytest.mark.parametrize(("batch_size", "threads"), [(None, 0), (None, 2), (2, 0)])
def test_on_step_sees_every_step_of_every_task_and_changes_no_bit(
    conv4: Net, make_support: MakeSupport, batch_size: int | None, threads: int
) -> None:
    supports, seeds = [make_support(seed) for seed in range(3)], [0, 1, 2]
    seen: dict[int, list[float]] = {task: [] for task in range(3)}

    def on_step(tasks: range, step: int, losses: torch.Tensor) -> None:
        for task, loss in zip(tasks, losses.tolist(), strict=True):
            seen[task].append(loss)
            assert len(seen[task]) == step

    with closing(FairExecutor(threads or 1)) as executor:
        silent = BatchingOptions(batch_size, executor if threads else None)
        with_callback = adapt(conv4, conv4.start(), supports, SGD, seeds, replace(silent, on_step=on_step))
        without = adapt(conv4, conv4.start(), supports, SGD, seeds, silent)
    for task, (result, expected) in enumerate(zip(with_callback, without, strict=True)):
        assert isinstance(result, Adapted)
        assert isinstance(expected, Adapted)
        assert result.losses == expected.losses == pytest.approx(seen[task])
        assert all(torch.equal(result.weights[name], expected.weights[name]) for name in result.weights)


def test_an_exception_in_on_step_ends_the_call(conv4: Net, make_support: MakeSupport) -> None:
    steps: list[int] = []

    def on_step(_: range, step: int, __: torch.Tensor) -> None:
        steps.append(step)
        if step == 2:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        adapt(conv4, conv4.start(), [make_support(1)], replace(SGD, steps=9), [0], BatchingOptions(on_step=on_step))
    assert steps == [1, 2]
