"""Where bfloat16 saves time: the operations of an inner step, each in float32 and in bfloat16.

    python benchmarks/half_precision.py [--batch 25] [--side 42] [--rounds 7] [--threads 1]

Processors with bfloat16 dot products (AVX512-BF16) do twice as many multiply-adds per instruction as in float32. So a
matrix product can be at most twice as fast, and a whole step less. Rows are forward and backward passes of the
convolutions of ResNet-12 and of the four-block net with five tasks in parallel, of the operations between them, and of
rounding a convolution's weights, which autocast does in every step. Values are medians of processor time in
milliseconds; the two precisions alternate.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.figures import Parser, machine, machine_line, markdown
from benchmarks.measuring import alternate, ignoring_number

PRECISIONS: Final[Mapping[str, torch.dtype]] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CHANNELS: Final = (64, 160, 320, 640)
"""Channels of the blocks of ResNet-12."""
PRODUCT: Final = 1024
"""Rows and columns of the matrices."""


@dataclass(frozen=True)
class Operation:
    """One kind of operation.

    Attributes:
        name: row of the table.
        prepare: takes a precision and returns a function that runs the operation.
        flop: floating-point operations; 0 if memory bandwidth is the limit.
    """

    name: str
    prepare: Callable[[torch.dtype], Callable[[], object]]
    flop: float = 0.0


def main() -> None:
    """Time every operation and print the table."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    print(machine_line(machine("none", threads=arguments.threads)))
    print(f"\nbatch {arguments.batch}, images of {arguments.side} x {arguments.side}, {arguments.rounds} rounds\n")
    headings = ("operation", "float32, ms", "bfloat16, ms", "speed-up", "float32, GFLOP/s", "bfloat16, GFLOP/s")
    rows = [line(operation, arguments.rounds) for operation in operations(arguments.batch, arguments.side)]
    print(markdown(headings, rows))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.option("--batch", 25, "number of images")
    parser.option("--side", 42, "size of an image in pixels", least=16)
    parser.option("--rounds", 7, "timed runs of each operation")
    parser.option("--threads", 1, "threads per operation")
    return parser.parse_args()


def operations(batch: int, side: int) -> list[Operation]:
    """The rows of the table."""
    product = Operation(f"product of {PRODUCT} x {PRODUCT} matrices", multiplication, 2.0 * PRODUCT**3)
    found = [product]
    for place, channels in enumerate(CHANNELS):
        found.append(convolution(f"ResNet-12, block {place + 1}", (1, channels, batch, side >> place)))
    found.append(convolution("four blocks, 5 tasks, block 2", (5, 64, 10, 14)))
    maps = (batch, CHANNELS[0], side, side)
    return [
        *found,
        Operation("normalisation, forward and backward, block 1", lambda kind: normalisation(kind, maps)),
        Operation("leaky ReLU, forward and backward, block 1", lambda kind: activation(kind, maps)),
        Operation("rounding the weights of a block 4 convolution", rounding),
    ]


def multiplication(kind: torch.dtype) -> Callable[[], object]:
    """A matrix product."""
    left, right = (numbers((PRODUCT, PRODUCT), seed).to(kind) for seed in (0, 1))
    return lambda: left @ right


def convolution(name: str, shape: tuple[int, int, int, int]) -> Operation:
    """A grouped 3 x 3 convolution of (tasks, channels, batch, side), forward and backward."""
    tasks, channels, batch, side = shape

    def prepare(kind: torch.dtype) -> Callable[[], object]:
        images = numbers((batch, tasks * channels, side, side), 0).to(kind)
        images = images.contiguous(memory_format=torch.channels_last).requires_grad_()
        weight = numbers((tasks * channels, channels, 3, 3), 1).to(kind).requires_grad_()
        return backward(lambda: F.conv2d(images, weight, padding=1, groups=tasks), images, weight)

    flop = 3 * 2.0 * batch * side * side * tasks * channels * channels * 9
    return Operation(f"{name}: 3 x 3, {tasks} x {channels} channels, {side} x {side}", prepare, flop)


def normalisation(kind: torch.dtype, maps: tuple[int, ...]) -> Callable[[], object]:
    """Batch normalisation, forward and backward; scale and shift are float32 in both precisions."""
    images = numbers(maps, 0).to(kind).contiguous(memory_format=torch.channels_last).requires_grad_()
    scale, shift = (torch.ones(maps[1], requires_grad=True) for _ in range(2))
    return backward(lambda: F.batch_norm(images, None, None, scale, shift, training=True), images, scale, shift)


def activation(kind: torch.dtype, maps: tuple[int, ...]) -> Callable[[], object]:
    """A leaky ReLU, forward and backward."""
    images = numbers(maps, 0).to(kind).contiguous(memory_format=torch.channels_last).requires_grad_()
    return backward(lambda: F.leaky_relu(images, 0.1), images)


def rounding(kind: torch.dtype) -> Callable[[], object]:
    """The conversion of weights by autocast: a copy in bfloat16, nothing in float32."""
    weight = numbers((CHANNELS[-1], CHANNELS[-1], 3, 3), 0)
    return lambda: weight.to(kind)


def backward(forward: Callable[[], Tensor], *leaves: Tensor) -> Callable[[], object]:
    """A forward pass and the gradients with respect to the leaves."""
    seed = torch.ones_like(forward())
    return lambda: torch.autograd.grad(forward(), leaves, seed)


def numbers(shape: tuple[int, ...], seed: int) -> Tensor:
    """Normal random numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def line(operation: Operation, rounds: int) -> tuple[str, ...]:
    """Measure one operation in both precisions; one line of the table."""
    runs = {name: operation.prepare(kind) for name, kind in PRECISIONS.items()}
    times = alternate({name: ignoring_number(run) for name, run in runs.items()}, rounds)
    full, half = (own.processor_median_s for own in times.values())
    return (
        operation.name,
        f"{1e3 * full:.2f}",
        f"{1e3 * half:.2f}",
        f"{full / half:.2f}" if full > 1e-5 else "",
        f"{operation.flop / full / 1e9:.0f}" if operation.flop else "",
        f"{operation.flop / half / 1e9:.0f}" if operation.flop else "",
    )


if __name__ == "__main__":
    main()
