"""Drafts, digests and old jobs for tests of the store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import update

from service.domain.version import SampleRef, VersionDraft
from service.store.catalog.tables import JOBS, with_checksum
from service.store.ports import Database

CLIENT = "line-1"


def digest_of(text: str) -> str:
    """The SHA-256 of a text, as a stand-in for a blob that was stored."""
    return hashlib.sha256(text.encode()).hexdigest()


def age(database: Database, seconds: float, job_id: str) -> None:
    """Make a job look as if it was changed so many seconds earlier. PostgreSQL's clock cannot be set."""
    with database.writing("test") as connection:
        row = connection.execute(JOBS.select().where(JOBS.c.job == job_id)).mappings().one()
        earlier = with_checksum(JOBS, "", {**row, "changed_at": row["changed_at"] - timedelta(seconds=seconds)})
        connection.execute(update(JOBS).where(JOBS.c.job == job_id).values(earlier))


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
