"""Adaptation throughput with many clients at once: the service's queue compared with a plain loop.

    python benchmarks/adapt_together.py [--clients 32] [--threads 2] [--rounds N] [--net omniglot|paper] [--profile]
    python benchmarks/adapt_together.py --device cuda --clients 64

The plain loop copies the net, creates an optimiser and trains, one client after another. Both sides adapt the same net
with the same recipe (a linear head, SGD) to the same images with the same random draws, and use the same cores; the
plain loop uses them inside each operation, which is torch's default. Their results are compared before timing. The
queue also computes the statistics that a version is frozen with. The sides alternate; elapsed and processor times are
medians, and ratios are ratios of medians.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.figures import machine, markdown
from benchmarks.meta_training_throughput import Times
from benchmarks.plain_reptile import PlainConv4, plain_name
from benchmarks.running_service import ServiceOptions
from models.adaptation.adapt import Adapted, BatchingOptions, InnerLoopInput, OnGroupStep, adapt_inputs
from models.adaptation.allocator import keep_freed_memory
from models.adaptation.inner_loop import batch_plan
from models.config import InnerLoopConfig, NetConfig, preset
from models.nets import build, heads
from models.task import Support
from models.weights import Weights
from service.runtime.adapt_queue import AdaptQueue
from service.runtime.inner_loop_executor import BatchedExecutor, InnerLoopExecutor, Result, ThreadedExecutor
from service.runtime.job_control import JobControl

PLAIN: Final = "plain loop, one client after another"
QUEUE: Final = "through the queue"
N_WAY: Final = 5
N_SHOT: Final = 5
TOLERANCE: Final = 1e-2
"""Largest difference of a weight between the sides; they sum in different orders, and steps magnify that."""


@dataclass(frozen=True)
class Work:
    """Settings that both sides share.

    Attributes:
        spec: of the net.
        start: its weights and a linear head's.
        loops: one a client.
        device: where.
        threads: for each side.
    """

    spec: NetConfig
    start: Weights
    loops: Sequence[InnerLoopInput]
    device: torch.device
    threads: int


def main() -> None:
    """Compare the results of both sides, then measure and print."""
    arguments = parsed()
    keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = False  # float32 on both sides
    work = work_of(arguments)
    recipe, found = work.loops[0].recipe, machine(ServiceOptions(arguments.net))
    plain, queued = PlainLoop(work), Queued(work)
    difference = largest_difference(plain.turn(), queued.turn())
    if difference > TOLERANCE:
        raise SystemExit(f"the sides come to different weights: they differ by {difference:.2g}")
    print(
        f"{len(work.loops)} clients, {N_WAY} classes of {N_SHOT} images, {arguments.net} net, {recipe.steps} inner "
        f"steps of {recipe.batch_size} images; {work.threads} thread(s), {arguments.device}\nmedians of "
        f"{arguments.rounds} turns; {found['cores']} cores, load {found['load_before']} before the run, torch "
        f"{found['torch']}; weights agree within {difference:.1g}\n"
    )
    times = measured({PLAIN: plain.turn, QUEUE: queued.turn}, arguments.rounds, work)
    print(table(times, len(work.loops)))
    if arguments.profile:
        print(profiled(work))
    queued.close()


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32, help="adapting at once (default: 32)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="for each side (default: the cores)")
    parser.add_argument("--rounds", type=int, default=15, help="turns a side (default: 15)")
    parser.add_argument("--net", choices=("omniglot", "paper"), default="omniglot", help="whose net and inner steps")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--profile", action="store_true", help="say which operations take one client's time")
    return parser.parse_args()


def work_of(arguments: argparse.Namespace) -> Work:
    """Random images for each client: the time does not depend on what they show."""
    chosen, device = preset(arguments.net), torch.device(arguments.device)
    recipe = InnerLoopConfig(
        steps=chosen.serve.steps, learning_rate=0.01, batch_size=chosen.serve.batch_size, head="linear"
    )
    net, image = build(chosen.net_config, seed=0), chosen.net_config.image
    head = heads.linear_head(net.feature_count, N_WAY, torch.Generator().manual_seed(0))
    generator, labels = torch.Generator().manual_seed(1), torch.arange(N_WAY).repeat_interleave(N_SHOT)
    size = (len(labels), image.channels, image.side, image.side)
    supports = [Support(torch.rand(size, generator=generator), labels, N_WAY) for _ in range(arguments.clients)]
    loops = [InnerLoopInput(support.to(device), recipe, seed) for seed, support in enumerate(supports)]
    start = {name: tensor.to(device) for name, tensor in {**net.start(), **head}.items()}
    return Work(chosen.net_config, start, loops, device, arguments.threads)


class PlainLoop:
    """A net of torch's own layers, copied for each client."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._net = PlainConv4(work.spec, N_WAY).to(work.device)
        self._net.load_state_dict({plain_name(name): tensor for name, tensor in work.start.items()})

    def turn(self) -> list[Mapping[str, Tensor]]:
        """Adapt every client and return the weights."""
        torch.set_num_threads(self._work.threads)
        return [self._adapted(loop) for loop in self._work.loops]

    def _adapted(self, loop: InnerLoopInput) -> Mapping[str, Tensor]:
        net: nn.Module = copy.deepcopy(self._net)
        optimiser = torch.optim.SGD(net.parameters(), lr=loop.recipe.learning_rate)
        images, labels = loop.support.images, loop.support.labels
        for rows in batch_plan(len(loop.support), loop.recipe, torch.Generator().manual_seed(loop.seed)):
            optimiser.zero_grad()
            loss = F.cross_entropy(net(images[rows]), labels[rows])
            torch.autograd.backward(loss)
            optimiser.step()
        return net.state_dict()


class Queued:
    """The service's queue; on a GPU, all clients run at once."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._net = build(work.spec, seed=0).to(work.device).eval()
        on_cpu = work.device.type == "cpu"
        self._bench: InnerLoopExecutor = (
            ThreadedExecutor(self._run, work.threads)
            if on_cpu
            else BatchedExecutor(self._run, max_batch=len(work.loops))
        )
        self._queue = AdaptQueue(2 if on_cpu else len(work.loops))

    def turn(self) -> list[Mapping[str, Tensor]]:
        """Adapt all clients at once and return their weights, with the names of the plain net."""
        torch.set_num_threads(1)
        answers = []
        for number, loop in enumerate(self._work.loops):
            ticket = JobControl()
            answers.append(self._queue.submit(str(number), partial(self._bench.run, [loop], ticket), ticket))
        return [named(answer.result().results[0]) for answer in answers]

    def close(self) -> None:
        """Stop the threads."""
        self._queue.close()
        self._bench.close()

    def _run(self, loops: Sequence[InnerLoopInput], watch: OnGroupStep) -> Sequence[Result]:
        return adapt_inputs(self._net, self._work.start, loops, BatchingOptions(on_step=watch))


def named(result: Result) -> dict[str, Tensor]:
    """Adapted weights of a client, with the names of the plain net."""
    if not isinstance(result, Adapted):
        raise result
    return {plain_name(name): tensor for name, tensor in result.weights.items()}


def largest_difference(ones: Sequence[Mapping[str, Tensor]], others: Sequence[Mapping[str, Tensor]]) -> float:
    """Of any weight of any client."""
    return max(
        float((one[name] - other[name]).abs().max()) for one, other in zip(ones, others, strict=True) for name in other
    )


def measured(sides: Mapping[str, Callable[[], object]], rounds: int, work: Work) -> dict[str, Times]:
    """Seconds of each side's turns, taken in turn."""
    times = {name: Times() for name in sides}
    for number in range(-1, rounds):
        for name in list(sides) if number % 2 else reversed(list(sides)):
            noted = times[name] if number >= 0 else Times()
            noted.note(sides[name], work.device)
    return times


def table(times: Mapping[str, Times], clients: int) -> str:
    """One row a side."""
    plain = times[PLAIN]
    rows = []
    for name, side in times.items():
        elapsed_s, processor_s = statistics.median(side.elapsed_s), statistics.median(side.processor_s)
        ratio = statistics.median(plain.elapsed_s) / elapsed_s
        processor_ratio = statistics.median(plain.processor_s) / processor_s
        rows.append(
            (
                name,
                f"{elapsed_s * 1e3:.0f}",
                f"{clients / elapsed_s:.1f}",
                f"{ratio:.2f}",
                f"{processor_s * 1e3:.0f}",
                f"{processor_ratio:.2f}",
            )
        )
    return markdown(("side", "ms", "clients a second", "ratio", "processor ms", "ratio"), rows) + "\n"


def profiled(work: Work, shown: int = 12) -> str:
    """Profile the operations of one adaptation on one thread."""
    net = build(work.spec, seed=0).to(work.device).eval()
    alone = replace(work, loops=work.loops[:1])
    torch.set_num_threads(1)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(5):
            adapt_inputs(net, alone.start, alone.loops)
    own = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in own)
    rows = [(event.key, str(event.count), f"{100 * event.self_cpu_time_total / total:.1f} %") for event in own[:shown]]
    return markdown(("operation", "calls", "of the time"), rows)


if __name__ == "__main__":
    main()
