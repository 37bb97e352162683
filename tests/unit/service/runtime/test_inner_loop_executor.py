"""Executors run the loops of several adaptations at once; each adaptation gets its own results and errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
import torch

from models.adaptation.adapt import Adapted, BatchingOptions, InnerLoopInput, OnGroupStep, adapt_inputs
from models.config import InnerLoopConfig, NetConfig
from models.errors import AdaptationDiverged
from models.images.preprocessing import ImageConfig
from models.nets import build
from models.task import Support
from service.domain.job import Progress
from service.runtime.adapt_queue import JobControl
from service.runtime.inner_loop_executor import (
    BatchedExecutor,
    InnerLoopExecutor,
    InnerLoopResults,
    Result,
    ThreadedExecutor,
)

LIMIT_S = 30
RECIPE = InnerLoopConfig(steps=4, learning_rate=0.05, batch_size=6)
WILD = replace(RECIPE, learning_rate=1e30)
NET = build(NetConfig("conv4", ImageConfig(channels=1, side=16, contrast="none"), width=8), seed=3)


def loop(seed: int, n_way: int = 3, n_shot: int = 3, recipe: InnerLoopConfig = RECIPE) -> InnerLoopInput:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_way).repeat_interleave(n_shot)
    images = torch.rand(len(labels), 1, 16, 16, generator=generator) + 0.3 * labels[:, None, None, None]
    return InnerLoopInput(Support(images, labels, n_way), recipe, seed)


ADAPTATIONS = [[loop(1), loop(2)], [loop(3, n_way=5, n_shot=2)], [loop(4, n_way=2, n_shot=7), loop(5, recipe=WILD)]]
"""Three adaptations with different numbers of classes and samples; one loop of the last diverges."""


class Runs:
    """Runs loops and records the batch sizes."""

    def __init__(self, batch_size: int | None = None) -> None:
        self.batch_size = batch_size
        self.batches: list[int] = []
        self.ways: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.started = threading.Semaphore(0)
        self.lock = threading.Lock()

    def __call__(self, loops: Sequence[InnerLoopInput], watch: OnGroupStep) -> Sequence[Result]:
        with self.lock:
            self.batches.append(len(loops))
            self.ways += [one.support.n_way for one in loops]
        self.started.release()
        assert self.go.wait(LIMIT_S)
        return adapt_inputs(NET, NET.start(), loops, BatchingOptions(self.batch_size, on_step=watch))


@pytest.fixture
def threaded() -> Iterator[tuple[ThreadedExecutor, Runs]]:
    runs = Runs()
    executor = ThreadedExecutor(runs, threads=2)
    yield executor, runs
    runs.go.set()
    executor.close()


@pytest.fixture
def batched() -> Iterator[tuple[BatchedExecutor, Runs]]:
    """An executor that waits until it has a batch of five loops."""
    runs = Runs(batch_size=16)
    executor = BatchedExecutor(runs, gather_s=LIMIT_S, max_batch=5)
    yield executor, runs
    runs.go.set()
    executor.close()


def run_all(executor: InnerLoopExecutor, controls: Sequence[JobControl]) -> list[Callable[[], Sequence[Result]]]:
    with ThreadPoolExecutor(len(ADAPTATIONS)) as pool:
        futures = [
            pool.submit(executor.run, loops, control) for loops, control in zip(ADAPTATIONS, controls, strict=True)
        ]
    return [partial(_results, future) for future in futures]


def _results(future: Future[InnerLoopResults]) -> Sequence[Result]:
    return future.result().results


def alone(one: InnerLoopInput) -> Result:
    (result,) = adapt_inputs(NET, NET.start(), [one])
    return result


def largest_difference(one: Result, other: Result) -> float:
    if isinstance(one, AdaptationDiverged) or isinstance(other, AdaptationDiverged):
        return 0.0 if type(one) is type(other) else float("inf")
    return max(float((one.weights[name] - other.weights[name]).abs().max()) for name in one.weights)


def test_threaded_results_are_bit_identical_to_running_alone(threaded: tuple[ThreadedExecutor, Runs]) -> None:
    executor, runs = threaded
    for loops, results in zip(ADAPTATIONS, run_all(executor, [JobControl() for _ in ADAPTATIONS]), strict=True):
        assert [largest_difference(result, alone(one)) for one, result in zip(loops, results(), strict=True)] == [
            0.0
        ] * len(loops)
    assert runs.batches == [1] * 5


def test_loops_of_any_size_run_as_one_batch_and_divergence_stays_with_its_loop(
    batched: tuple[BatchedExecutor, Runs],
) -> None:
    executor, runs = batched
    controls = [JobControl() for _ in ADAPTATIONS]
    for loops, results in zip(ADAPTATIONS, run_all(executor, controls), strict=True):
        for one, result in zip(loops, results(), strict=True):
            assert largest_difference(result, alone(one)) < 1e-3
            assert isinstance(result, AdaptationDiverged if one.recipe is WILD else Adapted)
    assert runs.batches == [5]
    assert [control.progress.steps_done for control in controls] == [8, 4, 8]


def test_results_say_how_many_other_loops_were_in_the_batch(
    batched: tuple[BatchedExecutor, Runs], threaded: tuple[ThreadedExecutor, Runs]
) -> None:
    assert batched[0].run([loop(n) for n in range(5)], JobControl()).batched_with == 4
    assert batched[0].run([*(loop(n) for n in range(4)), loop(9, recipe=WILD)], JobControl()).batched_with == 3
    assert threaded[0].run([loop(n) for n in range(5)], JobControl()).batched_with == 0


@pytest.mark.parametrize("kind", ["threaded", "batched"])
def test_a_stopped_adaptation_ends_and_the_others_get_their_results(kind: str, request: pytest.FixtureRequest) -> None:
    executor, _ = request.getfixturevalue(kind)
    controls = [JobControl() for _ in ADAPTATIONS]
    controls[0].on_change(lambda: controls[0].stop(KeyError("mine")) if controls[0].progress.steps_done else None)
    results = run_all(executor, controls)
    with pytest.raises(KeyError, match="mine"):
        results[0]()
    assert controls[0].progress.steps_done < 8
    for loops, result in zip(ADAPTATIONS[1:], results[1:], strict=True):
        assert largest_difference(result()[0], alone(loops[0])) < 1e-3


def test_a_batch_ends_early_once_all_its_adaptations_are_stopped(
    batched: tuple[BatchedExecutor, Runs],
) -> None:
    executor, runs = batched
    controls = [JobControl() for _ in ADAPTATIONS]
    for control in controls:
        control.stop(KeyError("all"))
    for results in run_all(executor, controls):
        with pytest.raises(KeyError, match="all"):
            results()
    assert [control.progress.steps_done for control in controls] == [0, 0, 0]
    assert (runs.batches[0], sorted(runs.batches[1:])) == (5, [1, 2, 2])


@pytest.mark.parametrize(
    "executor_of", [lambda runs: ThreadedExecutor(runs, 2), lambda runs: BatchedExecutor(runs, LIMIT_S, 5)]
)
def test_running_out_of_memory_fails_only_the_adaptation_that_needs_it(
    executor_of: Callable[[Runs], InnerLoopExecutor],
) -> None:
    class Short(Runs):
        """Has enough memory for one adaptation at a time, but never for the third."""

        def __call__(self, loops: Sequence[InnerLoopInput], watch: OnGroupStep) -> Sequence[Result]:
            if len(loops) > 2 or any(one.support.n_way == 2 for one in loops):
                raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory")
            return super().__call__(loops, watch)

    executor = executor_of(Short(batch_size=16))
    results = run_all(executor, [JobControl() for _ in ADAPTATIONS])
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        results[2]()
    assert largest_difference(results[0]()[1], alone(ADAPTATIONS[0][1])) < 1e-3
    assert largest_difference(results[1]()[0], alone(ADAPTATIONS[1][0])) < 1e-3
    executor.close()


def test_progress_counts_the_steps_of_all_loops_and_shows_the_loss_of_the_version(
    threaded: tuple[ThreadedExecutor, Runs],
) -> None:
    control, seen = JobControl(), list[Progress]()
    control.on_change(lambda: seen.append(control.progress))
    executed = threaded[0].run([loop(1), loop(2)], control)
    version = executed.results[0]
    assert isinstance(version, Adapted)
    assert seen[0] == Progress("waiting", 0, 8)
    assert control.progress.steps_done == 8
    assert list(dict.fromkeys(progress.loss for progress in seen if progress.loss is not None)) == pytest.approx(
        version.losses
    )
