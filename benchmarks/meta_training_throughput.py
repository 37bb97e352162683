"""Meta-training throughput: the inner loops of a meta step in one batch, compared with a plain loop. Target: 3x.

    python benchmarks/meta_training_throughput.py [--threads 1 2] [--rounds N] [--optimiser adam|sgd] [--device cuda]

Both sides train the net of Reptile's paper with its Omniglot settings (5-way, 5 tasks per meta step, 5 inner steps of
10 images) and the same random draws. The plain loop is Reptile as in a PyTorch tutorial: one net, one optimiser, one
task after another. The sides alternate, and a run of torch.mm in each round shows what the machine provides at the
time. The images are random, because the time does not depend on them. Multiply-adds are those that torch counts in the
plain net's passes, two operations each. Accuracy is not measured.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.figures import Parser, machine, markdown
from benchmarks.measuring import Times, alternate
from models.adaptation.allocator import TRAINING_BLOCK_BYTES, keep_freed_memory
from models.adaptation.executor import FairExecutor
from models.adaptation.inner_loop import batch_plan
from models.config import InnerLoopConfig, NetConfig, preset
from models.meta.outer_loop import MetaTrainingState, inner_seeds
from models.meta.reptile import Reptile
from models.nets import build, heads
from models.task import Support
from models.weights import Weights

PLAIN: Final = "plain loop, one task after another"
BATCHED: Final = "batched tasks"
INTRA_OP: Final = "batched tasks, threads inside each operation"
MATRIX: Final = "torch.mm"
STEP_SIZE: Final = 0.5
MATRIX_SIDE: Final = 1024

_PLAIN_NAMES: Final = {"weight": "conv.weight", "scale": "norm.weight", "shift": "norm.bias"}
"""Names of a block's weights in our checkpoints and in `PlainConv4`."""


class PlainConv4(nn.Module):
    """The four-block net with strided convolutions for one task, made of torch's own layers.

    It leaves out what costs time without an effect: biases of the convolutions, which normalisation removes, and
    running statistics, which are never read.
    """

    def __init__(self, spec: NetConfig, n_way: int) -> None:
        super().__init__()
        channels, side = spec.image.channels, spec.image.side
        self.blocks = nn.Sequential()
        for number in range(1, spec.depth + 1):
            block = nn.Sequential()
            block.add_module("conv", nn.Conv2d(channels, spec.width, 3, stride=2, padding=1, bias=False))
            block.add_module("norm", nn.BatchNorm2d(spec.width, track_running_stats=False))
            block.add_module("relu", nn.ReLU())
            self.blocks.add_module(f"block{number}", block)
            channels, side = spec.width, (side + 1) // 2
        self.head = nn.Linear(spec.width * side * side, n_way)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of one task's images: (batch, channels, side, side) -> (batch, n_way)."""
        logits: Tensor = self.head(self.blocks(images).flatten(1))
        return logits


class PlainReptile:
    """A meta-training whose start is the state of the net between meta steps.

    Args:
        spec: a conv4 net with strided convolutions.
        recipe: a linear head with SGD or Adam; moments carry over between tasks or are reset for each.
        start: initial weights, including `head.weight` and `head.bias`.
    """

    def __init__(self, spec: NetConfig, recipe: InnerLoopConfig, start: Weights) -> None:
        self.recipe = recipe
        device = start[heads.WEIGHT].device
        self.net = PlainConv4(spec, start[heads.WEIGHT].shape[0]).to(device)
        self.net.load_state_dict({plain_name(name): tensor for name, tensor in start.items()})
        self.optimiser: torch.optim.Optimizer
        if recipe.optimiser == "adam":
            self.optimiser = torch.optim.Adam(self.net.parameters(), lr=recipe.learning_rate, betas=(0.0, 0.999))
        else:
            self.optimiser = torch.optim.SGD(self.net.parameters(), lr=recipe.learning_rate)

    def meta_step(self, supports: Sequence[Support], step_size: float, seeds: Sequence[int]) -> None:
        """Adapt to each support from the start, and move the start towards the mean of the results."""
        start = {name: tensor.clone() for name, tensor in self.net.state_dict().items()}
        total = {name: torch.zeros_like(tensor) for name, tensor in start.items()}
        for support, seed in zip(supports, seeds, strict=True):
            self.net.load_state_dict(start)
            self._adapt(support, seed)
            for name, tensor in self.net.state_dict().items():
                total[name] += tensor
        tasks = len(supports)
        self.net.load_state_dict({name: torch.lerp(old, total[name] / tasks, step_size) for name, old in start.items()})

    def _adapt(self, support: Support, seed: int) -> None:
        if not self.recipe.carry_moments:
            self.optimiser.state.clear()
        for rows in batch_plan(support.labels, self.recipe, torch.Generator().manual_seed(seed)):
            self.optimiser.zero_grad()
            loss = F.cross_entropy(self.net(support.inputs[rows]), support.labels[rows])
            torch.autograd.backward(loss)
            self.optimiser.step()


def plain_name(name: str) -> str:
    """The name in `PlainConv4` of a checkpoint's weight: `block1.scale` becomes `blocks.block1.norm.weight`."""
    stage, _, kind = name.partition(".")
    return name if stage == "head" else f"blocks.{stage}.{_PLAIN_NAMES[kind]}"


@dataclass(frozen=True)
class Setting:
    """The setting for both sides.

    Attributes:
        recipe: the inner loop.
        tasks: tasks per meta step.
        n_way: classes per task.
        shots: images per class.
        device: device.
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

    def start(self) -> dict[str, Tensor]:
        """Weights and a linear head, drawn from seed 0."""
        net = build(self.spec)
        head = heads.linear_head(net.feature_count, self.n_way, torch.Generator().manual_seed(0))
        return {name: tensor.to(self.device) for name, tensor in {**net.start(), **head}.items()}

    def supports(self) -> list[Support]:
        """A meta-batch of random images."""
        generator, image = torch.Generator().manual_seed(0), self.spec.image
        labels = torch.arange(self.n_way).repeat_interleave(self.shots)
        size = (len(labels), image.channels, image.side, image.side)
        drawn = [torch.rand(size, generator=generator) for _ in range(self.tasks)]
        return [Support(images, labels, self.n_way).to(self.device) for images in drawn]

    def flops(self) -> int:
        """Floating-point operations of the forward and backward passes of one meta step."""
        size, image = self.recipe.batch_size, self.spec.image
        net = PlainConv4(self.spec, self.n_way)
        with FlopCounterMode(display=False) as counter:
            logits = net(torch.zeros(size, image.channels, image.side, image.side))
            torch.autograd.backward(F.cross_entropy(logits, torch.zeros(size, dtype=torch.int64)))
        return int(counter.get_total_flops()) * self.recipe.steps * self.tasks


def main() -> None:
    """Measure and print a table for each number of threads."""
    arguments = parse_arguments()
    paper = preset("paper")
    recipe = replace(paper.recipe, optimiser=arguments.optimiser, carry_moments=arguments.optimiser == "adam")
    device = torch.device(arguments.device)
    setting = Setting(recipe, arguments.tasks, paper.meta.n_way, paper.meta.train_shots, device)
    found = machine("paper")
    keep_freed_memory(TRAINING_BLOCK_BYTES)
    torch.backends.cudnn.allow_tf32 = False  # float32 on both sides and in torch.mm
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(
        f"{setting.n_way}-way, {setting.tasks} tasks per meta step, {recipe.steps} inner steps of {recipe.batch_size} "
        f"images, {recipe.optimiser}; {setting.flops() / 1e9:.2f} GFLOP per meta step; medians of {arguments.rounds} "
        f"alternating runs\n{processor}, {found['cores']} cores, load {found['load_before']} before the run, torch "
        f"{found['torch']}\n"
    )
    for threads in arguments.threads:
        threaded = replace(setting, threads=threads)
        print(table(threaded, measure(threaded, arguments.rounds)))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.option("--threads", [1, 2], "threads of both sides")
    parser.option("--rounds", 40, "runs of each side")
    parser.option("--optimiser", "adam", "optimiser of the inner steps", choices=("adam", "sgd"))
    parser.option("--tasks", preset("paper").meta.meta_batch, "tasks per meta step")
    parser.option("--device", "cpu", "cpu or cuda")
    return parser.parse_args()


def measure(setting: Setting, rounds: int) -> dict[str, Times]:
    """Times of a meta step of each side, and of one matrix product."""
    return alternate(sides(setting), rounds, warm_up=3, device=setting.device)


def sides(setting: Setting) -> dict[str, Callable[[int], object]]:
    """The meta step of each side by its number; all use the same start and the same draws."""
    start, threads = setting.start(), setting.threads
    matrix = torch.rand(MATRIX_SIDE, MATRIX_SIDE, device=setting.device)
    found: dict[str, Callable[[int], object]] = {
        PLAIN: with_threads(threads, plain_loop(setting, start)),
        BATCHED: with_threads(1, batched(setting, start, threads)),
    }
    if threads > 1:
        found[INTRA_OP] = with_threads(threads, batched(setting, start, 1))
    return {**found, MATRIX: with_threads(threads, lambda _: torch.mm(matrix, matrix))}


def with_threads(threads: int, run: Callable[[int], object]) -> Callable[[int], object]:
    """Run with so many threads per operation."""

    def with_them(number: int) -> None:
        torch.set_num_threads(threads)
        run(number)

    return with_them


def plain_loop(setting: Setting, start: Weights) -> Callable[[int], object]:
    """Meta steps of the plain loop."""
    plain, supports = PlainReptile(setting.spec, setting.recipe, start), setting.supports()
    return lambda number: plain.meta_step(supports, STEP_SIZE, inner_seeds(0, number, setting.tasks))


def batched(setting: Setting, start: Weights, threads: int) -> Callable[[int], object]:
    """Meta steps as in `anole train`."""
    net, supports = build(setting.spec), setting.supports()
    reptile = Reptile(FairExecutor(threads, partial(torch.set_num_threads, 1)) if threads > 1 else None)
    state = MetaTrainingState(start)

    def meta_step(number: int) -> None:
        nonlocal state
        seeds = inner_seeds(0, number, setting.tasks)
        state = reptile.meta_step(net, state, supports, setting.recipe, STEP_SIZE, seeds)

    return meta_step


def table(setting: Setting, times: Mapping[str, Times]) -> str:
    """One row per side: times, their ratio to the plain loop, and the share of the machine's throughput."""
    matrix_rate = 2 * MATRIX_SIDE**3 / times[MATRIX].elapsed_median_s
    plain, flops = times[PLAIN], setting.flops()
    rows = [
        (
            name,
            f"{side.elapsed_median_s * 1e3:.1f}",
            f"{setting.tasks / side.elapsed_median_s:.1f}",
            f"{plain.elapsed_median_s / side.elapsed_median_s:.2f}",
            f"{side.processor_median_s * 1e3:.1f}",
            f"{plain.processor_median_s / side.processor_median_s:.2f}",
            f"{flops / side.elapsed_median_s / 1e9:.1f}",
            f"{100 * flops / side.elapsed_median_s / matrix_rate:.0f} %",
        )
        for name, side in times.items()
        if name != MATRIX
    ]
    headings = ("meta step", "ms", "tasks/s", "ratio", "processor ms", "ratio", "GFLOP/s", "of torch.mm")
    size = f"{MATRIX_SIDE} x {MATRIX_SIDE}"
    return (
        f"{setting.threads} thread(s); torch.mm of {size}: {matrix_rate / 1e9:.0f} GFLOP/s\n\n"
        f"{markdown(headings, rows)}\n"
    )


if __name__ == "__main__":
    main()
