"""`anole train --memory` writes a memory of tasks, and `anole evaluate --memory` uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.checkpoint import load_checkpoint
from models.meta.memory import load_memory
from tests.unit.service.cli.conftest import Anole

EPISODES = ["--dataset", "textures", "--ways", "2", "--shots", "3", "--queries", "2", "--episodes", "2", "--json"]


@pytest.fixture
def trained(anole: Anole, tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint and a memory of three tasks."""
    out, memory = tmp_path / "start.safetensors", tmp_path / "memory.safetensors"
    command = ["train", "--dataset", "textures", "--preset", "omniglot", "--meta-steps", "1", "--ways", "2"]
    command += ["--shots", "2", "--out", str(out), "--memory", str(memory), "--memory-tasks", "3"]
    assert anole(*command)[0] == 0
    return out, memory


def test_a_memory_written_by_train_is_used_by_evaluate(anole: Anole, trained: tuple[Path, Path]) -> None:
    out, memory = trained
    kept = load_memory(memory, load_checkpoint(out).digest)
    assert len(kept) == 3
    code, printed, _ = anole("evaluate", "--checkpoint", str(out), *EPISODES, "--memory", str(memory))
    assert (code, json.loads(printed)["memory"]) == (0, kept.digest)


def test_evaluate_refuses_a_memory_of_another_start(anole: Anole, trained: tuple[Path, Path]) -> None:
    code, _, error = anole("evaluate", "--checkpoint", "omniglot", *EPISODES, "--memory", str(trained[1]))
    assert (code, "make a memory for this start" in " ".join(error.split())) == (1, True)


def test_evaluate_says_that_a_memory_does_not_apply_to_a_frozen_backbone(anole: Anole, tmp_path: Path) -> None:
    memory = str(tmp_path / "memory.safetensors")
    code, _, error = anole("evaluate", "--checkpoint", "efficientnet-lite0", *EPISODES, "--memory", memory)
    assert (code, "does not apply to this start: its backbone is frozen" in " ".join(error.split())) == (1, True)
