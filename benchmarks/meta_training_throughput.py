"""Meta-training throughput: the inner loops of a meta step in one batch, compared with a plain loop.

    python benchmarks/meta_training_throughput.py [--threads 1 2] [--rounds N] [--optimiser adam|sgd] [--device cuda]

Both sides train the net of Reptile's paper with its Omniglot settings (5-way, 5 tasks per meta step, 5 inner steps of
10 images) and the same random draws. The sides alternate, and a run of torch.mm in each round shows what the machine
provides at the time. The images are random, because the time does not depend on them. Multiply-adds are those that
torch counts in the plain net's passes, two operations each. Accuracy is not measured.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.figures import machine, markdown
from benchmarks.plain_reptile import PlainConv4, PlainReptile
from benchmarks.running_service import ServiceOptions
from models.adaptation.allocator import keep_freed_memory
from models.adaptation.executor import FairExecutor
from models.config import InnerLoopConfig, NetConfig, preset
from models.meta.reptile import MetaTrainingState, Reptile, inner_seeds
from models.nets import build, heads
from models.task import Support
from models.weights import Weights

PLAIN: Final = "plain loop, one task after another"
OURS: Final = "tasks together"
INSIDE: Final = "tasks together, threads inside each operation"
MATRIX: Final = "torch.mm"
STEP_SIZE: Final = 0.5
MATRIX_SIDE: Final = 1024


@dataclass(frozen=True)
class Work:
    """Settings that both sides share.

    Attributes:
        recipe: the inner loop.
        tasks: tasks per meta step.
        n_way: classes per task.
        shots: images per class.
        device: device of both sides.
        threads: threads of each side.
    """

    recipe: InnerLoopConfig
    tasks: int
    n_way: int
    shots: int
    device: torch.device
    threads: int = 1

    @property
    def spec(self) -> NetConfig:
        """The paper's net for Omniglot."""
        return preset("paper").net_config

    def start(self) -> dict[str, torch.Tensor]:
        """Weights and a linear head, drawn from seed 0."""
        net = build(self.spec)
        head = heads.linear_head(net.feature_count, self.n_way, torch.Generator().manual_seed(0))
        return {name: tensor.to(self.device) for name, tensor in {**net.start(), **head}.items()}

    def supports(self) -> list[Support]:
        """A meta-batch of random images."""
        generator, image = torch.Generator().manual_seed(0), self.spec.image
        labels = torch.arange(self.n_way).repeat_interleave(self.shots)
        drawn = [
            torch.rand(len(labels), image.channels, image.side, image.side, generator=generator)
            for _ in range(self.tasks)
        ]
        return [Support(images, labels, self.n_way).to(self.device) for images in drawn]

    def flops(self) -> int:
        """Floating-point operations of one meta step's passes, forward and backward."""
        size, image = self.recipe.batch_size, self.spec.image
        net = PlainConv4(self.spec, self.n_way)
        with FlopCounterMode(display=False) as counter:
            scores = net(torch.zeros(size, image.channels, image.side, image.side))
            torch.autograd.backward(F.cross_entropy(scores, torch.zeros(size, dtype=torch.int64)))
        return int(counter.get_total_flops()) * self.recipe.steps * self.tasks


@dataclass
class Times:
    """Seconds of one side's turns: elapsed, and of the processor, all threads together."""

    elapsed_s: list[float] = field(default_factory=list)
    processor_s: list[float] = field(default_factory=list)

    def note(self, turn: Callable[[], object], device: torch.device) -> None:
        """Time one turn; on a GPU, until its queued work is done."""
        began, processor = time.perf_counter(), time.process_time()
        turn()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.elapsed_s.append(time.perf_counter() - began)
        self.processor_s.append(time.process_time() - processor)


def main() -> None:
    """Measure and print."""
    arguments = parsed()
    chosen = preset("paper")
    recipe = replace(chosen.recipe, optimiser=arguments.optimiser, carry_moments=arguments.optimiser == "adam")
    tasks, device = arguments.tasks or chosen.meta.meta_batch, torch.device(arguments.device)
    work = Work(recipe, tasks, chosen.meta.n_way, chosen.meta.train_shots, device)
    found = machine(ServiceOptions("paper"))
    keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = False  # float32 on both sides and in torch.mm
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(
        f"{work.n_way}-way, {work.tasks} tasks a meta step, {recipe.steps} inner steps of {recipe.batch_size} images, "
        f"{recipe.optimiser}; {work.flops() / 1e9:.2f} GFLOP a meta step; medians of {arguments.rounds} turns\n"
        f"{place}, {found['cores']} cores, load {found['load_before']} before the run, torch {found['torch']}\n"
    )
    for threads in arguments.threads:
        own = replace(work, threads=threads)
        print_table(own, measured(own, arguments.rounds))


def parsed() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="for both sides (default: 1, then 2)")
    parser.add_argument("--rounds", type=int, default=40, help="turns a side (default: 40)")
    parser.add_argument("--optimiser", choices=("adam", "sgd"), default="adam", help="of the inner steps")
    parser.add_argument("--tasks", type=int, default=None, help="tasks a meta step (default: the paper's 5)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    return parser.parse_args()


def measured(work: Work, rounds: int) -> dict[str, Times]:
    """Seconds a meta step of each side and of one matrix product, by turns."""
    contest = sides(work)
    times = {name: Times() for name in contest}
    warm_up = 3
    for number in range(-warm_up, rounds):
        for name in list(contest) if number % 2 else reversed(list(contest)):
            side = contest[name]
            torch.set_num_threads(side.inside)
            noted = times[name] if number >= 0 else Times()
            noted.note(partial(side.turn, number + warm_up), work.device)
    return times


@dataclass(frozen=True)
class Side:
    """One side of the comparison.

    Attributes:
        inside: threads inside an operation.
        turn: by its number.
    """

    inside: int
    turn: Callable[[int], object]


def sides(work: Work) -> dict[str, Side]:
    """Both sides, with the same start and random draws."""
    start, matrix = work.start(), torch.rand(MATRIX_SIDE, MATRIX_SIDE, device=work.device)
    contest = {PLAIN: Side(work.threads, plain_loop(work, start)), OURS: Side(1, together(work, start, work.threads))}
    if work.threads > 1:
        contest[INSIDE] = Side(work.threads, together(work, start, 1))
    return {**contest, MATRIX: Side(work.threads, lambda _: torch.mm(matrix, matrix))}


def plain_loop(work: Work, start: Weights) -> Callable[[int], object]:
    """Meta steps of the plain loop."""
    plain, supports = PlainReptile(work.spec, work.recipe, start), work.supports()
    return lambda number: plain.meta_step(supports, STEP_SIZE, inner_seeds(0, number, work.tasks))


def together(work: Work, start: Weights, threads: int) -> Callable[[int], object]:
    """Meta steps of `anole train`."""
    net, supports, reptile, state = (
        build(work.spec),
        work.supports(),
        Reptile(_executor(threads)),
        MetaTrainingState(start),
    )

    def turn(number: int) -> None:
        nonlocal state
        seeds = inner_seeds(0, number, work.tasks)
        state = reptile.meta_step(net, state, supports, work.recipe, STEP_SIZE, seeds)

    return turn


def _executor(threads: int) -> FairExecutor | None:
    return FairExecutor(threads, partial(torch.set_num_threads, 1)) if threads > 1 else None


def print_table(work: Work, times: Mapping[str, Times]) -> None:
    """One row a side: elapsed time, its ratio to the plain loop's, and how much of the machine that is."""
    matrix_rate = 2 * MATRIX_SIDE**3 / statistics.median(times[MATRIX].elapsed_s)
    plain = times[PLAIN]
    print(f"{work.threads} thread(s); torch.mm of {MATRIX_SIDE} x {MATRIX_SIDE}: {matrix_rate / 1e9:.0f} GFLOP/s\n")
    rows = [row(work, name, side, plain, matrix_rate) for name, side in times.items() if name != MATRIX]
    headings = ("meta step", "ms", "tasks a second", "ratio", "processor ms", "ratio", "GFLOP/s", "of torch.mm")
    print(markdown(headings, rows) + "\n")


def row(work: Work, name: str, side: Times, plain: Times, matrix_rate: float) -> Sequence[str]:
    """One line of the table."""
    elapsed_s, processor_s = statistics.median(side.elapsed_s), statistics.median(side.processor_s)
    rate = work.flops() / elapsed_s
    return (
        name,
        f"{elapsed_s * 1e3:.1f}",
        f"{work.tasks / elapsed_s:.1f}",
        f"{statistics.median(plain.elapsed_s) / elapsed_s:.2f}",
        f"{processor_s * 1e3:.1f}",
        f"{statistics.median(plain.processor_s) / processor_s:.2f}",
        f"{rate / 1e9:.1f}",
        f"{100 * rate / matrix_rate:.0f} %",
    )


if __name__ == "__main__":
    main()
