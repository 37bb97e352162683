"""The steps that processes perform on a store until they are killed: their kinds, how they are chosen and performed.

A step returns a number: the version that it made, restored or read, or the revision of a move. A step that must be
rejected returns 0 if it was. A collection returns the number of leftovers that remain. ``model.py`` checks the numbers.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Final

import numpy as np
import torch
from torch import Tensor

from models.errors import AnoleError
from service.domain.client import ClientSettings
from service.domain.job import Origin
from service.domain.version import LIVE, Idempotency, SampleRef, VersionDraft
from service.errors import (
    AliasConflict,
    ClientDeleted,
    NothingToRollBackTo,
    StoreUnavailable,
    UnknownAlias,
    VersionCorrupt,
)
from service.store.open_store import BLOBS_FOLDER, StoreLocation
from service.store.tensor_bytes import to_bytes
from service.store.version_store import VersionStore, encode_sample
from tests.crash.model import CANARY, ClientState, State, Step
from tests.crash.stores import blob_names, read_blob, write_blob

CLIENTS: Final = ("line-1", "line-2")
KEEP_LAST: Final = 3
SHADES: Final = 5
"""Number of different samples and weights: few, so that removed or incomplete blobs are soon written again."""
FIRST_UNIQUE: Final = 1_000_000
"""From this number on, each publish has samples and weights of its own."""
UNFINISHED: Final = ".unfinished-"
BACKUP_FOLDER: Final = "backup"
"""Folder of the backup, in that of the store."""
IN_FOLDERS_ONLY: Final = frozenset({"unsynced_rename"})
"""Kinds of steps for which the blobs must be files."""

KINDS: Final = {
    "publish": 6,
    "keyed": 5,
    "read": 2,
    "roll_back": 3,
    "move": 2,
    "stale": 1,
    "delete": 3,
    "settings": 1,
    "collect": 3,
    "abandoned_write": 1,
    "unsynced_rename": 1,
    "collected_blobs": 1,
    "collect_between": 1,
    "damaged_blob": 1,
    "delete_client": 1,
    "deleted_between": 1,
    "backup": 1,
}
"""Every kind of step, and its relative frequency among random steps."""

EVERY_KIND: Final = (
    "publish", "unsynced_rename", "keyed", "publish", "roll_back", "stale", "move", "abandoned_write", "collect",
    "keyed", "delete", "damaged_blob", "collect_between", "collected_blobs", "settings", "keyed", "collect",
    "backup", "publish", "roll_back", "read", "delete_client", "publish", "collect", "backup", "deleted_between",
    "publish", "backup",
)  # fmt: skip
"""A short run with every kind of step."""


def choose(kind: str, state: State, i: int, client: str) -> Step | None:
    """Return a step of that kind, or None if it is not possible in this state."""
    client_state = state.get(client, ClientState())
    unaliased = [number for number in client_state.numbers() if number not in client_state.aliased()]
    if kind == "deleted_between" and not client_state.versions:
        return None
    if kind in ("collect_between", "collected_blobs", "damaged_blob", "abandoned_write", "deleted_between"):
        return Step(kind, client, FIRST_UNIQUE + i)
    if kind in ("publish", "keyed"):
        return Step(kind, client, i)
    if kind == "settings":
        return Step(kind, client, version=0 if client_state.keep_last else KEEP_LAST)
    if kind in ("collect", "backup"):
        return Step(kind, client)
    if kind == "delete":
        return Step(kind, client, version=unaliased[0]) if unaliased else None
    if not client_state.versions:
        return None
    if kind == "unsynced_rename":
        return Step(kind, client, i)
    return Step(kind, client, version=client_state.numbers()[-1])


def draw(generator: np.random.Generator, state: State, i: int, kinds: Collection[str] = KINDS) -> Step:
    """Return a random step of one of the kinds that is possible in this state."""
    frequencies = np.array([KINDS[kind] for kind in kinds])
    while True:
        kind = str(generator.choice(list(kinds), p=frequencies / frequencies.sum()))
        client = CLIENTS[int(generator.random() < (0.9 if kind == "delete_client" else 0.3))]
        step = choose(kind, state, i, client)
        if step is not None:
            return step


@functools.cache
def payload(i: int) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Return two samples, each uint8 (1, 24, 24), and weights; below `FIRST_UNIQUE` they repeat after `SHADES`."""
    shade = i if i >= FIRST_UNIQUE else i % SHADES
    images = tuple(
        torch.tensor([shade >> 16, shade >> 8 & 255, shade & 255, k], dtype=torch.uint8).repeat(144).reshape(1, 24, 24)
        for k in range(2)
    )
    return images, {"head.weight": torch.full((40, 40), float(shade))}


@functools.cache
def weights_digest(i: int) -> str:
    """Return the digest of the weights that a publish of that number stores."""
    return hashlib.sha256(to_bytes(payload(i)[1], {"kind": "delta"})).hexdigest()


def perform(store: VersionStore, location: StoreLocation, step: Step) -> int:
    """Perform the step on the store at `location` and return its result."""
    return _PERFORM[step.kind](store, location, step)


StoredBlobs = tuple[Sequence[str], str, int]
"""The digests of two samples; the digest of the weights and their size in bytes."""


def _store_blobs(store: VersionStore, step: Step) -> StoredBlobs:
    images, weights = payload(step.i)
    return store.put_samples(step.client, list(map(encode_sample, images))), *store.put_weights(
        step.client, weights, {"kind": "delta"}
    )


def _publish(store: VersionStore, step: Step, stored: StoredBlobs, client_created_at: datetime | None = None) -> int:
    samples, digest, size_bytes = stored
    draft = VersionDraft(
        client=step.client,
        parent=None,
        classes=("dent", "scratch"),
        samples=tuple(SampleRef(sample, "dent", "part.png") for sample in samples),
        meta_model="surfaces",
        meta_model_digest="0" * 64,
        recipe={"steps": 1},
        seed=step.i,
        weights_digest=digest,
        weights_bytes=size_bytes,
        device="cpu",
        batched_with=0,
    )
    key = Idempotency(f"request-{step.i}", digest) if step.kind == "keyed" else None
    if client_created_at is None:
        return store.publish(draft, (LIVE,), key).version.number
    return store.publish(draft, (LIVE,), origin=Origin(client_created_at)).version.number


def _publish_version(store: VersionStore, _location: StoreLocation, step: Step) -> int:
    return _publish(store, step, _store_blobs(store, step))


def _publish_after_collection(store: VersionStore, _location: StoreLocation, step: Step) -> int:
    """Collect between blobs and row: the new blobs must stay."""
    stored = _store_blobs(store, step)
    store.collect()
    return _publish(store, step, stored)


def _publish_collected_blobs(store: VersionStore, _location: StoreLocation, step: Step) -> int:
    """Collect without grace between blobs and row: the blobs go, so the publish must fail."""
    stored = _store_blobs(store, step)
    store.collect(grace_s=0.0)
    try:
        return _publish(store, step, stored)
    except StoreUnavailable:
        return 0


def _publish_for_deleted_client(store: VersionStore, location: StoreLocation, step: Step) -> int:
    """Delete the client between blobs and row, as beside an adaptation. Return the number of blobs that remain."""
    created_at = store.catalog.created_at(step.client)
    stored = _store_blobs(store, step)
    store.delete_client(step.client)
    again = _store_blobs(store, step)  # the deletion came between the two halves of what the adaptation stores
    try:
        _publish(store, step, again, created_at)
    except ClientDeleted:
        store.discard(step.client, {*stored[0], stored[1]})
    return sum(client == step.client for client, _ in blob_names(location))


def _back_up(store: VersionStore, location: StoreLocation, _step: Step) -> int:
    """Return the number of versions in the backup."""
    return store.back_up(location.folder / BACKUP_FOLDER, replace=True).versions


def _abandon_write(store: VersionStore, location: StoreLocation, step: Step) -> int:
    """Leave what a kill between blobs and row leaves, and what a kill within a blob leaves; objects are never half."""
    _store_blobs(store, step)
    if location.blobs_url is None:
        write_blob(location, step.client, f"{UNFINISHED}interrupted", b"half")
    return 0


def _rename_without_sync(_store: VersionStore, location: StoreLocation, step: Step) -> int:
    """Leave blobs that were renamed without a sync of their folder; the next publish needs them."""
    space = location.folder / BLOBS_FOLDER / step.client
    images, weights = payload(step.i + 1)
    for content in (*(to_bytes({"image": image}) for image in images), to_bytes(weights, {"kind": "delta"})):
        handle = os.open(space / f"{UNFINISHED}renamed", os.O_CREAT | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(handle)
        os.replace(space / f"{UNFINISHED}renamed", space / hashlib.sha256(content).hexdigest())
    return 0


def _repair_damaged_blob(store: VersionStore, location: StoreLocation, step: Step) -> int:
    """Damage a blob on the disk: reading must fail, and storing the same content again must repair it."""
    _, digest, _ = _store_blobs(store, step)
    content = bytearray(read_blob(location, step.client, digest))
    content[-1] ^= 1
    write_blob(location, step.client, digest, bytes(content))
    try:
        store.weights(step.client, digest)
    except VersionCorrupt:
        return _publish(store, step, _store_blobs(store, step))
    return -1


def _read_live_version(store: VersionStore, _location: StoreLocation, step: Step) -> int:
    (served,) = store.served([(step.client, LIVE)])
    if isinstance(served, AnoleError):
        raise served
    version = store.catalog.version(step.client, served.number)
    found = store.weights(step.client, version.draft.weights_digest)
    expected = payload(version.draft.seed)[1]
    return version.number if all(torch.equal(found[name], expected[name]) for name in expected) else -1


def _move_alias(store: VersionStore, _location: StoreLocation, step: Step) -> int:
    expected = _revision(store, step.client, CANARY)
    return store.catalog.move_alias(step.client, CANARY, step.version, expected_revision=expected).revision


def _move_alias_from_stale_revision(store: VersionStore, _location: StoreLocation, step: Step) -> int:
    try:
        expected = _revision(store, step.client, CANARY) + 1
        return store.catalog.move_alias(step.client, CANARY, step.version, expected_revision=expected).revision
    except AliasConflict:
        return 0


def _roll_back(store: VersionStore, _location: StoreLocation, step: Step) -> int:
    try:
        return store.catalog.roll_back(step.client, LIVE).version
    except NothingToRollBackTo:
        return 0


def _delete_version(store: VersionStore, _location: StoreLocation, step: Step) -> int:
    store.delete_version(step.client, step.version)
    return 0


def _update_settings(store: VersionStore, _location: StoreLocation, step: Step) -> int:
    store.update_settings(step.client, ClientSettings(keep_last=step.version or None))
    return 0


def _collect(store: VersionStore, location: StoreLocation, _step: Step) -> int:
    """Return the number of leftovers after the collection."""
    store.collect(grace_s=0.0)
    return sum(name.startswith(UNFINISHED) for _, name in blob_names(location))


def _delete_client(store: VersionStore, _location: StoreLocation, step: Step) -> int:
    store.delete_client(step.client)
    return 0


def _revision(store: VersionStore, client: str, alias: str) -> int:
    try:
        return store.catalog.alias(client, alias).revision
    except UnknownAlias:
        return 0


_PERFORM: Final[dict[str, Callable[[VersionStore, StoreLocation, Step], int]]] = {
    "publish": _publish_version,
    "keyed": _publish_version,
    "collect_between": _publish_after_collection,
    "collected_blobs": _publish_collected_blobs,
    "abandoned_write": _abandon_write,
    "unsynced_rename": _rename_without_sync,
    "damaged_blob": _repair_damaged_blob,
    "read": _read_live_version,
    "move": _move_alias,
    "stale": _move_alias_from_stale_revision,
    "roll_back": _roll_back,
    "delete": _delete_version,
    "settings": _update_settings,
    "collect": _collect,
    "delete_client": _delete_client,
    "deleted_between": _publish_for_deleted_client,
    "backup": _back_up,
}
