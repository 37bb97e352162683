"""Use case: what happens to versions after they are made. Look up, move, roll back, hand out, delete, collect, check.

Knows no HTTP, no SQL and no net; what completes a version's weights is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from torch import Tensor

from service.domain.client import ClientSettings, ClientSummary
from service.domain.diff import VersionDiff, compare
from service.domain.maintenance import Erasure
from service.domain.names import validate_alias_name, validate_client_name
from service.domain.version import LIVE, AliasMove, Version
from service.errors import InvalidRequest
from service.store.tensor_bytes import from_bytes, metadata_of, to_bytes
from service.store.version_store import VersionStore


class Lifecycle:
    """The life of clients, versions and aliases.

    Args:
        store: where they are kept.
        meta_weights: gives the weights of the meta-model that a version started from, by name; it raises
            UnknownCheckpoint where that one is not at hand. Without it `weights` hands out what is stored.
    """

    def __init__(
        self, store: VersionStore, meta_weights: Callable[[Version], Mapping[str, Tensor]] | None = None
    ) -> None:
        self._store = store
        self._meta_weights = meta_weights

    def clients(self) -> tuple[ClientSummary, ...]:
        """All clients, by name."""
        return self._store.clients()

    def client(self, client: str) -> ClientSummary:
        """One client. Raises InvalidName, UnknownClient."""
        return self._store.client(validate_client_name(client))

    def versions(self, client: str) -> tuple[Version, ...]:
        """Its versions that are not deleted, oldest first. Raises InvalidName, UnknownClient."""
        return self._store.versions(validate_client_name(client))

    def version(self, client: str, number: int) -> Version:
        """One version. Raises InvalidName, UnknownClient, UnknownVersion (also for a deleted one)."""
        return self._store.version(validate_client_name(client), number)

    def history(self, client: str, at: datetime | None = None) -> tuple[AliasMove, ...]:
        """The alias log, oldest first; with `at` only what had been logged by then.

        Raises:
            InvalidName, UnknownClient.
            InvalidRequest: `at` has no time zone.
        """
        return self._store.history(validate_client_name(client), at=None if at is None else _with_zone(at))

    def alias(self, client: str, alias: str) -> AliasMove:
        """Where the alias points: its latest move. Raises InvalidName, UnknownClient, UnknownAlias."""
        return self._store.alias(validate_client_name(client), validate_alias_name(alias))

    def move_alias(self, client: str, alias: str, version: int, expected_revision: int | None) -> AliasMove:
        """Point the alias at a version; with `expected_revision` only if nobody moved it since.

        `expected_revision=0` means that the alias must not exist yet; None means unconditionally.

        Raises:
            InvalidName, UnknownClient, UnknownVersion, AliasConflict.
        """
        return self._store.move_alias(
            validate_client_name(client), validate_alias_name(alias), version, expected_revision=expected_revision
        )

    def rollback(self, client: str, alias: str = LIVE, expected_revision: int | None = None) -> AliasMove:
        """Point the alias at the version it pointed at before the current one.

        Twice in a row goes further back, not to and fro; deleted versions are passed over.

        Raises:
            InvalidName, UnknownClient, UnknownAlias, NothingToRollBackTo.
            AliasConflict: the alias is no longer at `expected_revision`.
        """
        return self._store.roll_back(
            validate_client_name(client), validate_alias_name(alias), expected_revision=expected_revision
        )

    def weights(self, client: str, number: int) -> bytes:
        """A version's weights as safetensors bytes: all of them if `meta_weights` was given, else what is stored.

        Stored is only what differs from the meta-model; tensors of the same name replace the meta-model's.

        Raises:
            InvalidName, UnknownClient, UnknownVersion, UnknownCheckpoint, VersionCorrupt.
        """
        version, content = self._store.weights_content(validate_client_name(client), number)
        if self._meta_weights is None:
            return content
        return to_bytes({**self._meta_weights(version), **from_bytes(content)}, metadata_of(content))

    def delete_version(self, client: str, number: int) -> None:
        """Delete a version and what is stored for it alone; its number is not used again.

        Raises:
            InvalidName, UnknownClient, UnknownVersion.
            VersionInUse: an alias points at it.
        """
        self._store.delete_version(validate_client_name(client), number)

    def delete_client(self, client: str) -> Erasure:
        """Erase a client: versions, aliases, log, samples and weights. Raises InvalidName, UnknownClient."""
        return self._store.delete_client(validate_client_name(client))

    def diff(self, client: str, before: int, after: int) -> VersionDiff:
        """What changes from one version to another. Raises InvalidName, UnknownClient, UnknownVersion."""
        return compare(self.version(client, before), self.version(client, after))

    def settings(self, client: str) -> ClientSettings:
        """What the client chose, or the defaults. Raises InvalidName, UnknownClient."""
        return self._store.settings(validate_client_name(client))

    def update_settings(self, client: str, settings: ClientSettings) -> ClientSettings:
        """Replace what the client chose, and return what holds now; makes the client if there is none.

        Settings that retain no samples erase at once all that are stored for the client.

        Raises:
            InvalidName.
        """
        self._store.update_settings(validate_client_name(client), settings)
        return settings


def _with_zone(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise InvalidRequest(f"the time {at.isoformat()} has no zone; add one, such as {at.isoformat()}Z")
    return at
