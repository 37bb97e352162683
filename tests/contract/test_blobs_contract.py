"""Contract of every `Blobs` implementation."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.errors import InvalidName, VersionCorrupt
from service.store.blobs.local import LocalBlobs
from service.store.blobs.s3 import ObjectBlobs, s3_store
from service.store.ports import Blobs
from tests.contract.memory_blobs import MemoryBlobs
from tests.real_parts import ObjectServer

SPACE = "line-1"
OTHER = "line-2"
ABSENT = hashlib.sha256(b"never stored").hexdigest()


@dataclass(frozen=True)
class Rig:
    """An adapter, and ways for a test to damage or age its blobs directly."""

    blobs: Blobs
    damage: Callable[[str, str, bytes], None]
    grow_older: Callable[[str, str, float], None]


def _local(request: pytest.FixtureRequest) -> Rig:
    folder: Path = request.getfixturevalue("tmp_path")

    def damage(space: str, digest: str, content: bytes) -> None:
        (folder / space / digest).write_bytes(content)

    def grow_older(space: str, digest: str, seconds: float) -> None:
        found = (folder / space / digest).stat().st_mtime
        os.utime(folder / space / digest, (found - seconds, found - seconds))

    return Rig(LocalBlobs(folder), damage, grow_older)


def _memory(_request: pytest.FixtureRequest) -> Rig:
    blobs = MemoryBlobs(clock=lambda: 1_000_000.0)

    def damage(space: str, digest: str, content: bytes) -> None:
        blobs.held[space][digest].content = content

    def grow_older(space: str, digest: str, seconds: float) -> None:
        blobs.held[space][digest].put_at_s -= seconds

    return Rig(blobs, damage, grow_older)


def _s3(request: pytest.FixtureRequest) -> Rig:
    server: ObjectServer = request.getfixturevalue("objects")
    bucket = server.new_bucket()

    def damage(space: str, digest: str, content: bytes) -> None:
        server.replace(bucket, f"blobs/{space}/{digest}", content)

    def grow_older(space: str, digest: str, seconds: float) -> None:
        server.grow_older(bucket, f"blobs/{space}/{digest}", seconds)

    store = s3_store(bucket, "blobs", endpoint=server.address, region="us-east-1")
    return Rig(ObjectBlobs(store, f"s3://{bucket}/blobs"), damage, grow_older)


@pytest.fixture(params=[_local, _memory, _s3], ids=["local", "memory", "s3"])
def rig(request: pytest.FixtureRequest) -> Rig:
    make: Callable[[pytest.FixtureRequest], Rig] = request.param
    return make(request)


@pytest.fixture
def blobs(rig: Rig) -> Blobs:
    return rig.blobs


def test_content_is_named_by_its_digest_and_read_unchanged(blobs: Blobs) -> None:
    contents = [b"", b"one", bytes(range(256)) * 300]
    digests = blobs.put(SPACE, contents)
    assert digests == tuple(hashlib.sha256(content).hexdigest() for content in contents)
    assert [blobs.get(SPACE, digest) for digest in digests] == contents


def test_equal_content_is_stored_once(blobs: Blobs) -> None:
    first, again = blobs.put(SPACE, [b"image", b"image"])
    assert blobs.put(SPACE, [b"image"]) == (first,)
    assert again == first
    assert [(entry.digest, entry.size_bytes) for entry in blobs.entries(SPACE)] == [(first, 5)]


@pytest.mark.parametrize("damaged", [b"", b"imagf", b"imag", b"image and more"])
def test_damaged_content_is_rejected_and_a_new_put_replaces_it(rig: Rig, damaged: bytes) -> None:
    (digest,) = rig.blobs.put(SPACE, [b"image"])
    rig.damage(SPACE, digest, damaged)
    with pytest.raises(VersionCorrupt):
        rig.blobs.get(SPACE, digest)
    assert rig.blobs.put(SPACE, [b"image"]) == (digest,)
    assert rig.blobs.get(SPACE, digest) == b"image"


def test_reading_missing_content_fails(blobs: Blobs) -> None:
    blobs.put(SPACE, [b"image"])
    for space in (SPACE, OTHER):
        with pytest.raises(VersionCorrupt, match="missing"):
            blobs.get(space, ABSENT)


def test_missing_blobs_are_found_without_reading_content(blobs: Blobs) -> None:
    (there,) = blobs.put(SPACE, [b"image"])
    assert blobs.missing(SPACE, [there, ABSENT]) == {ABSENT}
    assert blobs.missing(OTHER, [there]) == {there}
    assert blobs.missing(OTHER, []) == frozenset()


def test_spaces_share_nothing(blobs: Blobs) -> None:
    (digest,) = blobs.put(SPACE, [b"image"])
    with pytest.raises(VersionCorrupt):
        blobs.get(OTHER, digest)
    blobs.put(OTHER, [b"image"])
    blobs.delete(SPACE, [digest])
    assert blobs.get(OTHER, digest) == b"image"
    assert list(blobs.entries(SPACE)) == []


def test_deleting_a_missing_blob_does_nothing(blobs: Blobs) -> None:
    blobs.delete(SPACE, [ABSENT])
    (digest,) = blobs.put(SPACE, [b"image"])
    blobs.delete(SPACE, [ABSENT])
    blobs.delete(SPACE, [])
    assert blobs.get(SPACE, digest) == b"image"


def test_putting_a_blob_again_resets_its_age(rig: Rig) -> None:
    (digest,) = rig.blobs.put(SPACE, [b"image"])
    rig.grow_older(SPACE, digest, 5000.0)
    assert [entry.age_s >= 5000.0 for entry in rig.blobs.entries(SPACE)] == [True]
    rig.blobs.put(SPACE, [b"image"])
    assert [entry.age_s < 2500.0 for entry in rig.blobs.entries(SPACE)] == [True]


def test_a_space_is_listed_while_it_holds_a_blob(blobs: Blobs) -> None:
    assert list(blobs.spaces()) == []
    (digest,) = blobs.put(SPACE, [b"image"])
    blobs.put(OTHER, [b"image"])
    assert blobs.sweep(SPACE, older_than_s=0.0) == 0
    assert list(blobs.spaces()) == [SPACE, OTHER]
    blobs.delete(SPACE, [digest])
    blobs.sweep(SPACE, older_than_s=0.0)
    assert list(blobs.spaces()) == [OTHER]


def test_a_missing_space_is_empty(blobs: Blobs) -> None:
    assert list(blobs.entries(SPACE)) == []
    assert blobs.sweep(SPACE, older_than_s=0.0) == 0
    assert list(blobs.spaces()) == []


@pytest.mark.parametrize("space", ["..", "../line-2", "a/b", "", "Line", "a\0b", ".hidden", "x" * 65])
def test_the_name_of_a_space_cannot_be_a_path(blobs: Blobs, space: str) -> None:
    with pytest.raises(InvalidName):
        blobs.put(space, [b"image"])
    with pytest.raises(InvalidName):
        blobs.get(space, ABSENT)
    with pytest.raises(InvalidName):
        blobs.delete(space, [ABSENT])


@pytest.mark.parametrize("digest", ["", "..", "../line-2/x", ABSENT.upper(), ABSENT + "0", ABSENT[:-1], "\n" + ABSENT])
def test_a_digest_cannot_be_a_path(blobs: Blobs, digest: str) -> None:
    with pytest.raises(VersionCorrupt):
        blobs.get(SPACE, digest)


def test_racing_puts_of_the_same_content_leave_it_undamaged(blobs: Blobs) -> None:
    content = os.urandom(50_000)
    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(lambda _: blobs.put(SPACE, [content])[0], range(40)))
    assert len(digests) == 1
    assert blobs.get(SPACE, digests.pop()) == content
    assert len(list(blobs.entries(SPACE))) == 1


def test_ping_succeeds_while_blobs_can_be_reached(blobs: Blobs) -> None:
    blobs.ping()
