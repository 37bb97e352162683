"""The store: samples and weights as blobs, versions and aliases as rows, written in a safe order.

`VersionStore.publish` records a version and makes it live. Its blobs are stored first, durably. Then one transaction
checks that they all still exist and writes the version's row and its aliases. A kill at any point leaves blobs that no
version needs (`collect` removes them), never a row without its blobs. ``maintenance.py`` removes in reverse order.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from models.errors import AnoleError
from service.domain.client import ClientSettings
from service.domain.job import NO_ORIGIN, Origin
from service.domain.version import Idempotency, Publication, ServedVersion, Version, VersionDraft
from service.errors import StoreUnavailable, UnknownVersion, VersionCorrupt
from service.store import backup, maintenance
from service.store.backup import BackupReport
from service.store.catalog.catalog import Catalog
from service.store.maintenance import GRACE_S, CheckReport, CollectReport, Erasure
from service.store.ports import Blobs
from service.store.tensor_bytes import from_bytes, to_bytes

if TYPE_CHECKING:
    from torch import Tensor

Reference = tuple[str, str | int]
"""A client's name, and an alias or a version number."""

_IMAGE: Final = "image"
_MAX_SERVED: Final = 20_000
"""References that are remembered; beyond that all are forgotten."""


@dataclass(frozen=True, slots=True)
class EncodedSample:
    """A canonical image as it is stored, and the SHA-256 (hex) that names it."""

    digest: str
    content: bytes


def encode_sample(image: Tensor) -> EncodedSample:
    """Encode a canonical image, uint8 (channels, height, width)."""
    content = to_bytes({_IMAGE: image})
    return EncodedSample(hashlib.sha256(content).hexdigest(), content)


class VersionStore:
    """A catalog and its blobs. Thread-safe; when a method returns, its writes are durable.

    Attributes:
        catalog: for reads, alias moves and rollbacks. Publish and delete through the store, which handles blobs too.
    """

    def __init__(self, catalog: Catalog, blobs: Blobs) -> None:
        self.catalog = catalog
        self._blobs = blobs
        self._served = _ServedVersions(catalog)

    def put_samples(self, client: str, samples: Sequence[EncodedSample]) -> tuple[str, ...]:
        """Store samples and return their digests, in order.

        Raises:
            StoreFull, StoreUnavailable: see `Blobs.put`.
        """
        return self._blobs.put(client, [sample.content for sample in samples])

    def sample(self, client: str, digest: str) -> Tensor:
        """Return a stored image, uint8 (channels, height, width).

        Raises:
            VersionCorrupt: it is missing or damaged.
            StoreUnavailable: it could not be read.
        """
        tensors = from_bytes(self._blobs.get(client, digest))
        if _IMAGE not in tensors:
            raise VersionCorrupt(
                f"blob {digest} of {client!r} is not an image: it holds the tensors {', '.join(sorted(tensors))}; "
                "restore a backup"
            )
        return tensors[_IMAGE]

    def put_weights(self, client: str, delta: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[str, int]:
        """Store the weights that differ from the checkpoint; equal weights and metadata give equal bytes.

        Returns:
            The blob's digest and its size in bytes.

        Raises:
            StoreFull, StoreUnavailable: see `Blobs.put`.
        """
        content = to_bytes(delta, metadata)
        return self._blobs.put(client, [content])[0], len(content)

    def weights(self, client: str, digest: str) -> dict[str, Tensor]:
        """Return stored weights by name, on the CPU. Raises as `sample` does."""
        return from_bytes(self._blobs.get(client, digest))

    def weights_content(self, client: str, number: int) -> tuple[Version, bytes]:
        """Return a version and its weights as stored, in safetensors format.

        Raises:
            UnknownClient, UnknownVersion: also if it is deleted while it is read.
            VersionCorrupt: the weights are missing or damaged.
        """
        version = self.catalog.version(client, number)
        return version, self._read_weights(client, number, version.draft.weights_digest)

    def served_weights(self, version: ServedVersion) -> dict[str, Tensor]:
        """Return a version's weights by name, on the CPU. Raises as `weights_content` does."""
        return from_bytes(self._read_weights(version.client, version.number, version.weights_digest))

    def _read_weights(self, client: str, number: int, digest: str) -> bytes:
        try:
            return self._blobs.get(client, digest)
        except VersionCorrupt:
            now = self.catalog.version(client, number)  # raises UnknownVersion if it was deleted in the meantime
            if now.draft.weights_digest != digest:
                raise UnknownVersion(f"version {number} of client {client!r} was deleted; try again") from None
            raise

    def publish(
        self,
        draft: VersionDraft,
        aliases: Sequence[str],
        idempotency: Idempotency | None = None,
        *,
        extends: bool = False,
        origin: Origin = NO_ORIGIN,
    ) -> Publication:
        """Record a version whose blobs are stored, and move `aliases` to it; see `Catalog.publish`.

        Raises:
            ParentSuperseded: `extends`, and the draft's parent is no longer the base; nothing was recorded.
            ClientDeleted, ClientExists, JobCancelled, WorkerLost: `origin` does not hold; nothing was recorded.
            IdempotencyMismatch: the key is recorded with another body.
            StoreUnavailable: nothing was recorded; also if a blob was deleted after it was stored.
        """

        def guard() -> None:
            missing = self._blobs.missing(draft.client, draft.required_blobs)
            if missing:
                raise StoreUnavailable(
                    f"{len(missing)} stored samples or weights of {draft.client!r} were deleted while the version was "
                    "being made; nothing was recorded; send the request again"
                )

        published = self.catalog.publish(
            draft,
            aliases,
            guard=guard,
            idempotency=idempotency,
            extends=extends,
            origin=origin,
        )
        if draft.samples_kept and not published.version.draft.samples_kept:  # the client's setting has changed since
            self.discard(draft.client, draft.required_blobs)
        return published

    def served(self, references: Sequence[Reference]) -> list[ServedVersion | AnoleError]:
        """Return what predictions need of the version that each reference names now, in order.

        Instead of a version the list holds UnknownClient, UnknownAlias or UnknownVersion. References that were read
        before cost no query until the next commit of any process. Nothing in the answer is older than the call.

        Raises:
            StoreUnavailable: the catalog cannot be read.
        """
        return self._served.read(references)

    def discard(self, client: str, digests: Collection[str]) -> None:
        """See `maintenance.discard`."""
        maintenance.discard(self.catalog, self._blobs, client, digests)

    def delete_version(self, client: str, number: int) -> None:
        """See `maintenance.delete_version`."""
        maintenance.delete_version(self.catalog, self._blobs, client, number)

    def delete_client(self, client: str) -> Erasure:
        """See `maintenance.delete_client`."""
        return maintenance.delete_client(self.catalog, self._blobs, client)

    def update_settings(self, client: str, settings: ClientSettings) -> None:
        """Replace the client's settings; create the client if there is none.

        Settings that retain no samples delete all samples of the client at once, published or not. An adaptation that
        is about to publish with one of them fails with StoreUnavailable and can be repeated.
        """
        self.catalog.update_settings(client, settings)
        self._delete_unneeded_samples(client, settings)

    def change_settings(self, client: str, changes: Mapping[str, Any]) -> ClientSettings:
        """Change the named settings of the client and return all of them; otherwise as `update_settings`.

        Raises:
            UnknownClient, InvalidRequest: see `Catalog.change_settings`.
        """
        settings = self.catalog.change_settings(client, changes)
        self._delete_unneeded_samples(client, settings)
        return settings

    def _delete_unneeded_samples(self, client: str, settings: ClientSettings) -> None:
        if not settings.retain_samples:
            maintenance.collect_space(self.catalog, self._blobs, client, grace_s=0.0)

    def collect(self, *, grace_s: float = GRACE_S) -> CollectReport:
        """See `maintenance.collect`."""
        return maintenance.collect(self.catalog, self._blobs, grace_s=grace_s)

    def check(self) -> CheckReport:
        """See `maintenance.check`."""
        return maintenance.check(self.catalog, self._blobs)

    def back_up(self, folder: Path, *, keep: int = 1, replace: bool = False) -> BackupReport:
        """See `backup.back_up`."""
        return backup.back_up(self.catalog, self._blobs, folder, keep=keep, replace=replace)

    def restore(self, folder: Path, *, generation: int = 0) -> BackupReport:
        """See `backup.restore`."""
        return backup.restore(self.catalog, self._blobs, folder, generation=generation)

    def ping(self) -> None:
        """Raises StoreUnavailable if catalog or blobs cannot be used."""
        self.catalog.ping()
        self._blobs.ping()

    def close(self) -> None:
        """Close the catalog's connections; the store is not used afterwards."""
        self.catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class _ServedVersions:
    """Remembers what references name, for one revision of the catalog. Thread-safe."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._revision: int | None = None
        self._known: dict[Reference, ServedVersion] = {}

    def read(self, references: Sequence[Reference]) -> list[ServedVersion | AnoleError]:
        """See `VersionStore.served`."""
        revision = self._catalog.revision()
        known = self._known_at(revision)
        found = {reference: known.get(reference) or self._read(reference) for reference in set(references)}
        if revision is not None:
            self._remember(revision, found)
        return [found[reference] for reference in references]

    def _known_at(self, revision: int | None) -> dict[Reference, ServedVersion]:
        """Return what is known at that revision; forget what an older one held."""
        with self._lock:
            if revision is None or revision != self._revision or len(self._known) > _MAX_SERVED:
                self._revision, self._known = revision, {}
            return self._known

    def _read(self, reference: Reference) -> ServedVersion | AnoleError:
        try:
            return self._catalog.served(*reference)
        except AnoleError as error:
            return error

    def _remember(self, revision: int, found: Mapping[Reference, ServedVersion | AnoleError]) -> None:
        """Remember what was read, unless another thread has seen a newer revision since."""
        with self._lock:
            if revision == self._revision:
                self._known.update({key: value for key, value in found.items() if isinstance(value, ServedVersion)})
