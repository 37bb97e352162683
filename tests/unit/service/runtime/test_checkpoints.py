"""The checkpoints of a process: offered ones by name, and others that are loaded on demand by digest."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from models.checkpoint import EARLIER_DIGESTS, load_checkpoint, shipped_digests, shipped_names
from models.errors import CheckpointInvalid
from service.errors import UnknownCheckpoint
from service.runtime.checkpoints import LoadedCheckpoints
from service.runtime.loaded_checkpoint import LoadedCheckpoint

WAIT_S = 30


@pytest.fixture(scope="module")
def loaded() -> dict[str, LoadedCheckpoint]:
    return {name: LoadedCheckpoint(load_checkpoint(name), torch.device("cpu")) for name in shipped_names()}


class SlowLoader:
    """Returns a checkpoint once the test allows it."""

    def __init__(self, checkpoint: LoadedCheckpoint) -> None:
        self.checkpoint = checkpoint
        self.started, self.finish, self.loads = threading.Event(), threading.Event(), 0

    def __call__(self) -> LoadedCheckpoint:
        self.loads += 1
        self.started.set()
        assert self.finish.wait(WAIT_S)
        return self.checkpoint


def test_concurrent_requests_for_another_checkpoint_load_it_once(loaded: dict[str, LoadedCheckpoint]) -> None:
    paper = loaded["paper"]
    load = SlowLoader(paper)
    checkpoints = LoadedCheckpoints([loaded["omniglot"]], {paper.digest: load})
    assert checkpoints.find(paper.digest, "paper") is None
    with ThreadPoolExecutor(3) as pool:
        results = [pool.submit(checkpoints.get, paper.digest, "paper") for _ in range(3)]
        assert load.started.wait(WAIT_S)
        load.finish.set()
        assert all(result.result(WAIT_S) is paper for result in results)
    assert load.loads == 1
    assert checkpoints.find(paper.digest, "paper") is paper


def test_a_load_does_not_delay_requests_for_other_checkpoints(loaded: dict[str, LoadedCheckpoint]) -> None:
    omniglot, paper, surfaces = (loaded[name] for name in ("omniglot", "paper", "surfaces"))
    load = SlowLoader(paper)
    checkpoints = LoadedCheckpoints([omniglot], {paper.digest: load, surfaces.digest: lambda: surfaces})
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(checkpoints.get, paper.digest, "paper")
        assert load.started.wait(WAIT_S)
        others = pool.submit(lambda: [checkpoints.get(each.digest, "") for each in (omniglot, surfaces)])
        assert others.result(WAIT_S) == [omniglot, surfaces]
        assert not waiting.done()
        load.finish.set()
        assert waiting.result(WAIT_S) is paper


def test_a_failed_load_is_tried_again(loaded: dict[str, LoadedCheckpoint]) -> None:
    paper, failures = loaded["paper"], [CheckpointInvalid("the file is damaged")]

    def load() -> LoadedCheckpoint:
        if failures:
            raise failures.pop()
        return paper

    checkpoints = LoadedCheckpoints([loaded["omniglot"]], {paper.digest: load})
    with pytest.raises(CheckpointInvalid):
        checkpoints.get(paper.digest, "paper")
    assert checkpoints.get(paper.digest, "paper") is paper


def test_a_checkpoint_that_the_service_does_not_have_is_named_in_the_error(loaded: dict[str, LoadedCheckpoint]) -> None:
    with pytest.raises(UnknownCheckpoint, match=r"checkpoint 'mine' with digest abcabc.*--model"):
        LoadedCheckpoints([loaded["omniglot"]]).get("abc" * 20, "mine")


def test_an_offered_checkpoint_is_found_by_name_and_the_first_one_is_the_default(
    loaded: dict[str, LoadedCheckpoint],
) -> None:
    checkpoints = LoadedCheckpoints([loaded["omniglot"], loaded["surfaces"]])
    assert checkpoints.named(None) is loaded["omniglot"]
    assert checkpoints.named("surfaces") is checkpoints.named("surfaces-small") is loaded["surfaces"]
    with pytest.raises(UnknownCheckpoint, match="no model 'paper'; the available models are omniglot, surfaces"):
        checkpoints.named("paper")


def test_an_alias_of_a_shipped_checkpoint_loads_that_checkpoint() -> None:
    assert load_checkpoint("surfaces-small").digest == load_checkpoint("surfaces").digest
    assert load_checkpoint("surfaces-small").name == "surfaces"


def test_shipped_digests_are_those_of_the_checkpoints_and_of_earlier_releases() -> None:
    digests = {load_checkpoint(name).digest: name for name in shipped_names()}
    assert shipped_digests() == {**digests, **EARLIER_DIGESTS}
    surfaces = load_checkpoint("surfaces")
    without_flips = replace(surfaces, recipe=replace(surfaces.recipe, flip_augment=False))
    assert EARLIER_DIGESTS == {without_flips.digest: "surfaces"}
