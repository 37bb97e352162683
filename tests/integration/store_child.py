"""Functions that other processes run on a store in tests: publish, delete, collect.

The processes are forked from one that has imported everything, so they start quickly.
"""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from service.domain.version import LIVE, SampleRef, VersionDraft
from service.errors import StoreUnavailable, UnknownVersion, VersionInUse
from service.store.open_store import StoreLocation, open_embedded, open_store
from service.store.version_store import VersionStore, encode_sample

CLIENT = "line-1"
SHADES = 6
"""Number of different samples and weights: few, so that removed or incomplete blobs are soon written again."""


def publish(store: VersionStore, i: int, *, client: str = CLIENT, aliases: Sequence[str] = (LIVE,)) -> tuple[int, int]:
    """Store two samples and weights that many publishes share; return the version's number and the alias's revision."""
    torch.set_num_threads(1)
    images = [torch.full((1, 48, 48), (i + k) % SHADES, dtype=torch.uint8) for k in range(2)]
    samples = tuple(
        SampleRef(digest, "dent", "part.png") for digest in store.put_samples(client, list(map(encode_sample, images)))
    )
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


def publish_many(place: Path | StoreLocation, count: int, acknowledge: Connection) -> None:
    """Publish and report each number; repeat a publish whose samples were deleted in the meantime."""
    with open_store(place if isinstance(place, StoreLocation) else StoreLocation(place)) as store:
        made = 0
        while made < count:
            try:
                acknowledge.send(publish(store, made)[0])
                made += 1
            except StoreUnavailable as error:
                if "send the request again" not in str(error) and "deleted in the meantime" not in str(error):
                    raise
    acknowledge.close()


def delete_and_collect(folder: Path, rounds: int, acknowledge: Connection) -> None:
    """Repeatedly delete every version that can be deleted and collect without grace; report every deleted number."""
    with open_embedded(folder) as store:
        for _ in range(rounds):
            for version in store.catalog.versions(CLIENT) if store.catalog.lineage(CLIENT).base else ():
                try:
                    store.delete_version(CLIENT, version.number)
                    acknowledge.send(version.number)
                except (VersionInUse, UnknownVersion):
                    continue
            store.collect(grace_s=0.0)
    acknowledge.close()
