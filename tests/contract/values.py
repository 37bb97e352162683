"""Drafts and digests for tests of the store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from service.domain.version import SampleRef, VersionDraft

CLIENT = "line-1"


def digest_of(text: str) -> str:
    """The SHA-256 of a text, as a stand-in for a blob that was stored."""
    return hashlib.sha256(text.encode()).hexdigest()


def a_draft(
    client: str = CLIENT,
    *,
    weights: str = "weights",
    samples: Sequence[str] = ("scratch-1", "dent-1"),
    parent: int | None = None,
    report: Mapping[str, Any] | None = None,
) -> VersionDraft:
    """A draft whose samples are called and labelled as given ("scratch-1" is a "scratch")."""
    return VersionDraft(
        client=client,
        parent=parent,
        classes=("dent", "scratch"),
        samples=tuple(SampleRef(digest_of(name), name.split("-", maxsplit=1)[0], f"{name}.png") for name in samples),
        meta_model="surfaces",
        meta_model_digest=digest_of("surfaces"),
        recipe={"steps": 12, "learning_rate": 0.05, "adapted": ["head.*"]},
        seed=7,
        weights_digest=digest_of(weights),
        weights_bytes=1234,
        device="cpu",
        batched_with=0,
        report=report if report is not None else {"support_accuracy": 1.0, "loss_curve": [1.5, 0.25], "interval": None},
    )
