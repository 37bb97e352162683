"""Simulates power loss while a device installs releases, and checks what its disk may hold: see ``disk.py``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from service.edge.installed import Installed, InstalledReleases
from tests.crash.calls import watch
from tests.crash.campaign import process
from tests.crash.disk import Call, Disk, Tree, write_tree
from tests.crash.power_loss import Recorder
from tests.crash.stores import temporary_folder

CONTENTS = (b"start " * 20, b"release one " * 20, b"release two " * 20)
START, FIRST, SECOND = (hashlib.sha256(content).hexdigest() for content in CONTENTS)
CLIENT = "line-7"


def download(content: bytes) -> Callable[[Path], None]:
    """A download that reaches the file system as the recorder sees it."""

    def write(path: Path) -> None:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)

    return write


def install_two(folder: Path, pipe: Connection) -> None:
    """Install two releases one after the other, and send the recorded calls."""
    recorder = Recorder(folder)
    watch(recorder)
    device = InstalledReleases(folder)
    for digest, content in zip((FIRST, SECOND), CONTENTS[1:], strict=True):
        device.fetch(START, download(CONTENTS[0]))
        device.fetch(digest, download(content))
        device.install(CLIENT, Installed(target=digest[:8], release=digest, start=START))
    device.refuse(CLIENT, SECOND)
    pipe.send(recorder.entries)
    pipe.close()


def problems_of(tree: Tree) -> list[str]:
    """What is wrong on a disk: a document that cannot be read, or that names a file that is not whole."""
    with temporary_folder() as root:
        write_tree(tree, root)
        try:
            device = InstalledReleases(root)
            releases = device.releases(CLIENT)
            for each in (releases.current, releases.previous):
                if each is not None:
                    device.read(each.start)
                    device.read(each.release)
        except Exception as error:  # noqa: BLE001 - every failure is a finding
            return [repr(error)]
    return []


@pytest.fixture(scope="module")
def calls() -> list[Call]:
    """The calls of a device that installs two releases."""
    with temporary_folder() as folder, process(install_two, folder) as (_, pipe):
        return [entry for entry in pipe.recv() if isinstance(entry, Call)]


def found_by_losing_power(calls: list[Call]) -> tuple[int, list[str]]:
    """Lose power after every call: the number of different disks, and the problems."""
    disk, generator, tried, problems = Disk(), np.random.default_rng(0), set(), list[str]()
    for call in calls:
        disk.do(call)
        for tree in disk.possible_trees(generator):
            key = hashlib.sha256(repr(sorted(tree.items())).encode()).digest()
            if key not in tried:
                tried.add(key)
                problems += problems_of(tree)
    return len(tried), problems


def test_a_power_loss_at_any_moment_leaves_a_device_with_whole_releases(calls: list[Call]) -> None:
    tried, problems = found_by_losing_power(calls)
    assert problems == []
    assert tried > 30


def test_a_device_that_does_not_sync_is_found_out(calls: list[Call]) -> None:
    assert found_by_losing_power([call for call in calls if call.kind != "sync"])[1]
