"""Tasks distributed over threads give the same results as one batch; freed memory is reused."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

import pytest
import torch

from models import weights as weight_ops
from models.adaptation.executor import FairExecutor
from models.adaptation.inner_loop import InnerLoopOptions, InnerLoopResult, run_inner_loop
from models.adaptation.optimisers import Moments
from models.config import InnerLoopConfig
from models.errors import AdaptationDiverged
from models.meta.outer_loop import MetaTrainingState
from models.meta.reptile import Reptile
from models.nets import Net
from models.task import Support
from tests.unit.models.conftest import MakeSupport

SGD = InnerLoopConfig(steps=3, learning_rate=0.005, batch_size=4)
ADAM = InnerLoopConfig(steps=3, learning_rate=0.001, batch_size=4, optimiser="adam", carry_moments=True)

FAULTS = """
import resource, sys, torch
from models.adaptation import allocator
torch.set_num_threads(1)
allocator.keep_freed_memory(getattr(allocator, sys.argv[1]))
def step():
    kept = [torch.zeros(int(sys.argv[2]) << 18) for _ in range(8)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.fixture
def executor() -> Iterator[FairExecutor]:
    with closing(FairExecutor(2, partial(torch.set_num_threads, 1))) as two_threads:
        yield two_threads


def run(
    net: Net,
    supports: Sequence[Support],
    recipe: InnerLoopConfig,
    executor: FairExecutor | None,
    moments: Moments | None = None,
) -> InnerLoopResult:
    starts, seeds = weight_ops.expand(net.start(), len(supports)), range(5, 5 + len(supports))
    return run_inner_loop(net, starts, supports, recipe, seeds, InnerLoopOptions(moments, executor=executor))


@pytest.mark.parametrize("recipe", [SGD, ADAM], ids=["sgd", "adam"])
def test_threads_give_the_weights_losses_and_moments_of_one_batch(
    net: Net, make_support: MakeSupport, recipe: InnerLoopConfig, executor: FairExecutor
) -> None:
    supports = [make_support(seed) for seed in range(5)]
    ones = {name: torch.full_like(tensor, 1e-4) for name, tensor in net.start().items()}
    moments = Moments(ones, 4) if recipe.carry_moments else None
    threaded = run(net, supports, recipe, executor, moments)
    batched = run(net, supports, recipe, None, moments)
    torch.testing.assert_close(dict(threaded.weights), dict(batched.weights), rtol=1e-3, atol=2e-5)
    torch.testing.assert_close(threaded.losses, batched.losses, rtol=1e-4, atol=1e-5)
    assert torch.equal(threaded.padding_mask, batched.padding_mask)
    if batched.moments is not None:
        assert threaded.moments is not None
        assert threaded.moments.steps == batched.moments.steps == 7
        torch.testing.assert_close(dict(threaded.moments.second), dict(batched.moments.second), rtol=1e-2, atol=1e-6)


def test_an_executor_does_not_change_the_threads_of_the_caller(
    conv4: Net, make_support: MakeSupport, executor: FairExecutor
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    run(conv4, [make_support(seed) for seed in range(4)], SGD, executor)
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_the_same_number_of_threads_gives_the_same_bits(
    conv4: Net, make_support: MakeSupport, executor: FairExecutor
) -> None:
    supports = [make_support(seed) for seed in range(4)]
    first, again = (run(conv4, supports, ADAM, executor) for _ in range(2))
    assert weight_ops.digest(first.weights) == weight_ops.digest(again.weights)


def test_tasks_with_different_numbers_of_classes_share_one_padded_head(
    conv4: Net, make_support: MakeSupport, executor: FairExecutor
) -> None:
    supports = [make_support(1, n_way=2), make_support(2, n_way=4), make_support(3, n_way=3)]
    result = run(conv4, supports, SGD, executor)
    assert result.padding_mask.sum(1).tolist() == [2, 0, 1]
    assert result.weights["head.bias"].shape == (3, 4)


def test_a_task_that_diverges_on_another_thread_is_named(
    conv4: Net, make_support: MakeSupport, executor: FairExecutor
) -> None:
    supports = [make_support(seed) for seed in range(4)]
    supports[3] = replace(supports[3], inputs=torch.full_like(supports[3].inputs, float("inf")))
    with pytest.raises(AdaptationDiverged) as caught:
        Reptile(executor).meta_step(conv4, MetaTrainingState(conv4.start()), supports, SGD, 1.0, [1, 2, 3, 4])
    assert caught.value.tasks == (3,)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such threshold")
@pytest.mark.parametrize(
    ("block", "megabytes"), [("SERVING_BLOCK_BYTES", 6), ("TRAINING_BLOCK_BYTES", 45)], ids=["serving", "training"]
)
def test_memory_freed_by_a_step_is_reused_by_the_next_step(block: str, megabytes: int) -> None:
    child = subprocess.run([sys.executable, "-c", FAULTS, block, str(megabytes)], capture_output=True, check=True)
    assert int(child.stdout) < 100
