"""Benches: loops of several adaptations at the same time, each adaptation with its own results and its own errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
import torch

from models.adaptation.adapt import Adapted, Company, InnerLoopInput, OnGroupStep, adapt_inputs
from models.config import InnerLoopConfig, NetConfig
from models.errors import AdaptationDiverged
from models.images.preprocessing import ImageConfig
from models.nets import build
from models.task import Support
from service.runtime.inner_loop_executor import BatchedExecutor, InnerLoopExecutor, Ran, Result, ThreadedExecutor
from service.runtime.job_control import JobControl, Progress

LIMIT_S = 30
RECIPE = InnerLoopConfig(steps=4, learning_rate=0.05, batch_size=6)
WILD = replace(RECIPE, learning_rate=1e30)
NET = build(NetConfig("conv4", ImageConfig(channels=1, side=16, contrast="none"), width=8), seed=3)


def loop(seed: int, n_way: int = 3, n_shot: int = 3, recipe: InnerLoopConfig = RECIPE) -> InnerLoopInput:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_way).repeat_interleave(n_shot)
    images = torch.rand(len(labels), 1, 16, 16, generator=generator) + 0.3 * labels[:, None, None, None]
    return InnerLoopInput(Support(images, labels, n_way), recipe, seed)


ASKED = [[loop(1), loop(2)], [loop(3, n_way=5, n_shot=2)], [loop(4, n_way=2, n_shot=7), loop(5, recipe=WILD)]]
"""Three adaptations of different numbers of classes and samples; a loop of the last diverges."""


class Runs:
    """Runs loops and keeps how many it was given at once."""

    def __init__(self, together: int | None = None) -> None:
        self.together = together
        self.batches: list[int] = []
        self.ways: list[int] = []
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Semaphore(0)
        self.lock = threading.Lock()

    def __call__(self, loops: Sequence[InnerLoopInput], watch: OnGroupStep) -> Sequence[Result]:
        with self.lock:
            self.batches.append(len(loops))
            self.ways += [one.support.n_way for one in loops]
        self.begun.release()
        assert self.go.wait(LIMIT_S)
        return adapt_inputs(NET, NET.start(), loops, Company(together=self.together, watch=watch))


@pytest.fixture
def cores() -> Iterator[tuple[ThreadedExecutor, Runs]]:
    runs = Runs()
    bench = ThreadedExecutor(runs, threads=2)
    yield bench, runs
    runs.go.set()
    bench.close()


@pytest.fixture
def gathered() -> Iterator[tuple[BatchedExecutor, Runs]]:
    """Waits for company until there are five loops."""
    runs = Runs(together=16)
    bench = BatchedExecutor(runs, gather_s=LIMIT_S, most=5)
    yield bench, runs
    runs.go.set()
    bench.close()


def all_at_once(bench: InnerLoopExecutor, tickets: Sequence[JobControl]) -> list[Callable[[], Sequence[Result]]]:
    with ThreadPoolExecutor(len(ASKED)) as pool:
        works = [pool.submit(bench.run, loops, ticket) for loops, ticket in zip(ASKED, tickets, strict=True)]
    return [partial(_results, work) for work in works]


def _results(work: Future[Ran]) -> Sequence[Result]:
    return work.result().results


def alone(one: InnerLoopInput) -> Result:
    (result,) = adapt_inputs(NET, NET.start(), [one])
    return result


def largest_difference(one: Result, other: Result) -> float:
    if isinstance(one, AdaptationDiverged) or isinstance(other, AdaptationDiverged):
        return 0.0 if type(one) is type(other) else float("inf")
    return max(float((one.weights[name] - other.weights[name]).abs().max()) for name in one.weights)


def test_on_cores_each_gets_the_bits_that_it_would_get_alone(cores: tuple[ThreadedExecutor, Runs]) -> None:
    bench, runs = cores
    for loops, results in zip(ASKED, all_at_once(bench, [JobControl() for _ in ASKED]), strict=True):
        assert [largest_difference(own, alone(one)) for one, own in zip(loops, results(), strict=True)] == [0.0] * len(
            loops
        )
    assert runs.batches == [1] * 5


def test_gathered_loops_go_together_whatever_their_sizes_and_one_that_diverges_is_alone_in_it(
    gathered: tuple[BatchedExecutor, Runs],
) -> None:
    bench, runs = gathered
    tickets = [JobControl() for _ in ASKED]
    for loops, results in zip(ASKED, all_at_once(bench, tickets), strict=True):
        for one, own in zip(loops, results(), strict=True):
            assert largest_difference(own, alone(one)) < 1e-3
            assert isinstance(own, AdaptationDiverged if one.recipe is WILD else Adapted)
    assert runs.batches == [5]
    assert [ticket.progress.steps_done for ticket in tickets] == [8, 4, 8]


def test_a_record_says_how_many_others_went_through_the_net_with_it(
    gathered: tuple[BatchedExecutor, Runs], cores: tuple[ThreadedExecutor, Runs]
) -> None:
    assert gathered[0].run([loop(n) for n in range(5)], JobControl()).batched_with == 4
    assert gathered[0].run([*(loop(n) for n in range(4)), loop(9, recipe=WILD)], JobControl()).batched_with == 3
    assert cores[0].run([loop(n) for n in range(5)], JobControl()).batched_with == 0


@pytest.mark.parametrize("kind", ["cores", "gathered"])
def test_one_that_is_stopped_ends_and_the_others_get_their_results(kind: str, request: pytest.FixtureRequest) -> None:
    bench, _ = request.getfixturevalue(kind)
    tickets = [JobControl() for _ in ASKED]
    tickets[0].follow(lambda: tickets[0].stop(KeyError("mine")) if tickets[0].progress.steps_done else None)
    results = all_at_once(bench, tickets)
    with pytest.raises(KeyError, match="mine"):
        results[0]()
    assert tickets[0].progress.steps_done < 8
    for loops, own in zip(ASKED[1:], results[1:], strict=True):
        assert largest_difference(own()[0], alone(loops[0])) < 1e-3


def test_a_batch_whose_every_adaptation_is_stopped_is_not_run_to_its_end(
    gathered: tuple[BatchedExecutor, Runs],
) -> None:
    bench, runs = gathered
    tickets = [JobControl() for _ in ASKED]
    for ticket in tickets:
        ticket.stop(KeyError("all"))
    for results in all_at_once(bench, tickets):
        with pytest.raises(KeyError, match="all"):
            results()
    assert [ticket.progress.steps_done for ticket in tickets] == [0, 0, 0]
    assert (runs.batches[0], sorted(runs.batches[1:])) == (5, [1, 2, 2])


@pytest.mark.parametrize(
    "bench_of", [lambda runs: ThreadedExecutor(runs, 2), lambda runs: BatchedExecutor(runs, LIMIT_S, 5)]
)
def test_want_of_memory_is_the_error_of_who_has_it_and_the_next_one_is_fine(
    bench_of: Callable[[Runs], InnerLoopExecutor],
) -> None:
    class Short(Runs):
        """Has memory for the loops of one adaptation, and not for those of the third at all."""

        def __call__(self, loops: Sequence[InnerLoopInput], watch: OnGroupStep) -> Sequence[Result]:
            if len(loops) > 2 or any(one.support.n_way == 2 for one in loops):
                raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory")
            return super().__call__(loops, watch)

    bench = bench_of(Short(together=16))
    results = all_at_once(bench, [JobControl() for _ in ASKED])
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        results[2]()
    assert largest_difference(results[0]()[1], alone(ASKED[0][1])) < 1e-3
    assert largest_difference(results[1]()[0], alone(ASKED[1][0])) < 1e-3
    bench.close()


def test_a_free_core_goes_to_who_has_the_fewest(cores: tuple[ThreadedExecutor, Runs]) -> None:
    bench, runs = cores
    runs.go.clear()
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(bench.run, [loop(n) for n in range(6)], JobControl())
        for _ in range(2):
            assert runs.begun.acquire(timeout=LIMIT_S)
        late = pool.submit(bench.run, [loop(9, n_way=5)], JobControl())
        with bench._change:
            assert bench._change.wait_for(lambda: len(bench._open) == 2, LIMIT_S)
        runs.go.set()
        late.result(LIMIT_S)
        slow.result(LIMIT_S)
    assert runs.ways == [3, 3, 5, 3, 3, 3, 3]


def test_progress_counts_every_loop_s_steps_and_shows_the_version_s_loss(cores: tuple[ThreadedExecutor, Runs]) -> None:
    ticket, seen = JobControl(), list[Progress]()
    ticket.follow(lambda: seen.append(ticket.progress))
    ran = cores[0].run([loop(1), loop(2)], ticket)
    version = ran.results[0]
    assert isinstance(version, Adapted)
    assert seen[0] == Progress("waiting", 0, 8)
    assert ticket.progress.steps_done == 8
    assert list(dict.fromkeys(own.loss for own in seen if own.loss is not None)) == pytest.approx(version.losses)
