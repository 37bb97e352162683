"""What is done to a store until it dies: steps of every kind, their choice from a generator, and how each is done.

A step comes to a number: the version that it made, went back to or read, the revision of a move, or 0. What must be
refused comes to 0 when it was, and a collection to the leftovers that it left: ``book.py`` tells right from wrong.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from models.errors import AnoleError
from service.domain.client import ClientSettings
from service.domain.version import LIVE, Idempotency, SampleRef, VersionDraft
from service.errors import AliasConflict, NothingToRollBackTo, StoreUnavailable, UnknownAlias, VersionCorrupt
from service.store.open_store import BLOBS_FOLDER
from service.store.tensor_bytes import to_bytes
from service.store.version_store import VersionStore, encode_sample
from tests.crash.book import CANARY, Book, Page, Step

CLIENTS: Final = ("line-1", "line-2")
KEPT: Final = 3
SHADES: Final = 5
"""Few different samples and weights, so that what was removed or torn is soon written again under its old name."""
OWN: Final = 1_000_000
"""From this number on a publish has samples and weights that no other has."""
UNFINISHED: Final = ".unfinished-"

KINDS: Final = {
    "publish": 6, "keyed": 5, "read": 2, "roll_back": 3, "move": 2, "stale": 1, "delete": 3, "settings": 1,
    "collect": 3, "abandon": 1, "cut_short": 1, "overtaken": 1, "patient": 1, "decay": 1, "erase": 1,
}  # fmt: skip
"""Every kind of step, and how often it is drawn beside the others."""

EVERY_KIND: Final = (
    "publish", "cut_short", "keyed", "publish", "roll_back", "stale", "move", "abandon", "collect", "keyed", "delete",
    "decay", "patient", "overtaken", "settings", "keyed", "collect", "publish", "roll_back", "read", "erase", "publish",
    "collect",
)  # fmt: skip
"""A short life in which every kind of step comes."""


def choose(kind: str, book: Book, i: int, client: str) -> Step | None:
    """A step of that kind, or None where the book has nothing to do it to."""
    page = book.get(client, Page())
    loose = [number for number in page.numbers() if number not in page.held()]
    if kind in ("patient", "overtaken", "decay", "abandon"):
        return Step(kind, client, OWN + i)
    if kind in ("publish", "keyed"):
        return Step(kind, client, i)
    if kind == "settings":
        return Step(kind, client, version=0 if page.keep_last else KEPT)
    if kind == "collect":
        return Step(kind, client)
    if kind == "delete":
        return Step(kind, client, version=loose[0]) if loose else None
    if not page.versions:
        return None
    if kind == "cut_short":
        return Step(kind, client, i)
    return Step(kind, client, version=page.numbers()[-1])


def draw(generator: np.random.Generator, book: Book, i: int) -> Step:
    """Any step that can be done now."""
    chances = np.array(list(KINDS.values())) / sum(KINDS.values())
    while True:
        kind = str(generator.choice(list(KINDS), p=chances))
        client = CLIENTS[int(generator.random() < (0.9 if kind == "erase" else 0.3))]
        step = choose(kind, book, i, client)
        if step is not None:
            return step


@functools.cache
def payload(i: int) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Two samples, each uint8 (1, 24, 24), and weights, of which one in `SHADES` is the same."""
    shade = i if i >= OWN else i % SHADES
    images = tuple(
        torch.tensor([shade >> 16, shade >> 8 & 255, shade & 255, k], dtype=torch.uint8).repeat(144).reshape(1, 24, 24)
        for k in range(2)
    )
    return images, {"head.weight": torch.full((40, 40), float(shade))}


@functools.cache
def weights_digest(i: int) -> str:
    """The digest of the weights that a publish of that number stores."""
    return hashlib.sha256(to_bytes(payload(i)[1], {"kind": "delta"})).hexdigest()


def perform(store: VersionStore, folder: Path, step: Step) -> int:
    """Do the step to the store in `folder` and say what it came to."""
    return _DOING[step.kind](store, folder, step)


Stored = tuple[Sequence[str], str, int]
"""The digests of two samples; the digest of weights and their size."""


def _stored(store: VersionStore, step: Step) -> Stored:
    images, weights = payload(step.i)
    return store.put_samples(step.client, list(map(encode_sample, images))), *store.put_weights(
        step.client, weights, {"kind": "delta"}
    )


def _publish(store: VersionStore, step: Step, stored: Stored) -> int:
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
    return store.publish(draft, (LIVE,), key).version.number


def _published(store: VersionStore, _folder: Path, step: Step) -> int:
    return _publish(store, step, _stored(store, step))


def _patient(store: VersionStore, _folder: Path, step: Step) -> int:
    """A collection that comes between blob and row leaves young blobs alone."""
    stored = _stored(store, step)
    store.collect()
    return _publish(store, step, stored)


def _overtaken(store: VersionStore, _folder: Path, step: Step) -> int:
    """A collection without grace does not; then there must be no row."""
    stored = _stored(store, step)
    store.collect(grace_s=0.0)
    try:
        return _publish(store, step, stored)
    except StoreUnavailable:
        return 0


def _abandoned(store: VersionStore, folder: Path, step: Step) -> int:
    """What a death between blob and row leaves, and one within a blob."""
    _stored(store, step)
    (folder / BLOBS_FOLDER / step.client / f"{UNFINISHED}cut-off").write_bytes(b"half")
    return 0


def _cut_short(_store: VersionStore, folder: Path, step: Step) -> int:
    """What a death between renames of blobs and the sync of their folder leaves; the next publish needs these blobs."""
    space = folder / BLOBS_FOLDER / step.client
    images, weights = payload(step.i + 1)
    for content in (*(to_bytes({"image": image}) for image in images), to_bytes(weights, {"kind": "delta"})):
        handle = os.open(space / f"{UNFINISHED}renamed", os.O_CREAT | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(handle)
        os.replace(space / f"{UNFINISHED}renamed", space / hashlib.sha256(content).hexdigest())
    return 0


def _decayed(store: VersionStore, folder: Path, step: Step) -> int:
    """Bytes change on the disk: that is found, and the same content put again is whole and can be published."""
    _, digest, _ = _stored(store, step)
    blob = folder / BLOBS_FOLDER / step.client / digest
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    try:
        store.weights(step.client, digest)
    except VersionCorrupt:
        return _publish(store, step, _stored(store, step))
    return -1


def _read(store: VersionStore, _folder: Path, step: Step) -> int:
    (served,) = store.served([(step.client, LIVE)])
    if isinstance(served, AnoleError):
        raise served
    version = store.version(step.client, served.number)
    found = store.weights(step.client, version.draft.weights_digest)
    wanted = payload(version.draft.seed)[1]
    return version.number if all(torch.equal(found[name], wanted[name]) for name in wanted) else -1


def _moved(store: VersionStore, _folder: Path, step: Step) -> int:
    expected = _revision(store, step.client, CANARY)
    return store.move_alias(step.client, CANARY, step.version, expected_revision=expected).revision


def _stale(store: VersionStore, _folder: Path, step: Step) -> int:
    try:
        expected = _revision(store, step.client, CANARY) + 1
        return store.move_alias(step.client, CANARY, step.version, expected_revision=expected).revision
    except AliasConflict:
        return 0


def _rolled_back(store: VersionStore, _folder: Path, step: Step) -> int:
    try:
        return store.roll_back(step.client, LIVE).version
    except NothingToRollBackTo:
        return 0


def _deleted(store: VersionStore, _folder: Path, step: Step) -> int:
    store.delete_version(step.client, step.version)
    return 0


def _update_settings(store: VersionStore, _folder: Path, step: Step) -> int:
    store.update_settings(step.client, ClientSettings(keep_last=step.version or None))
    return 0


def _collected(store: VersionStore, folder: Path, _step: Step) -> int:
    """The leftovers that the collection left."""
    store.collect(grace_s=0.0)
    return sum(1 for _ in (folder / BLOBS_FOLDER).glob(f"*/{UNFINISHED}*"))


def _erased(store: VersionStore, _folder: Path, step: Step) -> int:
    store.delete_client(step.client)
    return 0


def _revision(store: VersionStore, client: str, alias: str) -> int:
    try:
        return store.alias(client, alias).revision
    except UnknownAlias:
        return 0


_DOING: Final[dict[str, Callable[[VersionStore, Path, Step], int]]] = {
    "publish": _published, "keyed": _published, "patient": _patient, "overtaken": _overtaken, "abandon": _abandoned,
    "cut_short": _cut_short,
    "decay": _decayed, "read": _read, "move": _moved, "stale": _stale, "roll_back": _rolled_back, "delete": _deleted,
    "settings": _update_settings, "collect": _collected, "erase": _erased,
}  # fmt: skip
