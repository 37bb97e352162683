"""A memory of tasks: what is remembered, what a new task recalls, and files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import weights as weight_ops
from models.adaptation.adapt import Adapted, adapt_inputs, adapt_one
from models.config import BACKBONE_RECIPE, InnerLoopConfig, NetConfig
from models.data.episodes import EpisodeSampler, EpisodeShape
from models.errors import CheckpointInvalid, InvalidConfig
from models.images.preprocessing import ImageConfig
from models.meta.evaluation import EvaluationConfig, evaluate
from models.meta.memory import MemoryConfig, TaskMemory, load_memory, task_keys
from models.nets import BackboneNet, Net, heads
from models.validation.cross_validation import CrossValidator
from models.weights import Weights
from tests.backbones import Convolutional, factory_of
from tests.unit.models.conftest import SPEC, MakeSupport
from tests.unit.models.meta.test_evaluation import striped_classes

START = "a" * 64
RECIPE = InnerLoopConfig(steps=3, learning_rate=0.05, batch_size=6)


def remembered(net: Net, make_support: MakeSupport, tasks: int = 4, seed: int = 0) -> TaskMemory:
    supports = [make_support(seed + task) for task in range(tasks)]
    return TaskMemory(START).remember(net, net.start(), supports, RECIPE, list(range(tasks)))


def memory_of(keys: list[list[float]], values: list[float], config: MemoryConfig) -> TaskMemory:
    return TaskMemory(START, config).add(torch.tensor(keys), {"block1.scale": torch.tensor(values)[:, None]})


def test_a_task_starts_from_the_start_plus_what_the_only_remembered_task_changed(
    net: Net, make_support: MakeSupport
) -> None:
    memory, start = remembered(net, make_support, tasks=1), net.start()
    recalled = memory.start_for(net, start, make_support(9))
    assert recalled.keys() == start.keys()
    assert any(not torch.equal(recalled[name], start[name]) for name in start)
    for name, tensor in recalled.items():
        assert torch.equal(tensor, start[name] + memory.values[name][0].float())


def test_an_empty_memory_gives_the_start_itself(net: Net, make_support: MakeSupport) -> None:
    start = net.start()
    assert weight_ops.changed(start, TaskMemory(START).start_for(net, start, make_support(0))) == {}


def test_the_head_is_not_remembered(conv4: Net, make_support: MakeSupport) -> None:
    head = heads.linear_head(conv4.feature_count, 3, torch.Generator().manual_seed(0))
    recipe = replace(RECIPE, head="linear")
    memory = TaskMemory(START).remember(conv4, {**conv4.start(), **head}, [make_support(0)], recipe, [0])
    assert memory.values.keys() == conv4.start().keys()


def test_nearest_tasks_are_weighted_by_a_softmax_of_their_similarity() -> None:
    memory = memory_of(
        [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], [1, 2, 3, 4], MemoryConfig(neighbours=2, temperature=0.5)
    )
    indices, shares = memory.nearest(torch.tensor([[2.0, 2.0 * 3**0.5]]))  # 60 and 30 degrees from two of the keys
    assert indices.tolist() == [[2, 0]]
    expected = torch.tensor([[3**0.5 / 2, 0.5]]).div(0.5).softmax(-1)
    assert torch.allclose(shares, expected)


def test_a_task_is_nearest_to_itself(net: Net, make_support: MakeSupport) -> None:
    memory = remembered(net, make_support)
    keys = task_keys(net, net.start(), [make_support(task) for task in range(4)])
    assert memory.nearest(keys)[0][:, 0].tolist() == [0, 1, 2, 3]


def test_beyond_the_capacity_the_oldest_tasks_are_forgotten() -> None:
    memory = memory_of([[1.0], [2.0], [3.0]], [1, 2, 3], MemoryConfig(capacity=2))
    assert len(memory) == 2
    assert memory.keys is not None
    assert memory.keys.flatten().tolist() == [2, 3]
    assert memory.values["block1.scale"].flatten().tolist() == [2, 3]


def test_remembering_makes_a_new_memory(conv4: Net, make_support: MakeSupport) -> None:
    memory = remembered(conv4, make_support, tasks=2)
    before = memory.digest
    more = memory.remember(conv4, conv4.start(), [make_support(5)], RECIPE, [0])
    assert (len(memory), len(more)) == (2, 3)
    assert memory.digest == before != more.digest


def test_the_same_tasks_and_seeds_give_the_same_memory(net: Net, make_support: MakeSupport) -> None:
    assert remembered(net, make_support).digest == remembered(net, make_support).digest
    assert remembered(net, make_support).digest != remembered(net, make_support, seed=1).digest


def test_tasks_that_diverge_are_not_remembered(conv4: Net, make_support: MakeSupport) -> None:
    wild = replace(RECIPE, learning_rate=1e30)
    assert len(TaskMemory(START).remember(conv4, conv4.start(), [make_support(0)], wild, [0])) == 0


def test_a_start_with_a_frozen_backbone_is_refused(make_support: MakeSupport) -> None:
    config = NetConfig("backbone", ImageConfig(3, 32), factory=factory_of(Convolutional), stages=("stem",))
    net = BackboneNet(config)
    with pytest.raises(InvalidConfig, match="frozen"):
        TaskMemory(START).remember(net, net.start(), [make_support(0)], BACKBONE_RECIPE, [0])


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="capacity is 0; allowed"):
        MemoryConfig(capacity=0)
    with pytest.raises(InvalidConfig, match="neighbours is 0; allowed"):
        MemoryConfig(neighbours=0)
    with pytest.raises(InvalidConfig, match="a number above 0"):
        MemoryConfig(temperature=0.0)


def test_a_saved_memory_is_loaded_as_it_was(net: Net, make_support: MakeSupport, tmp_path: Path) -> None:
    memory = remembered(net, make_support)
    memory.save(tmp_path / "memory.safetensors")
    loaded = load_memory(tmp_path / "memory.safetensors", START)
    assert (loaded.digest, loaded.config, len(loaded)) == (memory.digest, memory.config, 4)
    task = make_support(9)
    again, before = (one.start_for(net, net.start(), task) for one in (loaded, memory))
    assert weight_ops.changed(before, again) == {}


def test_a_memory_of_another_start_is_refused(conv4: Net, make_support: MakeSupport, tmp_path: Path) -> None:
    path = tmp_path / "memory.safetensors"
    remembered(conv4, make_support).save(path)
    with pytest.raises(CheckpointInvalid, match="adapted from the start aaaaaaaaaaaa"):
        load_memory(path, "b" * 64)


def test_a_missing_damaged_or_foreign_file_is_refused(conv4: Net, make_support: MakeSupport, tmp_path: Path) -> None:
    path = tmp_path / "memory.safetensors"
    with pytest.raises(CheckpointInvalid, match="no memory of tasks at"):
        load_memory(path, START)
    remembered(conv4, make_support).save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointInvalid, match="damaged"):
        load_memory(path, START)
    path.write_bytes(b"no tensors at all")
    with pytest.raises(CheckpointInvalid, match="is no memory of tasks"):
        load_memory(path, START)


def poisoned(net: Net, make_support: MakeSupport) -> TaskMemory:
    """A memory that sets every scale and shift to 0, after which all images look alike."""
    memory, start = remembered(net, make_support, tasks=1), net.start()
    values = {
        name: -start[name][None].half() if name.endswith(("scale", "shift")) else value
        for name, value in memory.values.items()
    }
    return replace(memory, values=values)


def test_cross_validation_drops_a_recalled_start_that_predicts_worse(conv4: Net, make_support: MakeSupport) -> None:
    support, start = make_support(9), conv4.start()
    groups = torch.arange(len(support))
    candidate = CrossValidator(conv4, start, task_memory=poisoned(conv4, make_support)).adapt(
        support, RECIPE, 0, groups
    )
    alone = CrossValidator(conv4, start).adapt(support, RECIPE, 0, groups)
    assert candidate.start is None
    assert weight_ops.changed(alone.adapted.weights, candidate.adapted.weights) == {}


def test_cross_validation_leaves_out_a_recalled_start_that_diverges(conv4: Net, make_support: MakeSupport) -> None:
    support, start, memory = make_support(9), conv4.start(), remembered(conv4, make_support, tasks=1)
    wild = {name: torch.full_like(value, torch.inf) for name, value in memory.values.items()}
    validator = CrossValidator(conv4, start, task_memory=replace(memory, values=wild))
    assert validator.adapt(support, RECIPE, 0, torch.arange(len(support))).start is None


def test_cross_validation_keeps_a_recalled_start_that_predicts_no_worse(conv4: Net, make_support: MakeSupport) -> None:
    support, start = make_support(9), conv4.start()
    memory = remembered(conv4, make_support)
    nothing = replace(memory, values={name: torch.zeros_like(value) for name, value in memory.values.items()})
    validator = CrossValidator(conv4, start, task_memory=nothing)
    candidate = validator.adapt(support, RECIPE, 0, torch.arange(len(support)))
    assert candidate.start is not None


def test_a_version_with_a_recalled_start_is_the_one_adapted_from_it_alone(
    conv4: Net, make_support: MakeSupport
) -> None:
    support, memory = make_support(9), remembered(conv4, make_support)
    inputs = CrossValidator(conv4, conv4.start(), task_memory=memory).plan(support, RECIPE, 0, torch.arange(12)).inputs
    recalled = next(given for given in inputs if given.start is not None and len(given.support) == len(support))
    (together,) = adapt_inputs(conv4, conv4.start(), [recalled])
    alone = adapt_one(conv4, memory.start_for(conv4, conv4.start(), support), support, RECIPE, 0)
    assert isinstance(together, Adapted)
    assert weight_ops.changed(alone.weights, together.weights) == {}


def accuracies(net: Net, start: Weights, n_shot: int, memory: TaskMemory | None = None) -> list[float]:
    source = EpisodeSampler(striped_classes(), EpisodeShape(n_way=3, n_shot=n_shot, n_query=4), SPEC.image)
    return list(evaluate(net, start, source, RECIPE, EvaluationConfig(4, memory=memory)))


@pytest.mark.parametrize("n_shot", [1, 4])  # one sample a class gives no folds, so nothing is recalled
def test_an_evaluation_does_not_get_worse_by_a_memory_that_misleads(
    conv4: Net, make_support: MakeSupport, n_shot: int
) -> None:
    start, memory = conv4.start(), poisoned(conv4, make_support)
    assert accuracies(conv4, start, n_shot, memory) == accuracies(conv4, start, n_shot)


def test_an_evaluation_starts_from_what_the_memory_recalls(conv4: Net, make_support: MakeSupport) -> None:
    start = conv4.start()
    blind = {name: torch.zeros_like(own) if name.endswith("scale") else own for name, own in start.items()}
    changes = {name: own[None] for name, own in weight_ops.subtract(start, blind).items()}
    memory = TaskMemory(START).add(task_keys(conv4, blind, [make_support(0)]), changes)
    assert accuracies(conv4, blind, 4, memory) == accuracies(conv4, start, 4) != accuracies(conv4, blind, 4)
