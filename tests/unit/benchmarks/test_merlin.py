"""The benchmark of weights that a model of earlier tasks' weights draws."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from benchmarks import merlin
from benchmarks.task_memory import Domain
from models.checkpoint import load_checkpoint
from models.data.synthetic import Textures
from models.images.preprocessing import ImageConfig
from models.meta.memory import TaskMemory
from tests.generated import tiny_checkpoint_in


def test_drawn_changes_are_those_of_the_domain() -> None:
    names = {"a": (40,), "b": (3, 30)}
    generator = torch.Generator().manual_seed(0)
    memories = {}
    for name, level in (("low", -1.0), ("high", 1.0)):
        values = {each: level + 0.1 * torch.randn(6, *shape, generator=generator) for each, shape in names.items()}
        memories[name] = TaskMemory("0" * 64).add(torch.zeros(6, 2), values)
    start = {each: torch.zeros(shape) for each, shape in names.items()} | {"head.weight": torch.ones(2)}
    found = merlin.train(memories, epochs=600, seed=0)
    for name, level in (("low", -1.0), ("high", 1.0)):
        drawn = found.starts(start, name, nets=4, seed=1)
        assert len(drawn) == 4
        assert level * float(torch.stack([one["b"] for one in drawn]).mean()) > 0.3
        assert all(torch.equal(one["head.weight"], start["head.weight"]) for one in drawn)


def test_every_method_is_scored_on_the_same_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(name: str, image: ImageConfig, _data_root: Path) -> Domain:
        known, unknown = (Textures(image.side, 1, seed=seed, lines=1) for seed in (5, 6))
        return Domain(None if name == "steel" else known, unknown)

    monkeypatch.setattr(merlin, "open_domain", opened)
    start = load_checkpoint(tiny_checkpoint_in(tmp_path))
    chosen = {"only": ["surfaces", "steel"], "tasks": 2, "epochs": 1, "nets": 2, "shots": 1, "steps": [0], "queries": 2}
    record = {**chosen, "episodes": 2, "seed": 0, "data_root": tmp_path}
    rows = merlin.run(argparse.Namespace(**record), start)
    assert [row["domain"] for row in rows] == ["surfaces", "steel"]
    assert all(len(row[method]) == 2 for row in rows for method in merlin.METHODS)
