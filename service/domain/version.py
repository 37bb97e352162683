"""What the service talks about: clients, samples, versions, aliases. Plain frozen values; no I/O, no torch, no HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

LIVE: Final = "live"
"""The alias that ``/predict`` uses unless told otherwise."""


@dataclass(frozen=True, slots=True)
class SampleRef:
    """One labelled image that a version was adapted on.

    Attributes:
        digest: SHA-256 (hex) of the stored canonical image.
        label: name of its class.
        name: what the sender called it; shown, never used as a path.
    """

    digest: str
    label: str
    name: str


@dataclass(frozen=True, slots=True)
class VersionDraft:
    """Everything a version records except what the catalog gives it: its number and the time.

    Attributes:
        client: client name.
        parent: the version whose samples it extends, or None.
        classes: class names, in the order of the head's rows.
        samples: what it was adapted on, in order; retrieval order is part of the version.
        meta_model: name of the meta-trained checkpoint.
        meta_model_digest: SHA-256 (hex) of the checkpoint's weights and settings.
        recipe: the inner loop's settings as JSON data.
        seed: of the inner loop's random draws.
        weights_digest: SHA-256 (hex), address of the stored weights blob.
        weights_bytes: size of that blob in bytes.
        device: where it ran, e.g. "cpu".
        batched_with: how many other inner loops ran in the same batch; 0 means a re-run is bit-identical.
        report: what /adapt answered about it, as JSON data.
        samples_kept: whether the samples' images are stored; without them nothing can extend or repeat the version.
    """

    client: str
    parent: int | None
    classes: tuple[str, ...]
    samples: tuple[SampleRef, ...]
    meta_model: str
    meta_model_digest: str
    recipe: Mapping[str, Any]
    seed: int
    weights_digest: str
    weights_bytes: int
    device: str
    batched_with: int
    report: Mapping[str, Any] = field(default_factory=dict)
    samples_kept: bool = True


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """The part of a version that a prediction needs.

    Attributes:
        client: client name.
        number: of the version.
        classes: class names, in the order of the head's rows.
        meta_model: name of the meta-trained checkpoint.
        meta_model_digest: SHA-256 (hex) of it.
        weights_digest: SHA-256 (hex), address of the stored weights blob.
        unknown_threshold: familiarity below which an image is unknown, or None.
        temperature: what its logits are divided by, or None for 1.
    """

    client: str
    number: int
    classes: tuple[str, ...]
    meta_model: str
    meta_model_digest: str
    weights_digest: str
    unknown_threshold: float | None
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """An immutable version: a draft that has been given its number.

    Attributes:
        number: 1, 2, 3 … without gaps within a client.
        created_at: UTC.
        draft: what it records.
        deleted_at: when its samples and weights were let go (the number stays taken), else None.
    """

    number: int
    created_at: datetime
    draft: VersionDraft
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AliasMove:
    """One row of the append-only alias log.

    Attributes:
        client: client name.
        alias: alias name.
        revision: 1, 2, 3 … within client and alias; what `If-Match` compares.
        version: where the alias points from now on.
        previous: where it pointed before, or None.
        moved_at: UTC.
        reason: "adapt", "set" or "rollback".
        restores: for a rollback, the revision whose state it brought back; else None.
    """

    client: str
    alias: str
    revision: int
    version: int
    previous: int | None
    moved_at: datetime
    reason: str
    restores: int | None = None


@dataclass(frozen=True, slots=True)
class Idempotency:
    """How a repeated request is recognised.

    Attributes:
        key: the sender's key, unique within a client; see `idempotency_key`.
        body_digest: SHA-256 (hex) of everything that the request asks for.
    """

    key: str
    body_digest: str


@dataclass(frozen=True, slots=True)
class Publication:
    """What one publishing transaction did; the same again, `replayed` apart, when its request is repeated.

    Attributes:
        version: the new version; a repeated request gets it even after its deletion, then without samples.
        moves: the alias moves made with it, empty if it was only held.
        live: the version that the alias `live` pointed at right after, or None.
        replayed: True if an earlier request with the same idempotency key had published it.
    """

    version: Version
    moves: tuple[AliasMove, ...]
    live: int | None
    replayed: bool = False
