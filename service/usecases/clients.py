"""The clients, and the versions and aliases that they have: list, compare, move, roll back, download and delete.

`service.store.catalog.publishing` is where a version becomes live.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from torch import Tensor

from service.domain.client import ClientSettings, ClientSummary, validate_alias_name, validate_client_name
from service.domain.diff import VersionDiff, compare
from service.domain.version import LIVE, AliasMove, ExpectedRevision, Version, VersionSummary
from service.errors import InvalidRequest, UnknownCheckpoint
from service.store.maintenance import Erasure
from service.store.tensor_bytes import from_bytes, metadata_of, to_bytes
from service.store.version_store import VersionStore

MAX_PAGE: Final = 1000
"""Entries of a page of a list at most."""

VERSIONS_PER_READ: Final = 10
"""Versions that are read in one transaction."""


class Clients:
    """The clients of the store. Names are validated; an invalid one raises InvalidName.

    Other errors are those of the method of `Catalog` or `VersionStore` that is called.

    Args:
        store: stores them.
        start_weights: returns the weights of the checkpoint that a version was adapted from, or raises
            UnknownCheckpoint.
        find_model: raises UnknownCheckpoint if clients cannot be adapted from a checkpoint of that name.
    """

    def __init__(
        self,
        store: VersionStore,
        start_weights: Callable[[Version], Mapping[str, Tensor]],
        find_model: Callable[[str], object] = lambda _name: None,
    ) -> None:
        self._store = store
        self._start_weights = start_weights
        self._find_model = find_model

    def list(
        self, names: Collection[str] | None = None, after: str = "", limit: int | None = None
    ) -> tuple[ClientSummary, ...]:
        """Return clients by name; see `Catalog.clients`."""
        return self._store.catalog.clients(names, after=after, limit=limit)

    def get(self, client: str) -> ClientSummary:
        """Return a client. Raises UnknownClient."""
        return self._store.catalog.client(validate_client_name(client))

    def created_at(self, client: str) -> datetime | None:
        """Return when a client was created, or None if there is no such client."""
        return self._store.catalog.created_at(validate_client_name(client))

    def versions(self, client: str, after: int = 0, limit: int = MAX_PAGE) -> Sequence[VersionSummary]:
        """Return at most `limit` versions that are not deleted, from the first number after `after`, oldest first.

        They are read a few at a time, so that no writer waits long.

        Raises:
            UnknownClient: there is no such client.
        """
        name = validate_client_name(client)
        found: list[VersionSummary] = []
        while True:
            wanted = min(VERSIONS_PER_READ, limit - len(found))
            read = self._store.catalog.version_summaries(name, after=found[-1].number if found else after, limit=wanted)
            found += read
            if len(read) < wanted or len(found) == limit:
                return found

    def version(self, client: str, number: int) -> Version:
        """Return a version. Raises UnknownClient, UnknownVersion (also for a deleted one)."""
        return self._store.catalog.version(validate_client_name(client), number)

    def history(
        self, client: str, at: datetime | None = None, after: int = 0, limit: int | None = None
    ) -> tuple[AliasMove, ...]:
        """Return the alias log, oldest first, without the first `after` moves; with `at`, as it was at that time.

        Raises:
            UnknownClient: there is no such client.
            InvalidRequest: `at` has no time zone.
        """
        moment = None if at is None else _with_zone(at)
        return self._store.catalog.history(validate_client_name(client), at=moment, after=after, limit=limit)

    def live(self, client: str, at: datetime | None = None) -> int | None:
        """Return the live version, or the one that was live at that time; None if there was none."""
        if at is None:
            return self.get(client).live
        return next((move.version for move in reversed(self.history(client, at)) if move.alias == LIVE), None)

    def alias(self, client: str, alias: str) -> AliasMove:
        """Return the latest move of an alias. Raises UnknownClient, UnknownAlias."""
        return self._store.catalog.alias(validate_client_name(client), validate_alias_name(alias))

    def move_alias(self, client: str, alias: str, version: int, expected_revision: ExpectedRevision) -> AliasMove:
        """Point the alias at a version; see `Catalog.move_alias`."""
        return self._store.catalog.move_alias(
            validate_client_name(client), validate_alias_name(alias), version, expected_revision=expected_revision
        )

    def rollback(self, client: str, alias: str = LIVE, expected_revision: ExpectedRevision = None) -> AliasMove:
        """Point the alias at the version before the current one; see `Catalog.roll_back`."""
        return self._store.catalog.roll_back(
            validate_client_name(client), validate_alias_name(alias), expected_revision=expected_revision
        )

    def promote(self, client: str, expected_revision: ExpectedRevision = None) -> AliasMove:
        """Point the alias `live` at the candidate; see `Catalog.promote`."""
        return self._store.catalog.promote(validate_client_name(client), expected_revision=expected_revision)

    def weights(self, client: str, number: int) -> bytes:
        """Return the weights of a version as the bytes of a safetensors file.

        Stored is what differs from the checkpoint; its tensors replace those of the checkpoint.

        Raises:
            UnknownClient, UnknownVersion, UnknownCheckpoint, VersionCorrupt.
        """
        version, content = self._store.weights_content(validate_client_name(client), number)
        return to_bytes({**self._start_weights(version), **from_bytes(content)}, metadata_of(content))

    def delete_version(self, client: str, number: int) -> None:
        """Delete a version and what is stored for it alone; see `Catalog.delete_version`."""
        self._store.delete_version(validate_client_name(client), number)

    def delete(self, client: str) -> Erasure:
        """Delete a client with its versions, aliases, log, samples and weights. Raises UnknownClient."""
        return self._store.delete_client(validate_client_name(client))

    def diff(self, client: str, before: int, after: int) -> VersionDiff:
        """Return the changes from one version to another. Raises UnknownClient, UnknownVersion."""
        return compare(self.version(client, before), self.version(client, after))

    def settings(self, client: str) -> ClientSettings:
        """Return the settings of a client. Raises UnknownClient."""
        return self._store.catalog.settings(validate_client_name(client))

    def update_settings(self, client: str, settings: ClientSettings) -> ClientSettings:
        """Replace the settings of a client, and return them; see `VersionStore.update_settings`.

        Raises:
            InvalidRequest: there is no such model.
        """
        self._check_model(settings.model)
        self._store.update_settings(validate_client_name(client), settings)
        return settings

    def change_settings(self, client: str, changes: Mapping[str, Any]) -> ClientSettings:
        """Change some settings of a client, given by name, and return all of them; see `update_settings`.

        Raises:
            UnknownClient: there is no such client.
            InvalidRequest: a value is not allowed.
        """
        self._check_model(changes.get("model"))
        return self._store.change_settings(validate_client_name(client), changes)

    def _check_model(self, name: str | None) -> None:
        if name is not None:
            try:
                self._find_model(name)
            except UnknownCheckpoint as error:
                raise InvalidRequest(str(error)) from error


def _with_zone(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise InvalidRequest(f"the time {at.isoformat()} has no time zone; add one, such as {at.isoformat()}Z")
    return at
