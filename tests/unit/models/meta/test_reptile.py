"""Reptile's meta step against values calculated by hand, and meta-training that resumes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from models import weights as weight_ops
from models.adaptation.inner_loop import run_inner_loop
from models.config import InnerLoopConfig, MetaTrainingConfig
from models.errors import AdaptationDiverged
from models.meta.outer_loop import MetaTrainingState, inner_seeds, meta_train
from models.meta.reptile import Reptile
from models.nets import Net, heads
from models.task import Support
from tests.unit.models.conftest import SPEC, MakeSupport

meta_step = Reptile().meta_step
PLAIN_STEP = InnerLoopConfig(steps=1, learning_rate=0.5, batch_size=2, head="linear", statistics="batch")


class OneNumberNet(Net):
    """Its only feature is the mean of the image, so that gradients can be calculated by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SPEC
        self.feature_count = 1

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


def two_images(first: float, second: float) -> Support:
    images = torch.stack([torch.full((1, 16, 16), first), torch.full((1, 16, 16), second)])
    return Support(images, torch.tensor([0, 1]), 2)


def zero_head() -> dict[str, Tensor]:
    return {heads.WEIGHT: torch.zeros(2, 1), heads.BIAS: torch.zeros(2)}


def test_a_meta_step_matches_values_calculated_by_hand() -> None:
    # With a zero head both classes get probability 1/2. The gradient of the mean cross-entropy over the two images a
    # (class 0) and b (class 1) is, for the row of class 0, ((1/2 - 1) a + 1/2 b) / 2 = (b - a) / 4, for class 1 its
    # negative, and 0 for both biases. One step of rate 0.5 moves the row of class 0 to (a - b) / 8.
    supports = [two_images(1.0, 3.0), two_images(4.0, 0.0)]  # adapted rows: -2/8 and 4/8; their mean: 1/8
    state = meta_step(OneNumberNet(), MetaTrainingState(zero_head()), supports, PLAIN_STEP, 0.4, [0, 0])
    expected = 0.4 * 0.125
    torch.testing.assert_close(state.start[heads.WEIGHT], torch.tensor([[expected], [-expected]]))
    torch.testing.assert_close(state.start[heads.BIAS], torch.zeros(2))
    assert state.meta_step == 1
    assert state.loss == pytest.approx(0.693147, abs=1e-5)


def test_one_task_with_step_size_one_ends_at_its_adapted_weights(conv4: Net, make_support: MakeSupport) -> None:
    recipe = InnerLoopConfig(steps=3, learning_rate=0.05, batch_size=4)
    start = conv4.start()
    adapted = run_inner_loop(conv4, weight_ops.expand(start, 1), [make_support(1)], recipe, [9])
    state = meta_step(conv4, MetaTrainingState(start), [make_support(1)], recipe, 1.0, [9])
    for name in start:
        torch.testing.assert_close(state.start[name], adapted.weights[name][0])
    assert heads.WEIGHT not in state.start


def test_a_meta_batch_moves_the_start_like_the_mean_of_single_tasks(conv4: Net, make_support: MakeSupport) -> None:
    recipe = InnerLoopConfig(steps=3, learning_rate=0.002, batch_size=4)
    supports, seeds = [make_support(seed) for seed in range(4)], [4, 5, 6, 7]
    batch = meta_step(conv4, MetaTrainingState(conv4.start()), supports, recipe, 0.5, seeds)
    single = [
        meta_step(conv4, MetaTrainingState(conv4.start()), [support], recipe, 0.5, [seed])
        for support, seed in zip(supports, seeds, strict=True)
    ]
    expected = weight_ops.mean([state.start for state in single])
    torch.testing.assert_close(dict(batch.start), expected, rtol=1e-4, atol=1e-5)


def test_weight_arithmetic_works_by_name() -> None:
    old, new = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 0.0])}
    assert weight_ops.interpolate(old, new, 0.25)["w"].tolist() == [1.5, 1.5]
    assert weight_ops.subtract(new, old)["w"].tolist() == [2.0, -2.0]
    assert weight_ops.mean([old, new])["w"].tolist() == [2.0, 1.0]
    assert weight_ops.add_scaled(old, new, 0.5)["w"].tolist() == [2.5, 2.0]


def test_the_step_size_decays_linearly() -> None:
    meta = MetaTrainingConfig(meta_steps=10, step_size=1.0, final_step_size=0.0)
    assert [meta.step_size_at(step) for step in (0, 5, 9)] == pytest.approx([1.0, 0.5, 0.1])


def test_a_meta_step_with_a_diverging_task_raises(conv4: Net, make_support: MakeSupport) -> None:
    recipe = InnerLoopConfig(steps=6, learning_rate=1e30, batch_size=4)
    with pytest.raises(AdaptationDiverged):
        meta_step(conv4, MetaTrainingState(conv4.start()), [make_support(1)], recipe, 1.0, [0])


def test_resumed_training_reaches_the_same_weights(conv4: Net, make_support: MakeSupport) -> None:
    recipe = InnerLoopConfig(steps=2, learning_rate=0.01, batch_size=4, optimiser="adam", carry_moments=True)
    meta = MetaTrainingConfig(meta_steps=6, meta_batch=2)

    def source(step: int) -> Sequence[Support]:
        return [make_support(seed) for seed in inner_seeds(1, step, meta.meta_batch)]

    uninterrupted = list(meta_train(conv4, MetaTrainingState(conv4.start()), source, recipe, meta, Reptile().meta_step))
    resumed = list(meta_train(conv4, uninterrupted[2], source, recipe, meta, Reptile().meta_step))
    assert len(uninterrupted) == 6
    assert len(resumed) == 3
    assert weight_ops.digest(resumed[-1].start) == weight_ops.digest(uninterrupted[-1].start)


def test_meta_training_lowers_the_loss_on_new_tasks(conv4: Net, make_support: MakeSupport) -> None:
    recipe = InnerLoopConfig(steps=3, learning_rate=0.05, batch_size=6)
    meta = MetaTrainingConfig(meta_steps=40, meta_batch=4)

    def source(step: int) -> Sequence[Support]:
        return [make_support(seed) for seed in inner_seeds(1, step, meta.meta_batch)]

    losses = [
        state.loss
        for state in meta_train(conv4, MetaTrainingState(conv4.start()), source, recipe, meta, Reptile().meta_step)
    ]
    assert sum(losses[-8:]) < 0.7 * sum(losses[:8])
