"""Bayesian Reptile's outer step: means as Reptile, spreads in closed form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.adaptation.gaussian_weights import SUFFIX, divergence
from models.adaptation.inner_loop import InnerLoopResult, run_inner_loop
from models.checkpoint import load_checkpoint
from models.config import InnerLoopConfig, MetaTrainingConfig
from models.data.class_dataset import ArrayDataset
from models.meta.bayesian_reptile import BayesianReptile, bayesian_start
from models.meta.outer_loop import MetaTrainingState, inner_seeds, meta_train
from models.meta.reptile import Reptile
from models.meta.training import TrainingRun, TrainingRunConfig, WeightedDataset
from models.nets import Net, build
from models.nets.head_posterior import LOG_SD
from models.task import Support
from models.weights import expand
from tests.unit.models.conftest import SPEC, random_support

RECIPE = InnerLoopConfig(steps=3, learning_rate=0.05, batch_size=6)
NET = build(SPEC, seed=3)
META = MetaTrainingConfig(meta_steps=2, meta_batch=2, n_way=2, train_shots=3, algorithm="bayesian-reptile")


def adapted_to(means: list[float], deviations: list[float]) -> InnerLoopResult:
    """Posteriors of several tasks over one number."""
    weights = {"w": torch.tensor(means)[:, None], "w" + SUFFIX: torch.tensor(deviations).log()[:, None]}
    return InnerLoopResult(weights, torch.zeros(len(means), 1), None, torch.zeros(len(means), 2).bool(), [])


def prior(mean: float, deviation: float) -> dict[str, Tensor]:
    return {"w": torch.tensor([mean]), "w" + SUFFIX: torch.tensor([deviation]).log()}


def test_the_spread_becomes_how_unsure_tasks_are_and_how_much_they_differ() -> None:
    target = BayesianReptile().target(NET, prior(1.0, 0.5), adapted_to([0.0, 2.5], [0.1, 0.3]))
    assert float(target["w"]) == pytest.approx(1.25)
    expected = (0.1**2 + 1.0**2 + 0.3**2 + 1.5**2) / 2
    assert float(target["w" + SUFFIX].exp().square()) == pytest.approx(expected)


def test_no_other_spread_is_closer_to_the_posteriors() -> None:
    start, adapted = prior(0.0, 0.5), adapted_to([0.2, -0.4, 0.5], [0.1, 0.3, 0.2])
    best = {**start, "w" + SUFFIX: BayesianReptile().target(NET, start, adapted)["w" + SUFFIX]}

    def distance(candidate: dict[str, Tensor]) -> float:
        return float(divergence(adapted.weights, expand(candidate, 3)).sum())

    for shift in (-0.1, 0.1):
        assert distance(best) < distance({**best, "w" + SUFFIX: best["w" + SUFFIX] + shift})


def test_weights_without_a_spread_move_as_with_reptile() -> None:
    start, adapted = prior(1.0, 0.5), adapted_to([0.0, 3.0], [0.1, 0.1])
    assert torch.equal(
        BayesianReptile().target(NET, start, adapted)["w"],
        Reptile().target(NET, start, adapted)["w"],
    )


def test_the_spread_of_class_means_is_learned_from_images_that_the_head_was_not_made_from() -> None:
    start = bayesian_start(NET.start())
    alike = random_support(1, n_way=3, n_shot=4)
    anchors = torch.tensor([0, 4, 8])
    noisy = replace(alike, anchors=anchors)
    first = alike.inputs[anchors].repeat_interleave(4, 0)
    exact = Support(first + 1e-3 * alike.inputs, alike.labels, 3, anchors)
    spreads = []
    for supports in ([exact], [noisy], [exact, noisy], [alike]):
        state = BayesianReptile().meta_step(NET, MetaTrainingState(start), supports, RECIPE, 1.0, [0] * len(supports))
        spreads.append(float(state.start[LOG_SD]))
    assert spreads[0] < spreads[2] < spreads[1]
    assert spreads[3] == 0  # a head that was made from all images shows no error


def test_an_inner_loop_leaves_the_spread_of_class_means_as_it_is() -> None:
    start = {**bayesian_start(NET.start()), LOG_SD: torch.tensor(-0.7)}
    found = run_inner_loop(NET, expand(start, 2), [random_support(1), random_support(2)], RECIPE, [3, 4])
    assert torch.equal(found.weights[LOG_SD], torch.tensor([-0.7, -0.7]))


def test_meta_training_lowers_the_loss_and_keeps_spreads_finite(conv4: Net) -> None:
    start = MetaTrainingState(bayesian_start(conv4.start()))
    meta = MetaTrainingConfig(meta_steps=30, meta_batch=4)
    states = list(
        meta_train(
            conv4,
            start,
            lambda step: [random_support(seed) for seed in inner_seeds(1, step, 4)],
            RECIPE,
            meta,
            BayesianReptile().meta_step,
        )
    )
    assert states[-1].loss < states[0].loss
    for name, tensor in states[-1].start.items():
        if name.endswith(SUFFIX) and name != LOG_SD:
            assert 1e-3 < float(tensor.exp().min()) <= float(tensor.exp().max()) < 2


def test_a_run_trains_on_from_a_start_and_saves_spreads(conv4: Net, tmp_path: Path) -> None:
    images = torch.randint(256, (4, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    noise = ArrayDataset("noise", ("a", "b"), [images, images.flip(0)])
    config = TrainingRunConfig(SPEC, RECIPE, META, {})
    given = {name: tensor + 0.01 for name, tensor in conv4.start().items()}
    serve, cpu = replace(RECIPE, uncertainty="bayes"), torch.device("cpu")
    run = TrainingRun(config, serve, tmp_path / "start.safetensors", cpu, start=given)
    assert all(torch.equal(run.state.start[name], tensor) for name, tensor in given.items())
    list(run.run([WeightedDataset(noise)]))
    saved = load_checkpoint(tmp_path / "start.safetensors")
    assert {"block1.scale" + SUFFIX, "block4.shift" + SUFFIX} <= saved.weights.keys()
    assert saved.recipe.uncertainty == "bayes"
