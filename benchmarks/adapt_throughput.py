"""Adaptation throughput with many clients at once: the service's queue compared with a plain loop. Target: 2.5x.

    python benchmarks/adapt_throughput.py [--clients 32] [--threads 2] [--rounds N] [--net omniglot|paper] [--profile]
    python benchmarks/adapt_throughput.py --device cuda --clients 64

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
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.figures import Parser, machine, markdown
from benchmarks.measuring import Times, alternate, ignoring_number
from benchmarks.meta_training_throughput import PlainConv4, plain_name
from models.adaptation.adapt import Adapted, BatchingOptions, InnerLoopInput, OnGroupStep, adapt_inputs
from models.adaptation.allocator import keep_freed_memory
from models.adaptation.inner_loop import batch_plan
from models.config import InnerLoopConfig, NetConfig, preset
from models.nets import build, heads
from models.task import Support
from models.weights import Weights
from service.runtime.adapt_queue import AdaptQueue, JobControl
from service.runtime.inner_loop_executor import BatchedExecutor, InnerLoopExecutor, Result, ThreadedExecutor

PLAIN: Final = "plain loop, one client after another"
QUEUE: Final = "adapt queue"
N_WAY: Final = 5
N_SHOT: Final = 5
TOLERANCE: Final = 1e-2
"""Largest difference allowed between weights of both sides, which add in different orders."""


@dataclass(frozen=True)
class Setting:
    """The setting for both sides.

    Attributes:
        spec: the net.
        start: its weights and those of a linear head.
        loops: one inner loop per client.
        device: device.
        threads: threads of each side.
    """

    spec: NetConfig
    start: Weights
    loops: Sequence[InnerLoopInput]
    device: torch.device
    threads: int


def main() -> None:
    """Compare the results of both sides, measure them, and print the table."""
    arguments = parse_arguments()
    keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = False  # float32 on both sides
    setting = make_setting(arguments)
    recipe, found = setting.loops[0].recipe, machine(arguments.net)
    plain, queue = PlainLoop(setting), QueueSide(setting)
    difference = largest_difference(plain.adapt_all(), queue.adapt_all())
    if difference > TOLERANCE:
        sys.exit(f"error: the weights of both sides differ by {difference:.2g}; at most {TOLERANCE:g} is allowed")
    print(
        f"{len(setting.loops)} clients, {N_WAY} classes of {N_SHOT} images, net {arguments.net}, {recipe.steps} inner "
        f"steps of {recipe.batch_size} images; {setting.threads} thread(s), {arguments.device}\nmedians of "
        f"{arguments.rounds} alternating runs; {found['cores']} cores, load {found['load_before']} before the run, "
        f"torch {found['torch']}; largest difference of a weight {difference:.1g}\n"
    )
    sides = {PLAIN: ignoring_number(plain.adapt_all), QUEUE: ignoring_number(queue.adapt_all)}
    times = alternate(sides, arguments.rounds, device=setting.device)
    print(table(times, len(setting.loops)))
    if arguments.profile:
        print(profile_table(setting))
    queue.close()


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.option("--clients", 32, "clients that adapt at the same time")
    parser.option("--threads", os.cpu_count() or 1, "threads of each side")
    parser.option("--rounds", 15, "runs of each side")
    parser.option("--net", "omniglot", "preset whose net and inner steps are used", choices=("omniglot", "paper"))
    parser.option("--device", "cpu", "cpu or cuda")
    parser.add_argument("--profile", action="store_true", help="print the operations that take one client's time")
    return parser.parse_args()


def make_setting(arguments: argparse.Namespace) -> Setting:
    """Random images for each client; the time does not depend on them."""
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
    return Setting(chosen.net_config, start, loops, device, arguments.threads)


class PlainLoop:
    """The plain loop: a net of torch's own layers, copied for each client."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._net = PlainConv4(setting.spec, N_WAY).to(setting.device)
        self._net.load_state_dict({plain_name(name): tensor for name, tensor in setting.start.items()})

    def adapt_all(self) -> list[Mapping[str, Tensor]]:
        """Adapt for every client; return the weights of their nets."""
        torch.set_num_threads(self._setting.threads)
        return [self._adapted(loop) for loop in self._setting.loops]

    def _adapted(self, loop: InnerLoopInput) -> Mapping[str, Tensor]:
        net: nn.Module = copy.deepcopy(self._net)
        optimiser = torch.optim.SGD(net.parameters(), lr=loop.recipe.learning_rate)
        images, labels = loop.support.inputs, loop.support.labels
        for rows in batch_plan(loop.support.labels, loop.recipe, torch.Generator().manual_seed(loop.seed)):
            optimiser.zero_grad()
            loss = F.cross_entropy(net(images[rows]), labels[rows])
            torch.autograd.backward(loss)
            optimiser.step()
        return net.state_dict()


class QueueSide:
    """Queue and executor as in the service; on a GPU, all clients are adapted in one batch."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._net = build(setting.spec, seed=0).to(setting.device).eval()
        on_cpu = setting.device.type == "cpu"
        self._executor: InnerLoopExecutor = (
            ThreadedExecutor(self._run, setting.threads)
            if on_cpu
            else BatchedExecutor(self._run, max_batch=len(setting.loops))
        )
        self._queue = AdaptQueue(2 if on_cpu else len(setting.loops))

    def adapt_all(self) -> list[Mapping[str, Tensor]]:
        """Submit all clients at once; return their weights by the names of the plain net."""
        torch.set_num_threads(1)
        answers = []
        for number, loop in enumerate(self._setting.loops):
            control = JobControl()
            answers.append(self._queue.submit(str(number), partial(self._executor.run, [loop], control), control))
        return [plain_weights(answer.result().results[0]) for answer in answers]

    def close(self) -> None:
        """Stop the threads."""
        self._queue.close()
        self._executor.close()

    def _run(self, loops: Sequence[InnerLoopInput], on_step: OnGroupStep) -> Sequence[Result]:
        return adapt_inputs(self._net, self._setting.start, loops, BatchingOptions(on_step=on_step))


def plain_weights(result: Result) -> dict[str, Tensor]:
    """The weights of a client's adaptation by the names of the plain net."""
    if not isinstance(result, Adapted):
        raise result
    return {plain_name(name): tensor for name, tensor in result.weights.items()}


def largest_difference(ones: Sequence[Mapping[str, Tensor]], others: Sequence[Mapping[str, Tensor]]) -> float:
    """Largest absolute difference of any weight of any client."""
    return max(
        float((one[name] - other[name]).abs().max()) for one, other in zip(ones, others, strict=True) for name in other
    )


def table(times: Mapping[str, Times], clients: int) -> str:
    """One row per side."""
    plain = times[PLAIN]
    rows = [
        (
            name,
            f"{side.elapsed_median_s * 1e3:.0f}",
            f"{clients / side.elapsed_median_s:.1f}",
            f"{plain.elapsed_median_s / side.elapsed_median_s:.2f}",
            f"{side.processor_median_s * 1e3:.0f}",
            f"{plain.processor_median_s / side.processor_median_s:.2f}",
        )
        for name, side in times.items()
    ]
    return markdown(("side", "ms", "clients/s", "ratio", "processor ms", "ratio"), rows) + "\n"


def profile_table(setting: Setting, shown: int = 12) -> str:
    """Time of one client's adaptation by operation, on one thread."""
    net = build(setting.spec, seed=0).to(setting.device).eval()
    torch.set_num_threads(1)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(5):
            adapt_inputs(net, setting.start, setting.loops[:1])
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    rows = [(event.key, str(event.count), f"{100 * event.self_cpu_time_total / total:.1f} %") for event in events]
    return markdown(("operation", "calls", "share of the time"), rows[:shown])


if __name__ == "__main__":
    main()
