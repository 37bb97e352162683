"""Rows of the catalog's tables and values of the domain, one into the other. Knows no query and no connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row

from service.domain import AliasMove, SampleRef, ServedVersion, Version, VersionDraft


def version_of(row: Row[Any], client: str, samples: Sequence[SampleRef]) -> Version:
    """A version from its row of `versions` and its samples in order."""
    draft = VersionDraft(
        client=client,
        parent=row.parent,
        classes=tuple(row.classes),
        samples=tuple(samples),
        meta_model=row.meta_model,
        meta_model_digest=row.meta_model_digest,
        recipe=row.recipe,
        seed=row.seed,
        weights_digest=row.weights_digest,
        weights_bytes=row.weights_bytes,
        device=row.device,
        batched_with=row.batched_with,
        report=row.report,
        samples_kept=row.samples_kept,
    )
    return Version(row.number, row.created_at, draft, row.deleted_at)


def draft_row(draft: VersionDraft) -> dict[str, Any]:
    """The part of a row of `versions` that its draft gives."""
    return {
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
    }


def served_part(version: Version) -> ServedVersion:
    """What a prediction needs of a version."""
    draft = version.draft
    return ServedVersion(
        draft.client,
        version.number,
        draft.classes,
        draft.meta_model,
        draft.meta_model_digest,
        draft.weights_digest,
        draft.report.get("unknown_threshold"),
        draft.report.get("temperature"),
    )


def sample_rows(version_id: int, samples: Sequence[SampleRef]) -> list[dict[str, Any]]:
    """The rows of `samples` of a version."""
    return [
        {"version_id": version_id, "position": i, "digest": sample.digest, "label": sample.label, "name": sample.name}
        for i, sample in enumerate(samples)
    ]


def move_of(row: Row[Any]) -> AliasMove:
    """A move from its row of `alias_moves`, with the client's name as `client`."""
    return AliasMove(
        row.client, row.alias, row.revision, row.version, row.previous, row.moved_at, row.reason, row.restores
    )


def move_row(client_id: int, move: AliasMove) -> dict[str, Any]:
    """The row of `alias_moves` for a move."""
    names = ("alias", "revision", "version", "previous", "moved_at", "reason", "restores")
    return {"client_id": client_id, **{name: getattr(move, name) for name in names}}
