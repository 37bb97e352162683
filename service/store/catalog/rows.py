"""Rows of the catalog's tables and values of the domain, one into the other; what is read is held to its seal.

Knows no query and no connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.domain.version import AliasMove, SampleRef, ServedVersion, Version, VersionDraft
from service.errors import VersionCorrupt
from service.store.catalog.row_checksums import Values, samples_seal, sealed, verify
from service.store.catalog.tables import ALIAS_MOVES, ALIASES, VERSIONS


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A client's name and the number its rows carry."""

    id: int
    name: str


def version_of(row: Values, client: str, samples: Sequence[SampleRef]) -> Version:
    """A version from its row of `versions` and its samples in order. Raises VersionCorrupt."""
    verify_version(row, client)
    if row["samples_seal"] != samples_seal(samples):
        raise VersionCorrupt(
            f"the rows of the samples of version {row['number']} of client {client!r} are damaged; restore a backup"
        )
    draft = VersionDraft(
        client=client,
        parent=row["parent"],
        classes=tuple(row["classes"]),
        samples=tuple(samples),
        meta_model=row["meta_model"],
        meta_model_digest=row["meta_model_digest"],
        recipe=row["recipe"],
        seed=row["seed"],
        weights_digest=row["weights_digest"],
        weights_bytes=row["weights_bytes"],
        device=row["device"],
        batched_with=row["batched_with"],
        report=row["report"],
        samples_kept=row["samples_kept"],
    )
    return Version(row["number"], row["created_at"], draft, row["deleted_at"])


def verify_version(row: Values, client: str) -> None:
    """Raises VersionCorrupt where a row of `versions` does not say what was written."""
    verify(VERSIONS, client, row, f"version {row['number']} of client {client!r}")


def version_row(version: Version) -> dict[str, Any]:
    """What a row of `versions` says, sealed."""
    draft = version.draft
    said = {
        "number": version.number,
        "created_at": version.created_at,
        "deleted_at": version.deleted_at,
        "parent": draft.parent,
        "classes": list(draft.classes),
        "meta_model": draft.meta_model,
        "meta_model_digest": draft.meta_model_digest,
        "recipe": dict(draft.recipe),
        "seed": draft.seed,
        "weights_digest": draft.weights_digest,
        "weights_bytes": draft.weights_bytes,
        "device": draft.device,
        "batched_with": draft.batched_with,
        "report": dict(draft.report),
        "samples_kept": draft.samples_kept,
        "samples_seal": samples_seal(draft.samples),
    }
    return sealed(VERSIONS, draft.client, said)


def served_of(row: Values, client: str) -> ServedVersion:
    """What a prediction needs, from a row of `versions`. Raises VersionCorrupt."""
    verify_version(row, client)
    return ServedVersion(
        client,
        row["number"],
        tuple(row["classes"]),
        row["meta_model"],
        row["meta_model_digest"],
        row["weights_digest"],
        row["report"].get("unknown_threshold"),
        row["report"].get("temperature"),
    )


def served_part(version: Version) -> ServedVersion:
    """What a prediction needs of a version."""
    return served_of(version_row(version), version.draft.client)


def sample_rows(version_id: int, samples: Sequence[SampleRef]) -> list[dict[str, Any]]:
    """The rows of `samples` of a version."""
    return [
        {"version_id": version_id, "position": i, "digest": sample.digest, "label": sample.label, "name": sample.name}
        for i, sample in enumerate(samples)
    ]


def move_of(row: Values) -> AliasMove:
    """A move from its row of `alias_moves`, with the client's name as `client`. Raises VersionCorrupt."""
    client, alias = row["client"], row["alias"]
    verify(ALIAS_MOVES, client, row, f"move {row['revision']} of alias {alias!r} of client {client!r}")
    said = (row[name] for name in ("revision", "version", "previous", "moved_at", "reason", "restores"))
    return AliasMove(client, alias, *said)


def move_row(move: AliasMove) -> dict[str, Any]:
    """What a row of `alias_moves` says, sealed."""
    names = ("alias", "revision", "version", "previous", "moved_at", "reason", "restores")
    return sealed(ALIAS_MOVES, move.client, {name: getattr(move, name) for name in names})


def alias_row(move: AliasMove) -> dict[str, Any]:
    """What the row of `aliases` says after a move, sealed."""
    said = {"alias": move.alias, "revision": move.revision, "version": move.version}
    return sealed(ALIASES, move.client, said)


def verify_alias(row: Values, client: str) -> None:
    """Raises VersionCorrupt where a row of `aliases` does not say what was written."""
    verify(ALIASES, client, row, f"alias {row['alias']!r} of client {client!r}")
