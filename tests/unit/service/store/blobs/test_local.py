"""Blobs as files: the order of system calls, failing disks, and leftovers of kills."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.errors import StoreFull, StoreUnavailable, VersionCorrupt
from service.store.blobs.local import LocalBlobs

SPACE = "line-1"
CONTENT = b"image"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str]]:
    """The syncs and renames, in order, by what they touched ("unfinished" for a file that is being written)."""
    made: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def name_of(path: Path) -> str:
        name = str(path.relative_to(tmp_path))
        return "unfinished" if ".unfinished-" in name else name

    def recording_fsync(handle: int) -> None:
        made.append(("fsync", name_of(Path(f"/proc/self/fd/{handle}").readlink())))
        fsync(handle)

    def recording_replace(self: Path, target: Path) -> Path:
        made.append((f"rename {name_of(self)}", name_of(target)))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(Path, "replace", recording_replace)
    return made


def fail_with(code: int) -> Callable[..., Any]:
    def fail(*_args: object, **_named: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_the_file_is_synced_then_renamed_then_its_folder_is_synced(
    blobs: LocalBlobs, calls: list[tuple[str, str]]
) -> None:
    blobs.put(SPACE, [CONTENT])
    assert calls == [
        ("fsync", "unfinished"),
        ("rename unfinished", f"{SPACE}/{DIGEST}"),
        ("fsync", SPACE),
        ("fsync", "."),
    ]


def test_several_contents_share_the_syncs_of_the_folders(blobs: LocalBlobs, calls: list[tuple[str, str]]) -> None:
    blobs.put(SPACE, [b"one", b"two", b"one"])
    assert [call for call, _ in calls] == ["fsync"] * 2 + ["rename unfinished"] * 2 + ["fsync"] * 2


def test_existing_content_is_not_written_but_its_folder_is_synced(
    blobs: LocalBlobs, calls: list[tuple[str, str]]
) -> None:
    """Another process may have renamed it and not synced the folder yet."""
    blobs.put(SPACE, [CONTENT])
    calls.clear()
    blobs.put(SPACE, [CONTENT])
    assert calls == [("fsync", SPACE), ("fsync", ".")]


def test_without_sync_nothing_is_synced(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    LocalBlobs(tmp_path, sync=False).put(SPACE, [CONTENT])
    assert [call for call, _ in calls] == ["rename unfinished"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_raises_store_full_and_later_writes_succeed(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int
) -> None:
    blobs.put(SPACE, [CONTENT])
    with monkeypatch.context() as disk:
        disk.setattr("tempfile.mkstemp", fail_with(code))
        with pytest.raises(StoreFull, match="no space left"):
            blobs.put(SPACE, [b"more"])
        assert blobs.get(SPACE, DIGEST) == CONTENT
    assert blobs.get(SPACE, blobs.put(SPACE, [b"more"])[0]) == b"more"
    assert list((tmp_path / SPACE).glob(".*")) == []


def test_a_failed_write_leaves_no_file(blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    staged = iter([None, OSError(errno.ENOSPC, "full")])
    fsync = os.fsync

    def second_fails(handle: int) -> None:
        error = next(staged)
        if error is not None:
            raise error
        fsync(handle)

    monkeypatch.setattr(os, "fsync", second_fails)
    with pytest.raises(StoreFull):
        blobs.put(SPACE, [b"one", b"two"])
    assert list((tmp_path / SPACE).iterdir()) == []


@pytest.mark.parametrize("code", [errno.EROFS, errno.EIO, errno.EACCES])
def test_a_failing_disk_raises_store_unavailable(blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr("tempfile.mkstemp", fail_with(code))
    with pytest.raises(StoreUnavailable, match="disk failed") as caught:
        blobs.put(SPACE, [CONTENT])
    assert not isinstance(caught.value, StoreFull)


def test_after_a_failed_sync_writes_fail_and_reads_continue(blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs.put(SPACE, [CONTENT])
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", fail_with(errno.EIO))
        with pytest.raises(StoreUnavailable):
            blobs.put(SPACE, [b"more"])
    with pytest.raises(StoreUnavailable, match="restart the service"):
        blobs.put(SPACE, [b"more"])
    with pytest.raises(StoreUnavailable, match="restart the service"):
        blobs.ping()
    assert blobs.get(SPACE, DIGEST) == CONTENT


def test_an_unreadable_blob_is_not_reported_as_damaged(blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs.put(SPACE, [CONTENT])
    monkeypatch.setattr(Path, "read_bytes", fail_with(errno.EIO))
    with pytest.raises(StoreUnavailable):
        blobs.get(SPACE, DIGEST)


def test_leftovers_of_a_kill_are_not_blobs_and_are_swept_when_old(blobs: LocalBlobs, tmp_path: Path) -> None:
    blobs.put(SPACE, [CONTENT])
    left = tmp_path / SPACE / ".unfinished-abc"
    left.write_bytes(CONTENT[:2])
    assert [entry.digest for entry in blobs.entries(SPACE)] == [DIGEST]
    assert blobs.sweep(SPACE, older_than_s=60.0) == 0
    long_ago = left.stat().st_mtime - 61.0
    os.utime(left, (long_ago, long_ago))
    assert blobs.sweep(SPACE, older_than_s=60.0) == 1
    assert [path.name for path in (tmp_path / SPACE).iterdir()] == [DIGEST]


def test_a_sweep_continues_when_a_write_finishes_during_it(
    blobs: LocalBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs.put(SPACE, [CONTENT])
    ended, left = (tmp_path / SPACE / f".unfinished-{name}" for name in "ab")
    ended.write_bytes(CONTENT)
    left.write_bytes(CONTENT[:2])
    stat = Path.stat

    def ending_just_before(self: Path, **named: Any) -> os.stat_result:
        if self == ended:
            ended.unlink(missing_ok=True)
        return stat(self, **named)

    monkeypatch.setattr(Path, "stat", ending_just_before)
    assert blobs.sweep(SPACE, older_than_s=0.0) == 1
    assert [path.name for path in (tmp_path / SPACE).iterdir()] == [DIGEST]


def test_a_new_empty_space_is_not_swept(blobs: LocalBlobs, tmp_path: Path) -> None:
    (tmp_path / SPACE).mkdir()
    blobs.sweep(SPACE, older_than_s=60.0)
    assert (tmp_path / SPACE).is_dir()
    blobs.sweep(SPACE, older_than_s=0.0)
    assert not (tmp_path / SPACE).exists()


def test_other_folders_and_files_are_not_spaces_or_blobs(blobs: LocalBlobs, tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "Notes").mkdir()
    (tmp_path / "readme.txt").write_text("mine")
    blobs.put(SPACE, [CONTENT])
    (tmp_path / SPACE / "notes.txt").write_text("mine")
    assert list(blobs.spaces()) == [SPACE]
    assert [entry.digest for entry in blobs.entries(SPACE)] == [DIGEST]
    blobs.sweep(SPACE, older_than_s=0.0)
    assert (tmp_path / SPACE / "notes.txt").exists()


def test_deleting_a_space_during_a_write_fails_only_that_write(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    replace = Path.replace

    def deleted_first(self: Path, target: Path) -> Path:
        self.unlink()
        return replace(self, target)

    with monkeypatch.context() as racing:
        racing.setattr(Path, "replace", deleted_first)
        with pytest.raises(StoreUnavailable, match="deleted in the meantime"):
            blobs.put(SPACE, [CONTENT])
    assert blobs.put(SPACE, [CONTENT]) == (DIGEST,)


def test_only_the_user_of_the_service_can_read_blobs(blobs: LocalBlobs, tmp_path: Path) -> None:
    blobs.put(SPACE, [CONTENT])
    assert (tmp_path / SPACE).stat().st_mode & 0o077 == 0
    assert (tmp_path / SPACE / DIGEST).stat().st_mode & 0o077 == 0


def test_every_flipped_bit_is_found(blobs: LocalBlobs, tmp_path: Path) -> None:
    blobs.put(SPACE, [CONTENT])
    path = tmp_path / SPACE / DIGEST
    for bit in range(8 * len(CONTENT)):
        flipped = bytearray(CONTENT)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(VersionCorrupt, match="damaged"):
            blobs.get(SPACE, DIGEST)


def test_ping_fails_without_the_folder(blobs: LocalBlobs, tmp_path: Path) -> None:
    tmp_path.rmdir()
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        blobs.ping()
