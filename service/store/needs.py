"""Which blobs a version cannot do without. Knows no row and no blob."""

from __future__ import annotations

from service.domain.version import VersionDraft


def needed_by(draft: VersionDraft) -> frozenset[str]:
    """The digests of the blobs without which a version cannot be served or repeated."""
    samples = (sample.digest for sample in draft.samples) if draft.samples_kept else ()
    return frozenset({draft.weights_digest, *samples})
