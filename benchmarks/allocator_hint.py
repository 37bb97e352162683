"""Reptile meta steps of a preset with and without the hint that keeps freed memory in the process.

The hint has two sizes: that of the service and that of training.

Each side runs in new processes, by turns, because the hint lasts as long as its process. Prints the median processor
time of a meta step, the page faults of the process, and the ratios.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

import torch

from benchmarks.figures import Parser, machine, machine_line, markdown, script
from benchmarks.measuring import Times
from models.adaptation.allocator import SERVING_BLOCK_BYTES, TRAINING_BLOCK_BYTES, keep_freed_memory
from models.config import PRESETS, preset
from models.meta.outer_loop import MetaTrainingState
from models.meta.reptile import Reptile
from models.nets import build, heads
from models.task import Support

SIDES = {"without": None, "as in the service": SERVING_BLOCK_BYTES, "as in training": TRAINING_BLOCK_BYTES}


@script
def main() -> None:
    """Measure all sides and print the table."""
    parser = Parser(__doc__)
    parser.option("--rounds", 4, "processes per side", least=1)
    parser.option("--meta-steps", 25, "per process; the first three are not counted", least=4)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="paper", help="net and inner loop (paper)")
    parser.add_argument("--side", choices=SIDES, help="run one side in this process and print its two numbers")
    arguments = parser.parse_args()
    if arguments.side:
        print(*run_side(arguments.side, arguments.preset, arguments.meta_steps))
        return
    print(machine_line(machine(f"{arguments.preset}, random weights")), end="\n\n")
    results: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for _ in range(arguments.rounds):
        for side in SIDES:
            results[side].append(_in_new_process(side, arguments.preset, arguments.meta_steps))
    medians = {
        side: [statistics.median(column) for column in zip(*rows, strict=True)] for side, rows in results.items()
    }
    rows = [
        [side, f"{1e3 * seconds:.0f}", f"{seconds / medians['without'][0]:.2f}", f"{faults:,.0f}"]
        for side, (seconds, faults) in medians.items()
    ]
    print(markdown(["hint", "ms per meta step", "ratio", "page faults"], rows))


def run_side(side: str, preset_name: str, meta_steps: int) -> tuple[float, int]:
    """Run meta steps in this process: median processor time of one in seconds, and the process's page faults."""
    torch.set_num_threads(1)
    block_bytes = SIDES[side]
    if block_bytes is not None:
        keep_freed_memory(block_bytes)
    setting = preset(preset_name)
    net, image, meta = build(setting.net_config), setting.net_config.image, setting.meta
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(meta.n_way).repeat_interleave(meta.train_shots)
    shape = (len(labels), image.channels, image.side, image.side)
    supports = [Support(torch.rand(shape, generator=generator), labels, meta.n_way) for _ in range(meta.meta_batch)]
    start = {**net.start(), **heads.linear_head(net.feature_count, meta.n_way, generator)}
    state, times = MetaTrainingState(start), Times()

    def step() -> None:
        nonlocal state
        state = Reptile().meta_step(net, state, supports, setting.recipe, 0.5, range(len(supports)))

    for _ in range(meta_steps):
        times.measure(step)
    return statistics.median(times.processor_s[3:]), resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _in_new_process(side: str, preset_name: str, meta_steps: int) -> tuple[float, float]:
    command = [sys.executable, __file__, "--side", side, "--preset", preset_name, "--meta-steps", str(meta_steps)]
    seconds, faults = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.split()
    return float(seconds), float(faults)


if __name__ == "__main__":
    main()
