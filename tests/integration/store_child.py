"""What other processes do to a store in the tests: publish, delete, collect, and die at a chosen moment.

The functions run in processes forked from one that has imported everything, so that a test can afford many of them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from sqlalchemy.engine.default import DefaultDialect

from service.domain import LIVE, SampleRef, VersionDraft
from service.errors import StoreUnavailable, UnknownVersion, VersionInUse
from service.store.open_store import Place, open_embedded, open_store
from service.store.weight_store import WeightStore

CLIENT = "line-1"
Told = tuple[str, int, int]
"""What happened, the number of the version it happened to, and the revision of the alias if that was moved."""

SHADES = 6
"""Few different samples and weights, so that what was removed or torn is soon written again under its old name."""


def publish(store: WeightStore, i: int, *, client: str = CLIENT, aliases: Sequence[str] = (LIVE,)) -> tuple[int, int]:
    """Store two samples and weights that many publishes share; return the version's number and the alias's revision."""
    torch.set_num_threads(1)
    images = [torch.full((1, 48, 48), (i + k) % SHADES, dtype=torch.uint8) for k in range(2)]
    samples = tuple(SampleRef(digest, "dent", "part.png") for digest in store.put_samples(client, images))
    weights = {"head.weight": torch.full((40, 40), float(i % SHADES))}
    digest, size_bytes = store.put_weights(client, weights, {"kind": "delta"})
    draft = VersionDraft(
        client=client,
        parent=None,
        classes=("dent", "scratch"),
        samples=samples,
        meta_model="surfaces",
        meta_model_digest="0" * 64,
        recipe={"steps": 1},
        seed=i,
        weights_digest=digest,
        weights_bytes=size_bytes,
        device="cpu",
        batched_with=0,
    )
    made = store.publish(draft, aliases)
    return made.version.number, made.moves[0].revision if made.moves else 0


def publish_many(place: Path | Place, count: int, acknowledge: Connection) -> None:
    """Publish, and acknowledge each number; a publish whose samples were deleted under it is repeated."""
    with open_store(place if isinstance(place, Place) else Place(place)) as store:
        made = 0
        while made < count:
            try:
                acknowledge.send(publish(store, made)[0])
                made += 1
            except StoreUnavailable as error:
                if "send the request again" not in str(error) and "deleted meanwhile" not in str(error):
                    raise
    acknowledge.close()


def delete_and_collect(folder: Path, rounds: int, acknowledge: Connection) -> None:
    """Delete what can be deleted and collect without grace, over and over; acknowledge every deleted number."""
    with open_embedded(folder) as store:
        for _ in range(rounds):
            for version in store.versions(CLIENT) if store.base(CLIENT) else ():
                try:
                    store.delete_version(CLIENT, version.number)
                    acknowledge.send(version.number)
                except (VersionInUse, UnknownVersion):
                    continue
            store.collect(grace_s=0.0)
    acknowledge.close()


def live_on(folder: Path, start: int, acknowledge: Connection) -> None:
    """Everything a store is asked to do, until killed; what was done is sent, and what is about to be deleted."""
    with open_embedded(folder) as store:
        i = start
        while True:
            acknowledge.send(("published", *publish(store, i)))
            live = store.alias(CLIENT, LIVE)
            if i % 3 == 0:
                acknowledge.send(("moved", live.version, store.roll_back(CLIENT, LIVE).revision))
            if i % 4 == 0:
                oldest = store.versions(CLIENT)[0].number
                if oldest != store.alias(CLIENT, LIVE).version:
                    acknowledge.send(("deleting", oldest, 0))
                    store.delete_version(CLIENT, oldest)
            if i % 5 == 0:
                store.collect(grace_s=0.0)
            i += 1


def publish_new(store: WeightStore) -> Told:
    """Samples and weights of which some are there and some are not."""
    return "published", *publish(store, 3)


def publish_again(store: WeightStore) -> Told:
    """Samples and weights that are all there."""
    return "published", *publish(store, 1)


def publish_first(store: WeightStore) -> Told:
    """The first version of another client."""
    publish(store, 1, client="line-2")
    return "other", 1, 1


def roll_back(store: WeightStore) -> Told:
    """One alias move."""
    return "moved", 2, store.roll_back(CLIENT, LIVE).revision


def delete_version(store: WeightStore) -> Told:
    """The oldest version and what it alone needs."""
    store.delete_version(CLIENT, 1)
    return "deleted", 1, 0


def delete_client(store: WeightStore) -> Told:
    """All of it."""
    store.delete_client(CLIENT)
    return "erased", 0, 0


def collect(store: WeightStore) -> Told:
    """The blobs that a version left unpublished."""
    store.collect(grace_s=0.0)
    return "collected", 0, 0


OPERATIONS: dict[str, Callable[[WeightStore], Told]] = {
    function.__name__: function
    for function in (publish_new, publish_again, publish_first, roll_back, delete_version, delete_client, collect)
}


def killed_at(folder: Path, acknowledge: Connection, operation: str, call: int) -> None:
    """Open the store, do the operation, and die right before the write-like call of that number (from 1)."""
    calls = 0

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **named)

        return counted

    os.fsync = dying(os.fsync)
    for name in ("replace", "unlink", "mkdir", "rmdir"):
        setattr(Path, name, dying(getattr(Path, name)))
    DefaultDialect.do_commit = dying(DefaultDialect.do_commit)  # type: ignore[method-assign]
    with open_embedded(folder) as store:
        acknowledge.send(OPERATIONS[operation](store))
