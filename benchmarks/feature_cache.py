"""Time of a frozen backbone for an extension, with the features of kept samples and without.

    python benchmarks/feature_cache.py [--model NAME] [--samples 50] [--new 5] [--side 200]

One process, one torch thread, random colour images.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch

from benchmarks.figures import Parser, machine, machine_line, markdown, script
from benchmarks.fixtures import DEFAULT_MODEL, N_WAY
from benchmarks.measuring import CPU, Times
from models.checkpoint import load_checkpoint
from service.runtime.loaded_checkpoint import LoadedCheckpoint


@script
def main() -> None:
    """Measure and print the table."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    found = machine(arguments.model)
    learner = LoadedCheckpoint(load_checkpoint(arguments.model), CPU)
    generator, total = torch.Generator().manual_seed(0), arguments.samples + arguments.new
    size = (3, arguments.side, arguments.side)
    images = [torch.randint(0, 256, size, dtype=torch.uint8, generator=generator) for _ in range(total)]
    labels = [index % N_WAY for index in range(total)]
    cases = {
        f"first {arguments.samples} samples": (arguments.samples, True),
        f"{arguments.new} more, features kept": (total, True),
        f"{arguments.new} more, features not kept": (total, False),
        "the same samples again, features kept": (total, True),
    }
    rows = []
    for name, (count, kept) in cases.items():
        times, keys = Times(), range(count) if kept else None
        times.measure(partial(learner.support, images[:count], labels[:count], N_WAY, keys=keys))
        rows.append((name, f"{times.processor_median_s:.2f}", f"{times.elapsed_median_s:.2f}"))
    learner.close()
    print(f"{machine_line(found)}\n\n{markdown(('', 'processor s', 'elapsed s'), rows)}")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.option("--model", DEFAULT_MODEL, "name of a shipped checkpoint with a frozen backbone, or path to one")
    parser.option("--samples", 50, "samples of the first version", least=N_WAY)
    parser.option("--new", 5, "samples that extend it")
    parser.option("--side", 200, "height and width of the images")
    return parser.parse_args()


if __name__ == "__main__":
    main()
