"""Blobs in an object store that fails: retries, errors, and how long they take."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from service.errors import StoreFull, StoreUnavailable
from service.store.blobs.s3 import ObjectBlobs, s3_store
from tests.real_parts import ObjectServer

SPACE = "line-1"
CONTENT = b"image"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def bucket(objects: ObjectServer) -> str:
    return objects.new_bucket()


@pytest.fixture
def blobs(objects: ObjectServer, bucket: str) -> Iterator[ObjectBlobs]:
    yield ObjectBlobs(s3_store(bucket, "blobs", endpoint=objects.address, region="us-east-1"), f"s3://{bucket}/blobs")
    objects.fail("GET", 500, 0)


@pytest.mark.parametrize("status", [500, 503, 409])
def test_a_failed_request_is_retried(blobs: ObjectBlobs, objects: ObjectServer, status: int) -> None:
    objects.fail("PUT", status, times=2)
    assert blobs.put(SPACE, [CONTENT]) == (DIGEST,)
    assert blobs.get(SPACE, DIGEST) == CONTENT


def test_a_write_without_a_response_counts_as_done(blobs: ObjectBlobs, objects: ObjectServer) -> None:
    """The repetition meets its own first try: 412, with equal content."""
    blobs.put(SPACE, [CONTENT])
    objects.fail("PUT", 503, times=1)
    assert blobs.put(SPACE, [CONTENT]) == (DIGEST,)


def test_a_write_that_always_conflicts_is_given_up(blobs: ObjectBlobs, objects: ObjectServer) -> None:
    objects.fail("PUT", 409, times=4)
    with pytest.raises(StoreUnavailable, match="try again"):
        blobs.put(SPACE, [CONTENT])
    assert blobs.put(SPACE, [CONTENT]) == (DIGEST,)


def test_a_full_object_store_raises_store_full_and_reads_continue(blobs: ObjectBlobs, objects: ObjectServer) -> None:
    blobs.put(SPACE, [CONTENT])
    objects.fail("PUT", 507, times=6)
    with pytest.raises(StoreFull, match="no space left in s3://"):
        blobs.put(SPACE, [b"more"])
    assert blobs.get(SPACE, DIGEST) == CONTENT
    assert blobs.put(SPACE, [b"more"])


def test_an_unreachable_object_store_raises_store_unavailable(blobs: ObjectBlobs) -> None:
    nowhere = ObjectBlobs(s3_store("bucket", "", endpoint="http://127.0.0.1:1", region="us-east-1"), "s3://bucket/")
    for ask in (lambda: nowhere.get(SPACE, DIGEST), nowhere.ping):
        with pytest.raises(StoreUnavailable, match="s3://bucket/ cannot be reached"):
            ask()


def test_a_missing_bucket_is_reported_before_serving(objects: ObjectServer) -> None:
    blobs = ObjectBlobs(s3_store("no-bucket", "", endpoint=objects.address, region="us-east-1"), "s3://no-bucket/")
    with pytest.raises(StoreUnavailable, match="NoSuchBucket"):
        blobs.ping()


def test_an_old_blob_is_written_again_and_a_new_one_is_not(
    blobs: ObjectBlobs, objects: ObjectServer, bucket: str
) -> None:
    blobs.put(SPACE, [CONTENT])
    (before,) = blobs.entries(SPACE)
    objects.grow_older(bucket, f"blobs/{SPACE}/{DIGEST}", 300.0)
    blobs.put(SPACE, [CONTENT])
    (young,) = blobs.entries(SPACE)
    assert young.age_s >= before.age_s + 300.0
    objects.grow_older(bucket, f"blobs/{SPACE}/{DIGEST}", 301.0)
    blobs.put(SPACE, [CONTENT])
    assert [entry.age_s < 100.0 for entry in blobs.entries(SPACE)] == [True]


def test_other_objects_in_the_bucket_are_not_spaces_or_blobs(
    blobs: ObjectBlobs, objects: ObjectServer, bucket: str
) -> None:
    blobs.put(SPACE, [CONTENT])
    for key in ("blobs/Notes/readme", "blobs/readme", f"blobs/{SPACE}/notes", "elsewhere/x"):
        objects.replace(bucket, key, b"mine")
    assert list(blobs.spaces()) == [SPACE]
    assert [entry.digest for entry in blobs.entries(SPACE)] == [DIGEST]


def test_a_space_with_more_blobs_than_one_page_is_listed_completely(
    blobs: ObjectBlobs, objects: ObjectServer, bucket: str
) -> None:
    objects.fill(bucket, f"blobs/{SPACE}", count=2010)
    assert len({entry.digest for entry in blobs.entries(SPACE)}) == 2010
