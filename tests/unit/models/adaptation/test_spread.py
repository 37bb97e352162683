"""Tasks spread over threads against the same tasks side by side, and memory that stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from models import weights as algebra
from models.adaptation.inner_loop import InnerLoopOptions, run_inner_loop
from models.adaptation.optimisers import Moments
from models.adaptation.parallel import Spread
from models.config import InnerLoopConfig
from models.errors import AdaptationDiverged
from models.meta.reptile import MetaTrainingState, Reptile
from models.nets import Net
from tests.unit.models.conftest import MakeSupport

SGD = InnerLoopConfig(steps=3, learning_rate=0.005, batch_size=4)
SPREAD = Spread(threads=2)
ADAM = InnerLoopConfig(steps=3, learning_rate=0.001, batch_size=4, optimiser="adam", carry_moments=True)

FAULTS = """
import resource, torch
from models.adaptation.allocator import keep_freed_memory
torch.set_num_threads(1)
keep_freed_memory()
def step():
    kept = [torch.zeros(3 << 19) for _ in range(8)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.parametrize("recipe", [SGD, ADAM], ids=["sgd", "adam"])
def test_threads_give_the_weights_losses_and_moments_of_tasks_side_by_side(
    net: Net, make_support: MakeSupport, recipe: InnerLoopConfig
) -> None:
    supports, seeds = [make_support(seed) for seed in range(5)], [5, 6, 7, 8, 9]
    ones = {name: torch.full_like(tensor, 1e-4) for name, tensor in net.start().items()}
    moments = Moments(ones, 4) if recipe.carry_moments else None
    spread = SPREAD.run_inner_loop(net, net.start(), supports, recipe, seeds, moments)
    starts = algebra.expand(net.start(), 5)
    together = run_inner_loop(net, starts, supports, recipe, seeds, InnerLoopOptions(moments))
    torch.testing.assert_close(dict(spread.weights), dict(together.weights), rtol=1e-3, atol=2e-5)
    torch.testing.assert_close(spread.losses, together.losses, rtol=1e-4, atol=1e-5)
    assert torch.equal(spread.absent, together.absent)
    if together.moments is not None:
        assert spread.moments is not None
        assert spread.moments.steps == together.moments.steps == 7
        torch.testing.assert_close(dict(spread.moments.second), dict(together.moments.second), rtol=1e-2, atol=1e-6)


def test_spreading_leaves_the_callers_threads_as_they_were(conv4: Net, make_support: MakeSupport) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    SPREAD.run_inner_loop(conv4, conv4.start(), [make_support(seed) for seed in range(4)], SGD, [1, 2, 3, 4])
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_the_same_threads_give_the_same_bits(conv4: Net, make_support: MakeSupport) -> None:
    supports = [make_support(seed) for seed in range(4)]
    first, again = (SPREAD.run_inner_loop(conv4, conv4.start(), supports, ADAM, [1, 2, 3, 4]) for _ in range(2))
    assert algebra.digest(first.weights) == algebra.digest(again.weights)


def test_tasks_of_different_numbers_of_classes_keep_one_width_of_head(conv4: Net, make_support: MakeSupport) -> None:
    supports = [make_support(1, n_way=2), make_support(2, n_way=4), make_support(3, n_way=3)]
    descent = SPREAD.run_inner_loop(conv4, conv4.start(), supports, SGD, [1, 2, 3])
    assert descent.absent.sum(1).tolist() == [2, 0, 1]
    assert descent.weights["head.bias"].shape == (3, 4)


def test_a_task_that_diverges_on_another_thread_is_named(conv4: Net, make_support: MakeSupport) -> None:
    supports = [make_support(seed) for seed in range(4)]
    supports[3] = replace(supports[3], images=torch.full_like(supports[3].images, float("inf")))
    with pytest.raises(AdaptationDiverged) as caught:
        Reptile(threads=2).meta_step(conv4, MetaTrainingState(conv4.start()), supports, SGD, 1.0, [1, 2, 3, 4])
    assert caught.value.tasks == (3,)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such threshold")
def test_memory_that_a_step_freed_is_there_for_the_next_one() -> None:
    child = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, check=True)
    assert int(child.stdout) < 100
