"""The table of searched nets."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.searched_nets import description, scored, sizes, table
from models.checkpoint import load_checkpoint
from models.data.class_dataset import ArrayDataset
from models.nets import build
from tests.generated import tiny_checkpoint_in


def test_the_table_compares_each_net_with_the_first_by_episode(tmp_path: Path) -> None:
    first = load_checkpoint(tiny_checkpoint_in(tmp_path))
    deeper = replace(first.net_config, depth=5, kernel=5)
    second = replace(first, name="winner-3", net_config=deeper, weights=build(deeper).start())
    generator = torch.Generator().manual_seed(0)
    arrays = [torch.randint(0, 256, (4, 1, 28, 28), generator=generator, dtype=torch.uint8) for _ in range(4)]
    test = ArrayDataset("noise", [f"class {number}" for number in range(4)], arrays)
    asked = argparse.Namespace(queries=2, episodes=3, seed=0)
    rows = [
        {"net": description(start, first), "ms": 0.25, **sizes(start), "2x1": scored(start, test, "2x1", asked)}
        for start in (first, second)
    ]
    machine = {"cores": 2, "processor": "x", "load_before": 1.0, "torch": "2", "device": "cpu", "torch_threads": 1}
    record = {"dataset": "noise", "episodes": 3, "seed": 0, "machine": {**machine, "checkpoint": "tiny"}}
    *_, reference, other = table({**record, "checkpoints": rows}, ["2x1"]).splitlines()
    assert reference.startswith("| tiny | None | 0.250 | 0.01 |")
    assert other.startswith("| winner-3: kernel 5, depth 5 |") or "depth 5, kernel 5" in other
    assert "±" in other.split("|")[-2]
