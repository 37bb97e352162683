"""The order of writes, and what deleting, collecting and checking do, on a store in a folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from service.domain.audit import AuditQuery
from service.domain.version import LIVE, Idempotency, SampleRef, ServedVersion, Version, VersionDraft
from service.errors import StoreFull, StoreIncompatible, StoreUnavailable, UnknownClient, UnknownVersion, VersionCorrupt
from service.store.catalog import sqlite as database_sqlite
from service.store.open_store import open_embedded
from service.store.version_store import VersionStore, encode_sample
from tests.contract.values import CLIENT, digest_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(folder: Path) -> Iterator[VersionStore]:
    with open_embedded(folder) as opened:
        yield opened


def image(shade: int) -> torch.Tensor:
    return torch.full((1, 4, 4), shade, dtype=torch.uint8)


def draft_of(store: VersionStore, shades: Sequence[int], weights: float = 0.0, client: str = CLIENT) -> VersionDraft:
    """Store a sample a shade, and weights; return the draft that needs them."""
    digests = store.put_samples(client, [encode_sample(image(shade)) for shade in shades])
    weights_digest, size_bytes = store.put_weights(client, {"head.bias": torch.full((2,), weights)}, {"kind": "delta"})
    return VersionDraft(
        client=client,
        parent=None,
        classes=("dent", "scratch"),
        samples=tuple(SampleRef(digest, "dent", "part.png") for digest in digests),
        meta_model="surfaces",
        meta_model_digest=digest_of("surfaces"),
        recipe={"steps": 1},
        seed=1,
        weights_digest=weights_digest,
        weights_bytes=size_bytes,
        device="cpu",
        batched_with=0,
    )


def publish(store: VersionStore, shades: Sequence[int], weights: float = 0.0, aliases: Sequence[str] = ()) -> Version:
    return store.publish(draft_of(store, shades, weights), aliases).version


def blobs_on_disk(folder: Path, client: str = CLIENT) -> set[str]:
    return {path.name for path in (folder / "blobs" / client).glob("*")}


def grow_older(folder: Path, seconds: float) -> None:
    for path in (folder / "blobs").rglob("*"):
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


def test_samples_and_weights_are_read_back_unchanged(store: VersionStore) -> None:
    colour = torch.arange(3 * 5 * 4, dtype=torch.uint8).reshape(3, 5, 4)
    assert torch.equal(store.sample(CLIENT, store.put_samples(CLIENT, [encode_sample(colour)])[0]), colour)
    delta = {"head.weight": torch.linspace(-1, 1, 6).reshape(2, 3), "norm.mean": torch.zeros(3)}
    digest, size_bytes = store.put_weights(CLIENT, delta, {"meta_model": "surfaces"})
    read = store.weights(CLIENT, digest)
    assert read.keys() == delta.keys()
    assert all(torch.equal(read[name], delta[name]) for name in delta)
    version = publish(store, [1])
    assert len(store.weights_content(CLIENT, version.number)[1]) == version.draft.weights_bytes
    assert size_bytes > 4 * 9


def test_equal_weights_have_the_same_digest(store: VersionStore) -> None:
    one = store.put_weights(CLIENT, {"a": torch.ones(2), "b": torch.zeros(1)}, {"x": "1", "y": "2"})
    two = store.put_weights(CLIENT, {"b": torch.zeros(1), "a": torch.ones(2)}, {"y": "2", "x": "1"})
    assert one == two


def test_weights_are_not_read_as_an_image(store: VersionStore) -> None:
    digest, _ = store.put_weights(CLIENT, {"head.bias": torch.ones(2)}, {})
    with pytest.raises(VersionCorrupt, match=r"not an image: it holds the tensors head\.bias"):
        store.sample(CLIENT, digest)


@pytest.mark.parametrize("lost", ["sample", "weights"])
def test_a_version_without_all_its_blobs_is_not_recorded(store: VersionStore, folder: Path, lost: str) -> None:
    draft = draft_of(store, [1, 2])
    digest = draft.weights_digest if lost == "weights" else draft.samples[1].digest
    (folder / "blobs" / CLIENT / digest).unlink()
    with pytest.raises(StoreUnavailable, match="send the request again"):
        store.publish(draft, [LIVE])
    assert store.catalog.clients() == ()


def test_deleting_a_version_removes_what_it_alone_needed(store: VersionStore, folder: Path) -> None:
    first = publish(store, [1, 2], 1.0)
    second = publish(store, [2, 3], 2.0)
    store.delete_version(CLIENT, 1)
    assert blobs_on_disk(folder) == {second.draft.weights_digest, *(s.digest for s in second.draft.samples)}
    assert first.draft.samples[0].digest not in blobs_on_disk(folder)
    assert store.check().whole


def test_deleting_a_version_keeps_blobs_that_are_not_published_yet(store: VersionStore, folder: Path) -> None:
    publish(store, [1], 1.0)
    waiting = draft_of(store, [2], 2.0)
    store.delete_version(CLIENT, 1)
    assert store.publish(waiting, [LIVE]).version.number == 2
    assert store.check().whole


def test_a_publish_that_needs_a_deleted_sample_fails_and_can_be_repeated(store: VersionStore) -> None:
    publish(store, [1], 1.0)
    waiting = draft_of(store, [1], 2.0)
    store.delete_version(CLIENT, 1)
    with pytest.raises(StoreUnavailable, match="1 stored samples or weights"):
        store.publish(waiting, [LIVE])
    assert publish(store, [1], 2.0).number == 2
    assert store.check().whole


def test_deleting_a_client_deletes_every_byte_of_it(store: VersionStore, folder: Path) -> None:
    publish(store, [1, 2], 1.0, [LIVE])
    draft_of(store, [3], 2.0)
    (folder / "blobs" / CLIENT / ".unfinished-x").write_bytes(b"cut off")
    kept = store.publish(draft_of(store, [1, 2], 1.0, "line-2"), [LIVE]).version
    store.delete_client(CLIENT)
    assert not (folder / "blobs" / CLIENT).exists()
    assert [client.name for client in store.catalog.clients()] == ["line-2"]
    assert torch.equal(store.sample("line-2", kept.draft.samples[0].digest), image(1))
    with pytest.raises(UnknownClient):
        store.delete_client(CLIENT)


@pytest.mark.parametrize("first_safe_with_wal", [(3,), (99,)], ids=["write-ahead log", "rollback journal"])
def test_deleted_data_is_in_no_file_of_the_catalog(
    folder: Path, monkeypatch: pytest.MonkeyPatch, first_safe_with_wal: tuple[int, ...]
) -> None:
    monkeypatch.setattr(database_sqlite, "FIRST_VERSION_SAFE_WITH_WAL", first_safe_with_wal)
    with open_embedded(folder) as store:
        publish(store, [1], 1.0, [LIVE])
        version = publish(store, [1], 2.0, [LIVE])
        draft_of(store, [1], 3.0, "line-2")

        def written(text: str) -> bool:
            return any(text.encode() in path.read_bytes() for path in folder.glob("catalog.sqlite3*"))

        weights = version.draft.weights_digest
        assert written(weights)
        assert written("part.png")
        store.delete_client(CLIENT)
        assert not written(weights)
        assert not written("part.png")
        assert store.catalog.audit(AuditQuery())[0].action == "client.delete"
        assert not written(version.draft.weights_digest)


def test_collecting_deletes_old_blobs_that_no_version_needs(store: VersionStore, folder: Path) -> None:
    publish(store, [1, 2], 1.0)
    orphan = draft_of(store, [2, 3], 2.0)
    (folder / "blobs" / CLIENT / ".unfinished-x").write_bytes(b"cut off")
    young = store.collect()
    assert (young.removed, young.leftovers, young.kept) == (0, 0, 5)
    grow_older(folder, 3601.0)
    old = store.collect()
    assert (old.removed, old.leftovers, old.kept) == (2, 1, 3)
    assert old.removed_bytes > orphan.weights_bytes
    assert store.check().whole
    assert store.collect().removed == 0


def test_storing_a_blob_again_resets_its_age(store: VersionStore, folder: Path) -> None:
    draft_of(store, [1], 1.0)
    grow_older(folder, 3601.0)
    waiting = draft_of(store, [1], 1.0)
    assert store.collect().removed == 0
    assert store.publish(waiting, []).version.number == 1


def test_collecting_deletes_the_space_of_a_client_without_versions(store: VersionStore, folder: Path) -> None:
    draft_of(store, [1], 1.0)
    store.collect(grace_s=0.0)
    assert list((folder / "blobs").iterdir()) == []


def test_a_check_names_every_version_that_needs_a_damaged_or_missing_blob(store: VersionStore, folder: Path) -> None:
    publish(store, [1, 2], 1.0)
    second = publish(store, [2, 3], 2.0)
    assert (store.check().versions, store.check().blobs) == (2, 5)
    shared, gone = second.draft.samples[0].digest, second.draft.weights_digest
    path = folder / "blobs" / CLIENT / shared
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (folder / "blobs" / CLIENT / gone).unlink()
    report = store.check()
    assert not report.whole
    assert {(damage.version, damage.digest) for damage in report.damages} == {(1, shared), (2, shared), (2, gone)}
    assert {damage.problem.split(";")[0].split(":")[0] for damage in report.damages} == {
        f"blob {shared} of {CLIENT!r} is damaged",
        f"blob {gone} of {CLIENT!r} is missing",
    }


def test_a_flipped_bit_is_never_served(store: VersionStore, folder: Path) -> None:
    version = publish(store, [1], 1.0, [LIVE])
    path = folder / "blobs" / CLIENT / version.draft.weights_digest
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(VersionCorrupt, match="damaged"):
        store.weights(CLIENT, version.draft.weights_digest)
    with pytest.raises(VersionCorrupt, match="damaged"):
        store.weights_content(CLIENT, 1)
    assert publish(store, [1], 1.0).draft.weights_digest == version.draft.weights_digest
    assert store.weights_content(CLIENT, 1)[0] == version


def test_weights_of_a_version_deleted_during_the_read_are_unknown_and_not_corrupt(
    store: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, [1], 1.0)
    get = store._blobs.get

    def deleted_first(space: str, digest: str) -> bytes:
        store.delete_version(CLIENT, 1)
        return get(space, digest)

    monkeypatch.setattr(store._blobs, "get", deleted_first)
    with pytest.raises(UnknownVersion, match="deleted"):
        store.weights_content(CLIENT, 1)


def test_a_repeated_request_is_recognised_after_a_restart(store: VersionStore, folder: Path) -> None:
    key = Idempotency("key-1", digest_of("body"))
    first = store.publish(draft_of(store, [1]), [LIVE], key)
    store.close()
    with open_embedded(folder) as reopened:
        again = reopened.catalog.recall(CLIENT, key)
    assert again is not None
    assert (again.version, again.moves, again.live, again.replayed) == (first.version, first.moves, first.live, True)


def test_only_the_user_of_the_service_can_read_the_store(store: VersionStore, folder: Path) -> None:
    store.ping()
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "blobs").stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_created_is_rejected_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file stands here")
    with pytest.raises(StoreUnavailable, match="name another one, or change its owner"):
        open_embedded(tmp_path / "taken" / "data")


def test_a_folder_of_another_user_is_rejected_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(dir: Path) -> None:  # noqa: A002 - the library's word
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(dir))

    monkeypatch.setattr("tempfile.TemporaryFile", fail)
    with pytest.raises(StoreUnavailable, match=r"Permission denied.*may write to"):
        open_embedded(tmp_path)


def test_a_folder_with_another_database_is_rejected(folder: Path, store: VersionStore) -> None:
    store.close()
    other = folder.parent / "other"
    other.mkdir()
    (other / "catalog.sqlite3").write_bytes(b"no database at all" * 400)
    with pytest.raises(StoreUnavailable, match="damaged") as caught:
        open_embedded(other)
    assert not isinstance(caught.value, StoreIncompatible)


def test_a_reference_is_read_once_between_two_commits(store: VersionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(store, [1], aliases=[LIVE])
    reads: list[tuple[str, str | int]] = []
    served = store.catalog.served

    def counting(client: str, reference: str | int) -> ServedVersion:
        reads.append((client, reference))
        return served(client, reference)

    monkeypatch.setattr(store.catalog, "served", counting)
    first = store.served([(CLIENT, LIVE), (CLIENT, LIVE), ("unknown", LIVE), (CLIENT, 1)])
    assert sorted(map(str, reads)) == sorted(map(str, [(CLIENT, LIVE), (CLIENT, 1), ("unknown", LIVE)]))
    assert first[0] == first[1] == first[3]
    assert isinstance(first[2], UnknownClient)
    again = store.served([(CLIENT, LIVE), ("unknown", LIVE)])
    assert again[0] == first[0]
    assert reads.count((CLIENT, LIVE)) == 1
    assert reads.count(("unknown", LIVE)) == 2  # errors are not remembered
    store.catalog.move_alias(CLIENT, "other", 1, expected_revision=None)
    store.served([(CLIENT, LIVE)])
    assert reads.count((CLIENT, LIVE)) == 2


def test_a_commit_during_a_read_is_seen_by_the_next_read(store: VersionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(store, [1], aliases=[LIVE])
    publish(store, [2])
    moves = iter([2])
    served = store.catalog.served

    def moved_afterwards(client: str, reference: str | int) -> ServedVersion:
        found = served(client, reference)
        for number in moves:
            store.catalog.move_alias(CLIENT, LIVE, number, expected_revision=None)
        return found

    monkeypatch.setattr(store.catalog, "served", moved_afterwards)
    (during,), (after,) = (store.served([(CLIENT, LIVE)]) for _ in range(2))
    assert isinstance(during, ServedVersion)
    assert isinstance(after, ServedVersion)
    assert (during.number, after.number) == (1, 2)


def test_a_slow_read_does_not_replace_what_a_later_read_remembers(
    store: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, [1], aliases=[LIVE])
    publish(store, [2])
    served, moves = store.catalog.served, iter([2])

    def overtaken(client: str, reference: str | int) -> ServedVersion:
        found = served(client, reference)
        for number in moves:
            store.catalog.move_alias(CLIENT, LIVE, number, expected_revision=None)
            store.served([(CLIENT, LIVE)])
        return found

    monkeypatch.setattr(store.catalog, "served", overtaken)
    store.served([(CLIENT, LIVE)])
    (after,) = store.served([(CLIENT, LIVE)])
    assert isinstance(after, ServedVersion)
    assert after.number == 2


def test_weights_of_a_deleted_client_are_not_those_of_its_successor(store: VersionStore) -> None:
    publish(store, [1], 1.0, [LIVE])
    (served,) = store.served([(CLIENT, LIVE)])
    assert isinstance(served, ServedVersion)
    assert torch.equal(store.served_weights(served)["head.bias"], torch.ones(2))
    store.delete_client(CLIENT)
    with pytest.raises(UnknownClient):
        store.served_weights(served)
    publish(store, [1], 2.0, [LIVE])
    with pytest.raises(UnknownVersion, match="deleted"):
        store.served_weights(served)


def test_deleting_a_client_again_deletes_what_a_killed_process_left(store: VersionStore) -> None:
    publish(store, [1])
    store.delete_client(CLIENT)
    store.put_weights(CLIENT, {"head.weight": torch.zeros(2)}, {})
    erased = store.delete_client(CLIENT)
    assert (erased.versions, erased.blobs) == (0, 1)
    with pytest.raises(UnknownClient):
        store.delete_client(CLIENT)


def test_a_client_is_deleted_on_a_full_disk(store: VersionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows can be deleted once the blobs have made room."""
    publish(store, [1])
    delete = store.catalog.delete_client
    needed = store.catalog.version(CLIENT, 1).draft.required_blobs

    def on_full_disk(client: str) -> int:
        if any(store._blobs.entries(client)):
            raise StoreFull("no space left for the catalog")
        return delete(client)

    monkeypatch.setattr(store.catalog, "delete_client", on_full_disk)
    erased = store.delete_client(CLIENT)
    assert (erased.versions, erased.blobs) == (1, len(needed))
    assert store.catalog.clients() == ()
