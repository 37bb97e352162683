"""A memory of tasks: what adaptation changed before is where a similar task starts from.

An entry is the key of one task, a summary of its support under the start, and its value, what the inner loop changed in
the body of the net. The head is left out: it belongs to the classes of that task. A new task starts from the start plus
a weighted sum of the values of the nearest keys.

That the weights of a new task come from those of earlier ones is the idea of MERLIN (Joseph & Balasubramanian 2020,
arXiv:2010.00352). MERLIN learns a generative model of weights; a memory keeps the changes themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from models import weights as weight_ops
from models.adaptation.inner_loop import collect_statistics, run_inner_loop
from models.atomic_files import write_atomically
from models.config import InnerLoopConfig
from models.errors import CheckpointInvalid, InvalidConfig
from models.meta.outer_loop import TaskSource
from models.nets import Net
from models.task import Support
from models.weights import Weights

FORMAT: Final = "anole-task-memory-1"

_KEYS = "keys"
_VALUE_PREFIX = "value."
_HEAD_PREFIX = "head."
_LEAST_VARIANCE = 1e-8
"""Lower bound that keeps the logarithm finite."""
_LEAST_DEVIATION = 1e-6
"""Lower bound of the deviation of a number over the keys."""


@dataclass(frozen=True)
class MemoryConfig:
    """Settings of a memory.

    Attributes:
        capacity: most tasks that it keeps; the oldest are forgotten first.
        neighbours: most tasks whose values a new task starts from.
        temperature: of the softmax over the similarities of the nearest keys; low follows the nearest one.
    """

    capacity: int = 512
    neighbours: int = 32
    temperature: float = 0.1

    def __post_init__(self) -> None:
        for name in ("capacity", "neighbours"):
            if getattr(self, name) < 1:
                raise InvalidConfig(f"{name} is {getattr(self, name)}; allowed: an integer from 1")
        if not self.temperature > 0:
            raise InvalidConfig(f"temperature is {self.temperature}; allowed: a number above 0")


@dataclass(frozen=True)
class TaskMemory:
    """Tasks that were adapted from one start, oldest first. Adding tasks makes a new memory.

    Attributes:
        start_digest: digest of the checkpoint that the tasks started from. Values fit no other start.
        config: see `MemoryConfig`.
        keys: float32 (tasks, key size), see `task_keys`; None without tasks.
        values: name -> float16 (tasks, ...), adapted weights minus the start's, without the head.
    """

    start_digest: str
    config: MemoryConfig = field(default_factory=MemoryConfig)
    keys: Tensor | None = None
    values: Weights = field(default_factory=dict)

    def __len__(self) -> int:
        return 0 if self.keys is None else len(self.keys)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the settings and of all tasks."""
        return weight_ops.digest(self._tensors(), json.dumps(self._settings(), sort_keys=True))

    def add(self, keys: Tensor, values: Weights) -> Self:
        """Return a memory with further tasks; beyond the capacity, the oldest are left out.

        Args:
            keys: float32 (tasks, key size).
            values: name -> (tasks, ...).
        """
        stored = {name: tensor.detach().half() for name, tensor in values.items()}
        if self.keys is not None:
            keys, stored = torch.cat([self.keys, keys]), weight_ops.join([self.values, stored])
        kept = slice(-self.config.capacity, None)
        return replace(self, keys=keys[kept], values={name: tensor[kept] for name, tensor in stored.items()})

    def nearest(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Find the nearest tasks by cosine similarity, after subtracting the mean key of the memory.

        Args:
            keys: (tasks, key size).

        Returns:
            Indices, int64 (tasks, neighbours), nearest first; and their weights, of the same shape, with sum 1.
        """
        if self.keys is None:
            raise InvalidConfig("the memory is empty: add a task before asking for the nearest one")
        centre, deviation = self.keys.mean(0), self.keys.std(0, correction=0).clamp(min=_LEAST_DEVIATION)
        both = (keys.to(centre.device), self.keys)
        ours, theirs = (F.normalize((own - centre) / deviation, dim=-1) for own in both)
        found = (ours @ theirs.T).topk(min(self.config.neighbours, len(self)), dim=-1)
        return found.indices, (found.values / self.config.temperature).softmax(-1)

    def start_for(self, net: Net, start: Weights, support: Support) -> dict[str, Tensor]:
        """The weights that a task starts from, (...) each: the start plus the weighted values of the nearest tasks.

        An empty memory gives the start itself.
        """
        if not len(self):
            return dict(start)
        indices, shares = (found[0] for found in self.nearest(task_keys(net, start, [support])))
        recalled = {name: torch.tensordot(shares, value[indices].float(), 1) for name, value in self.values.items()}
        return {**start, **{name: start[name] + change.to(start[name].device) for name, change in recalled.items()}}

    def remember(
        self, net: Net, start: Weights, supports: Sequence[Support], recipe: InnerLoopConfig, seeds: Sequence[int]
    ) -> Self:
        """Adapt tasks from the start and return a memory with what that changed. Tasks that diverged are left out.

        Args:
            net: the architecture.
            start: the weights of the checkpoint with `start_digest`.
            supports: one per task.
            recipe: the inner loop; more steps than a client will take remember more.
            seeds: one per task.

        Raises:
            InvalidConfig: the net has no body that adapts.
        """
        require_body(start)
        keys = task_keys(net, start, supports)
        adapted = run_inner_loop(net, weight_ops.expand(start, len(supports)), supports, recipe, seeds)
        good = adapted.losses.isfinite().all(1)
        values = {
            name: adapted.weights[name][good] - start[name] for name in start if not name.startswith(_HEAD_PREFIX)
        }
        return self.add(keys[good], values)

    def save(self, path: Path, record: Mapping[str, Any] | None = None) -> None:
        """Write the memory, atomically and durably; missing folders are created.

        Args:
            path: the file.
            record: JSON data about what the tasks were drawn from.
        """
        metadata = {
            "settings": json.dumps(self._settings(), sort_keys=True),
            "record": json.dumps(dict(record or {}), sort_keys=True),
            "digest": self.digest,
        }
        write_atomically(path, save_tensors(self._tensors(), metadata))

    def _settings(self) -> dict[str, Any]:
        return {"format": FORMAT, "start": self.start_digest, **asdict(self.config)}

    def _tensors(self) -> dict[str, Tensor]:
        keys = {} if self.keys is None else {_KEYS: self.keys}
        tensors = {**keys, **{_VALUE_PREFIX + name: value for name, value in self.values.items()}}
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def build_memory(
    memory: TaskMemory, net: Net, start: Weights, source: TaskSource, recipe: InnerLoopConfig
) -> Iterator[TaskMemory]:
    """Adapt tasks until the memory is full, and yield it after each batch of tasks.

    Args:
        memory: what to add to.
        net: the architecture.
        start: the weights of the checkpoint with the memory's `start_digest`.
        source: batches of tasks by number; all samples of a task count, whether they are anchors or not.
        recipe: the inner loop.

    Raises:
        InvalidConfig: the net has no body that adapts.
    """
    for number in range(memory.config.capacity):  # a batch has a task or more
        if len(memory) == memory.config.capacity:
            return
        supports = [replace(support, anchors=None) for support in source(number)]
        memory = memory.remember(
            net, start, supports, recipe, range(number * len(supports), (number + 1) * len(supports))
        )
        yield memory


def load_memory(path: Path, start_digest: str) -> TaskMemory:
    """Load a memory of tasks that were adapted from a start.

    Args:
        path: of a file that `TaskMemory.save` wrote.
        start_digest: digest of the checkpoint that is in use.

    Raises:
        CheckpointInvalid: the file does not exist, is no memory, is damaged, or belongs to another start.
    """
    if not path.is_file():
        raise CheckpointInvalid(f"no memory of tasks at {path}; make one with anole train --memory")
    content = path.read_bytes()
    try:
        tensors = load_tensors(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
        settings = json.loads(metadata["settings"])
        if settings.pop("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        own_start = str(settings.pop("start"))
        values = {
            name.removeprefix(_VALUE_PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(_VALUE_PREFIX)
        }
        memory = TaskMemory(own_start, MemoryConfig(**settings), tensors.get(_KEYS), values)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointInvalid(
            f"{path} is no memory of tasks: {error!r}; make one with anole train --memory"
        ) from error
    if memory.digest != metadata.get("digest"):
        raise CheckpointInvalid(
            f"{path} is damaged: its content does not match its digest; restore it or make it again"
        )
    if memory.start_digest != start_digest:
        raise CheckpointInvalid(
            f"{path} holds tasks adapted from the start {memory.start_digest[:12]}…, but the start in use is "
            f"{start_digest[:12]}…; make a memory for this start with anole train --memory"
        )
    return memory


def require_body(start: Weights) -> None:
    """Raise InvalidConfig for a start without a body that tasks adapt, as that of a frozen backbone."""
    if not any(not name.startswith(_HEAD_PREFIX) for name in start):
        raise InvalidConfig(
            "a memory of tasks does not apply to this start: its backbone is frozen, and adaptation changes only the "
            "head, which belongs to the classes of one task; use a start whose body adapts, as that of omniglot or "
            "surfaces does"
        )


def task_keys(net: Net, start: Weights, supports: Sequence[Support]) -> Tensor:
    """Summarise the support of each task as the start sees it: float32 (tasks, key size).

    A key has the mean and the logarithm of the variance that every normalisation layer measures. The mean feature is
    no key: nets normalise by the support, and the mean feature of the surface net is 0 for every support.
    """
    collected = collect_statistics(net, weight_ops.expand(start, len(supports)), [each.inputs for each in supports])
    return torch.stack([torch.cat(_summary(one.statistics)) for one in collected])


def _summary(statistics: Weights) -> list[Tensor]:
    return [
        own[0] if name.endswith(".mean") else own[0].clamp(min=_LEAST_VARIANCE).log()
        for name, own in statistics.items()
    ]
