"""A process that dies while it uses the store: whatever it had acknowledged is there, and whole."""

from __future__ import annotations

import multiprocessing
import random
import shutil
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from service.domain import LIVE
from service.store.open_store import open_embedded
from tests.integration import store_child
from tests.integration.store_child import CLIENT, Told

KILLS = 20
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([store_child.__name__])


def received(pipe: Connection) -> list[Told]:
    """Everything that the process managed to send before it died."""
    events: list[Told] = []
    try:
        while True:
            events.append(pipe.recv())
    except EOFError:
        return events


def run_and_kill(folder: Path, start: int, acknowledged: int, then_s: float) -> list[Told]:
    """Let a process use the store for so many acknowledgements, and that long after them, then kill it."""
    ours, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=store_child.live_on, args=(folder, start, theirs))
    process.start()
    theirs.close()
    events: list[Told] = [ours.recv() for _ in range(acknowledged)]
    process.join(then_s)
    process.kill()
    process.join()
    assert process.exitcode == -9
    events += received(ours)
    ours.close()
    process.close()
    return events


def run_killed_at(folder: Path, operation: str, call: int) -> list[Told]:
    """Do the operation in a process that dies before that call; all of it, if it makes fewer calls."""
    ours, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=store_child.killed_at, args=(folder, theirs, operation, call))
    process.start()
    theirs.close()
    events = received(ours)
    process.join()
    assert process.exitcode == -9 or (process.exitcode == 0 and events)
    ours.close()
    process.close()
    return events


def assert_nothing_lost(folder: Path, events: Sequence[Told]) -> None:
    """Reopen the store and hold it to everything that was acknowledged."""
    published = {number for kind, number, _ in events if kind == "published"}
    deleted = {number for kind, number, _ in events if kind in ("deleting", "deleted")}
    revision = max(revision for _, _, revision in events)
    with open_embedded(folder) as store:
        assert store.check().whole
        left = {version.number for version in store.versions(CLIENT)}
        assert published - deleted <= left
        assert not any(("deleted", number, 0) in events for number in left)
        live = store.alias(CLIENT, LIVE)
        assert revision <= live.revision <= revision + 1
        assert [move.revision for move in store.history(CLIENT)] == list(range(1, live.revision + 1))
        latest = store.client(CLIENT).latest
        assert max(published) <= latest <= max(published) + 1
        assert store_child.publish(store, 7) == (latest + 1, live.revision + 1)
    assert_nothing_left_over(folder)


def assert_nothing_left_over(folder: Path) -> None:
    """Collect, and hold the blobs on the disk to what the versions need."""
    with open_embedded(folder) as store:
        store.collect(grace_s=0.0)
        report = store.check()
        assert report.whole
    assert sum(path.is_file() for path in (folder / "blobs").rglob("*")) == report.blobs


def test_killed_at_random_moments_the_store_keeps_every_acknowledged_version(tmp_path: Path) -> None:
    chance = random.Random(2024)
    with open_embedded(tmp_path) as store:
        events: list[Told] = [("published", *store_child.publish(store, i)) for i in range(3)]
    for kill in range(KILLS):
        events += run_and_kill(tmp_path, kill * 7 + 1, chance.randint(1, 8), chance.uniform(0.0, 0.03))
        assert_nothing_lost(tmp_path, events)
        with open_embedded(tmp_path) as store:  # what was published since, by the process unheard and by the check
            latest, live = store.versions(CLIENT)[-1].number, store.alias(CLIENT, LIVE)
        events.append(("published", latest, live.revision))


@pytest.mark.parametrize("operation", sorted(store_child.OPERATIONS))
def test_killed_before_any_write_of_an_operation_the_store_loses_nothing(tmp_path: Path, operation: str) -> None:
    before = tmp_path / "before"
    with open_embedded(before) as store:
        told: list[Told] = [("published", *store_child.publish(store, i)) for i in range(3)]
        store.put_samples(CLIENT, [torch.zeros(3, 16, 16, dtype=torch.uint8)])[0]
        store.put_samples("line-3", [torch.zeros(3, 16, 16, dtype=torch.uint8)])[0]
    events: list[Told] = []
    call = 0
    while not events:
        call += 1
        folder = tmp_path / str(call)
        shutil.copytree(before, folder)
        events = run_killed_at(folder, operation, call)
        if operation == "delete_client":
            assert_erased_or_whole(folder, told, events)
        else:
            started = [("deleting", 1, 0)] if operation == "delete_version" else []
            assert_all_or_nothing(folder, operation)
            assert_nothing_lost(folder, [*told, *started, *events])
    assert call > 2


def assert_all_or_nothing(folder: Path, operation: str) -> None:
    """A version and the move of its alias are one: three of each before, and one more of each or of neither."""
    with open_embedded(folder) as store:
        made, moved = store.client(CLIENT).latest - 3, store.alias(CLIENT, LIVE).revision - 3
    publishes = operation in ("publish_new", "publish_again")
    assert (made, moved) in ([(0, 0), (1, 1)] if publishes else [(0, 0), (0, 1)])


def assert_erased_or_whole(folder: Path, told: Sequence[Told], events: Sequence[Told]) -> None:
    """A client whose deletion was cut off is all there or gone, and what is left of it is collected."""
    with open_embedded(folder) as store:
        there = bool(store.clients())
        assert store.check().whole
    if there:
        assert not events
        assert_nothing_lost(folder, told)
    else:
        assert_nothing_left_over(folder)
        assert not (folder / "blobs" / CLIENT).exists()


def test_killed_while_it_makes_a_new_store_the_next_start_makes_it(tmp_path: Path) -> None:
    events: list[Told] = []
    call = 0
    while not events:
        call += 1
        events = run_killed_at(tmp_path / str(call), "publish_first", call)
        with open_embedded(tmp_path / str(call)) as store:
            latest = store.base("line-2")
            assert latest is not None or not events
            assert store.check().whole
        assert_nothing_left_over(tmp_path / str(call))
    assert call > 20
