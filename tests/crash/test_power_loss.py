"""Simulates power loss during a run and checks what the disk may hold: a short form of `make crash`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.crash.disk import Call, Disk, Tree
from tests.crash.faults import FAULTS
from tests.crash.power_loss import Entry, record_run, simulate_power_loss
from tests.crash.recording import record_files
from tests.crash.run import Run
from tests.crash.stores import in_folder
from tests.crash.system_calls import StraceUnavailable


@pytest.mark.slow
def test_a_power_loss_at_any_moment_loses_nothing_acknowledged_and_leaves_no_partial_blob() -> None:
    found = simulate_power_loss(record_run(("publish", "unsynced_rename", "keyed")))
    assert found.problems == ()
    assert found.kills > 50


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.found_by == "power"])
def test_a_seeded_fault_is_found_by_losing_power(name: str) -> None:
    assert simulate_power_loss(record_run(FAULTS[name].kinds, fault=name)).problems


def recorded(kinds: Sequence[str], *, wal: bool = False, fault: str | None = None) -> list[Entry]:
    """The system calls of the last step."""
    with in_folder() as location:
        try:
            return record_files(Run(location, {}, kinds=tuple(kinds), fault=fault, safe_steps=len(kinds) - 1, wal=wal))
        except StraceUnavailable as reason:
            pytest.skip(f"STRACE IS NOT AVAILABLE: no power loss within a commit of SQLite ({reason})")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "wal"), [("keyed", False), ("keyed", True), ("backup", False)])
def test_a_power_loss_within_a_commit_of_sqlite_or_a_backup_loses_nothing_acknowledged(kind: str, *, wal: bool) -> None:
    entries = recorded(("publish", kind), wal=wal)
    written = {entry.path for entry in entries if isinstance(entry, Call)}
    assert any(path.endswith("-wal" if wal else "-journal") for path in written)
    found = simulate_power_loss(entries, share=0.002)
    assert found.problems == ()
    assert found.kills > 5


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.found_by == "files"])
def test_a_seeded_fault_is_found_in_the_files_of_sqlite(name: str) -> None:
    assert simulate_power_loss(recorded(FAULTS[name].kinds, fault=name)).problems


def possible_trees(*calls: Call) -> list[Tree]:
    disk = Disk()
    for call in calls:
        disk.do(call)
    return list(disk.possible_trees(np.random.default_rng(0)))


NAMED = (Call("create", "a"), Call("sync", ""))
WRITTEN = (*NAMED, Call("write", "a", content=b"one"), Call("write", "a", at=3, content=b"two"))


def test_any_part_of_unsynced_data_may_survive() -> None:
    assert {tree["a"] for tree in possible_trees(*WRITTEN)} == {b"", b"one", b"\0\0\0two", b"onetwo"}


def test_synced_data_survives() -> None:
    assert possible_trees(*WRITTEN, Call("sync", "a")) == [{"a": b"onetwo"}]


def test_syncing_a_file_does_not_sync_its_name() -> None:
    assert {} in possible_trees(Call("create", "a"), Call("write", "a", content=b"one"), Call("sync", "a"))


def test_syncing_a_folder_does_not_sync_the_content_of_its_files() -> None:
    assert {"a": b""} in possible_trees(*WRITTEN, Call("sync", ""))


def test_a_rename_survives_completely_or_not_at_all() -> None:
    renamed = (*WRITTEN, Call("sync", "a"), Call("rename", "a", to="b"))
    assert possible_trees(*renamed) == [{"a": b"onetwo"}, {"b": b"onetwo"}]
    assert possible_trees(*renamed, Call("sync", "")) == [{"b": b"onetwo"}]


def test_of_a_rename_into_another_folder_each_half_may_survive_alone() -> None:
    moved = (Call("mkdir", "f"), Call("sync", ""), *NAMED, Call("sync", "a"), Call("rename", "a", to="f/a"))
    assert possible_trees(*moved) == [
        {"f": None, "a": b""}, {"f": None}, {"f": None, "f/a": b"", "a": b""}, {"f": None, "f/a": b""},
    ]  # fmt: skip
    assert possible_trees(*moved, Call("sync", "f"), Call("sync", "")) == [{"f": None, "f/a": b""}]


def test_a_file_in_a_folder_whose_name_was_not_synced_may_be_lost() -> None:
    made = (Call("mkdir", "f"), Call("create", "f/a"), Call("sync", "f/a"), Call("sync", "f"))
    assert possible_trees(*made) == [{}, {"f": None, "f/a": b""}]
    assert possible_trees(*made, Call("sync", ""), Call("unlink", "f/a")) == [{"f": None, "f/a": b""}, {"f": None}]
