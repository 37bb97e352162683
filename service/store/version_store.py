"""The store: samples and weights as blobs, versions and aliases as rows, and the order in which they are written.

Blobs first, each durable; then, in one transaction, a look that they are all still there, the version's row and its
aliases. A kill at any point leaves blobs that nothing needs and never a row without its blobs; `collect` removes them.
Removal, in ``upkeep.py``, goes the other way round.

Knows no SQL, no file system, no net and no recipe.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from torch import Tensor

from service.domain.client import ClientSettings, ClientSummary
from service.domain.maintenance import BackupReport, CheckReport, CollectReport, Erasure
from service.domain.version import LIVE, AliasMove, Idempotency, Publication, ServedVersion, Version, VersionDraft
from service.errors import StoreUnavailable, UnknownAlias, UnknownClient, VersionCorrupt
from service.store import backup, upkeep
from service.store.needs import needed_by
from service.store.ports import Blobs, Catalog
from service.store.tensor_bytes import from_bytes, to_bytes
from service.store.upkeep import GRACE_S

_IMAGE: Final = "image"


class VersionStore:
    """A catalog and its blobs. Safe from any number of threads; what it returned from is durable."""

    def __init__(self, catalog: Catalog, blobs: Blobs) -> None:
        self._catalog = catalog
        self._blobs = blobs

    def put_samples(self, client: str, images: Sequence[Tensor]) -> tuple[str, ...]:
        """Store canonical images, each uint8 (channels, height, width), and return their digests in order.

        Raises:
            StoreFull, StoreUnavailable: see `Blobs.put`.
        """
        return self._blobs.put(client, [to_bytes({_IMAGE: image}) for image in images])

    @staticmethod
    def sample_digest(image: Tensor) -> str:
        """The digest that `put_samples` will give an image, without storing it."""
        return hashlib.sha256(to_bytes({_IMAGE: image})).hexdigest()

    def sample(self, client: str, digest: str) -> Tensor:
        """A stored image, uint8 (channels, height, width).

        Raises:
            VersionCorrupt: missing or damaged.
            StoreUnavailable: it could not be read.
        """
        tensors = from_bytes(self._blobs.get(client, digest))
        if _IMAGE not in tensors:
            raise VersionCorrupt(f"blob {digest} of {client!r} holds no image but {', '.join(sorted(tensors))}")
        return tensors[_IMAGE]

    def put_weights(self, client: str, delta: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[str, int]:
        """Store what differs from the meta-model; the same delta and metadata give the same bytes.

        Returns:
            The blob's digest and its size in bytes.

        Raises:
            StoreFull, StoreUnavailable: see `Blobs.put`.
        """
        content = to_bytes(delta, metadata)
        return self._blobs.put(client, [content])[0], len(content)

    def weights(self, client: str, digest: str) -> dict[str, Tensor]:
        """The stored delta, by name, on the CPU. Raises as `sample` does."""
        return from_bytes(self._blobs.get(client, digest))

    def weights_content(self, client: str, number: int) -> tuple[Version, bytes]:
        """A version and its stored weights as they are, safetensors bytes.

        Raises:
            UnknownClient, UnknownVersion: also where it is deleted while it is being read.
            VersionCorrupt: missing or damaged.
        """
        version = self._catalog.version(client, number)
        try:
            return version, self._blobs.get(client, version.draft.weights_digest)
        except VersionCorrupt:
            self._catalog.version(client, number)  # deleted since: then its weights are rightly gone
            raise

    def version_weights(self, version: Version) -> dict[str, Tensor]:
        """A version's stored delta, by name, on the CPU; raises as `weights_content` does."""
        return from_bytes(self.weights_content(version.draft.client, version.number)[1])

    def base(self, client: str) -> Version | None:
        """The version that an extension builds on: the live one, else the latest; None if there is none."""
        try:
            return self._catalog.version(client, self._catalog.alias(client, LIVE).version)
        except UnknownClient:
            return None
        except UnknownAlias:
            return self._catalog.latest(client)

    def publish(
        self,
        draft: VersionDraft,
        aliases: Sequence[str],
        idempotency: Idempotency | None = None,
        *,
        extends: bool = False,
    ) -> Publication:
        """Record a version whose blobs are stored, and move `aliases` to it; see `Catalog.publish`.

        Raises:
            ParentSuperseded: the draft `extends` its parent, and that is no longer `base`; nothing was recorded.
            IdempotencyMismatch: the key is recorded with another body.
            StoreUnavailable: nothing was recorded; also where a blob was deleted since it was stored.
        """

        def guard() -> None:
            lost = self._blobs.missing(draft.client, needed_by(draft))
            if lost:
                raise StoreUnavailable(
                    f"{len(lost)} stored samples or weights of {draft.client!r} were deleted while the version was "
                    "being made; nothing was recorded; send the request again"
                )

        made = self._catalog.publish(draft, aliases, guard=guard, idempotency=idempotency, extends=extends)
        if draft.samples_kept and not made.version.draft.samples_kept:  # the client chose so since they were stored
            with self._catalog.holding(draft.client) as needed:
                self._blobs.delete(draft.client, needed_by(draft) - needed)
        return made

    def recall(self, client: str, idempotency: Idempotency) -> Publication | None:
        """See `Catalog.recall`."""
        return self._catalog.recall(client, idempotency)

    def clients(self) -> tuple[ClientSummary, ...]:
        """See `Catalog.clients`."""
        return self._catalog.clients()

    def client(self, client: str) -> ClientSummary:
        """See `Catalog.client`."""
        return self._catalog.client(client)

    def version(self, client: str, number: int) -> Version:
        """See `Catalog.version`."""
        return self._catalog.version(client, number)

    def served(self, client: str, reference: str | int) -> ServedVersion:
        """See `Catalog.served`."""
        return self._catalog.served(client, reference)

    def revision(self) -> int | None:
        """See `Catalog.revision`."""
        return self._catalog.revision()

    def versions(self, client: str) -> tuple[Version, ...]:
        """See `Catalog.versions`."""
        return self._catalog.versions(client)

    def alias(self, client: str, alias: str) -> AliasMove:
        """See `Catalog.alias`."""
        return self._catalog.alias(client, alias)

    def history(self, client: str, *, at: datetime | None = None) -> tuple[AliasMove, ...]:
        """See `Catalog.history`."""
        return self._catalog.history(client, at=at)

    def move_alias(self, client: str, alias: str, version: int, *, expected_revision: int | None) -> AliasMove:
        """See `Catalog.move_alias`; the reason is "set"."""
        return self._catalog.move_alias(client, alias, version, expected_revision=expected_revision, reason="set")

    def roll_back(self, client: str, alias: str, *, expected_revision: int | None = None) -> AliasMove:
        """See `Catalog.roll_back`."""
        return self._catalog.roll_back(client, alias, expected_revision=expected_revision)

    def delete_version(self, client: str, number: int) -> None:
        """Delete a version and, at once, its samples and weights that no other version of the client needs.

        An adaptation that was about to publish with one of them fails with StoreUnavailable and can be repeated.

        Raises:
            UnknownClient, UnknownVersion, VersionInUse.
        """
        upkeep.delete_version(self._catalog, self._blobs, client, number)

    def delete_client(self, client: str) -> Erasure:
        """Delete a client: its rows, then at once everything stored for it, finished or not.

        Raises:
            UnknownClient.
        """
        return upkeep.erase(self._catalog, self._blobs, client)

    def settings(self, client: str) -> ClientSettings:
        """What the client chose, or the defaults. Raises UnknownClient."""
        return self._catalog.settings(client)

    def update_settings(self, client: str, settings: ClientSettings) -> None:
        """Replace what the client chose; makes the client if there is none.

        Settings that retain no samples erase at once all that are stored for the client, published or not. An
        adaptation that was about to publish with one of them fails with StoreUnavailable and can be repeated.
        """
        self._catalog.update_settings(client, settings)
        if not settings.retain_samples:
            upkeep.collect_space(self._catalog, self._blobs, client, grace_s=0.0)

    def collect(self, *, grace_s: float = GRACE_S) -> CollectReport:
        """Let go of versions beyond what their clients keep; remove what no row needs and is older than `grace_s`."""
        return upkeep.collect(self._catalog, self._blobs, grace_s=grace_s)

    def check(self) -> CheckReport:
        """Read and verify every blob that a version needs, and ask the catalog for its own problems."""
        return upkeep.check(self._catalog, self._blobs)

    def back_up(self, folder: Path) -> BackupReport:
        """Make a backup in `folder`, or bring the one there up to now, while the store is used; see ``backup.py``.

        Raises:
            VersionCorrupt: the catalog is damaged; a backup that is there stays as it was.
            StoreUnavailable: the folder or the store cannot be used.
        """
        return backup.back_up(self._catalog, self._blobs, folder)

    def restore(self, folder: Path) -> BackupReport:
        """Fill this store, which must be empty, with the backup in `folder`.

        Raises:
            InvalidRequest: it is not empty, or the folder holds no backup.
            VersionCorrupt: the backup is damaged; nothing was recorded.
            StoreUnavailable: the folder or the store cannot be used.
        """
        return backup.restore(self._catalog, self._blobs, folder)

    def ping(self) -> None:
        """Raises StoreUnavailable unless catalog and blobs can be used."""
        self._catalog.ping()
        self._blobs.ping()

    def close(self) -> None:
        """Let go of the catalog's connections; the store is not used afterwards."""
        self._catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
