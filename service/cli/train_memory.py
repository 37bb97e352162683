"""``anole train --memory``: adapt training tasks from a start and keep what that changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.checkpoint import Checkpoint
from models.config import MetaTrainingConfig
from models.meta.memory import MemoryConfig, TaskMemory, build_memory
from models.meta.training import WeightedDataset, task_source
from service.cli.console import progress


def write_memory(
    start: Checkpoint, datasets: Sequence[WeightedDataset], meta: MetaTrainingConfig, path: Path, tasks: int
) -> None:
    """Adapt training tasks by the recipe of a checkpoint and write the memory of them.

    Args:
        start: what the tasks start from, on the device to adapt on.
        datasets: what the tasks are drawn from.
        meta: shape and seed of the tasks.
        path: file to write.
        tasks: number of tasks.
    """
    device = next(iter(start.weights.values())).device
    source = task_source(datasets, start.net_config, meta, device)
    memory = TaskMemory(start.digest, MemoryConfig(capacity=tasks))
    with progress("remembering", tasks) as report:
        for grown in build_memory(memory, start.build_net(), start.weights, source, start.recipe):
            memory = grown
            report(len(memory), "")
    memory.save(path, start.training)
