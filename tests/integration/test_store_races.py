"""Several threads and processes that use one store at the same time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from service.domain.version import LIVE
from service.store.open_store import open_embedded
from tests.integration import store_child
from tests.integration.store_child import CLIENT, publish
from tests.processes import PROCESSES


def started(work: Callable[[Path, int, Connection], None], folder: Path, count: int) -> tuple[BaseProcess, Connection]:
    ours, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=work, args=(folder, count, theirs))
    process.start()
    theirs.close()
    return process, ours


def finished(process: BaseProcess, pipe: Connection) -> list[Any]:
    """Everything that the process sent, once it has ended well."""
    sent = []
    try:
        while True:
            sent.append(pipe.recv())
    except EOFError:
        process.join()
    assert process.exitcode == 0
    pipe.close()
    process.close()
    return sent


def test_racing_threads_get_gapless_numbers_and_complete_versions(tmp_path: Path) -> None:
    with open_embedded(tmp_path) as store:
        with ThreadPoolExecutor(8) as pool:
            made = sorted(pool.map(lambda i: publish(store, i), range(48)))
        assert made == [(i, i) for i in range(1, 49)]
        assert store.catalog.alias(CLIENT, LIVE).version == 48
        assert store.check().whole


def test_racing_processes_get_gapless_numbers_and_complete_versions(tmp_path: Path) -> None:
    running = [started(store_child.publish_many, tmp_path, 25) for _ in range(2)]
    numbers = [finished(*each) for each in running]
    assert sorted(numbers[0] + numbers[1]) == list(range(1, 51))
    assert all(mine == sorted(mine) for mine in numbers)
    with open_embedded(tmp_path) as store:
        assert [version.number for version in store.catalog.versions(CLIENT)] == list(range(1, 51))
        assert [move.version for move in store.catalog.history(CLIENT)] == list(range(1, 51))
        assert store.check().whole


def test_deleting_and_collecting_in_one_process_lose_no_version_of_another(tmp_path: Path) -> None:
    publishing = started(store_child.publish_many, tmp_path, 40)
    deleting = started(store_child.delete_and_collect, tmp_path, 25)
    numbers, deleted = finished(*publishing), finished(*deleting)
    assert numbers == list(range(1, 41))
    with open_embedded(tmp_path) as store:
        assert {version.number for version in store.catalog.versions(CLIENT)} == set(numbers) - set(deleted)
        assert store.check().whole
        store.collect(grace_s=0.0)
        assert store.check().whole
