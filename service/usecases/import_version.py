"""POST /clients/{client}/versions: makes a version from a file that was exported from another one.

The file has the weights of its version and no samples. So nothing is validated here, the gate holds the version unless
the request says otherwise, and the version cannot be extended.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Final, Literal

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from models.config import InnerLoopConfig
from models.errors import ExportInvalid, InvalidConfig
from models.inference.exports import formats
from models.inference.exports.file import Description
from service.domain.client import ClientSettings
from service.domain.gate import decide
from service.domain.job import Origin
from service.domain.reason import Reason
from service.domain.version import LIVE, VersionDraft, validate_label
from service.errors import ModelMismatch, StoreUnavailable, UnknownClient, VersionCorrupt
from service.runtime.adapt_queue import AdaptQueue, JobControl
from service.runtime.checkpoints import LoadedCheckpoints
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.store.tensor_bytes import from_bytes, metadata_of
from service.store.version_store import VersionStore
from service.usecases.adapt_command import AdaptOutcome
from service.usecases.samples import AdaptLimits

_NOT_VALIDATED: Final = Reason(
    "imported", "the version was imported from a file without samples, so its accuracy could not be estimated"
)


_SECONDS: Final = dict.fromkeys(("decode", "adapt", "examine", "store", "total"), 0.0)


class _Report(BaseModel):
    """What is taken over from the report of the exported version."""

    support_accuracy: float | None = Field(ge=0, le=1)
    temperature: float | None = Field(gt=0, allow_inf_nan=False)
    unknown_threshold: float | None = Field(ge=0, le=1)
    bit_depth: Literal[8, 10, 12, 14, 16] | None


class _Record(BaseModel):
    """What is taken over from the description of an exported file."""

    classes: list[str] = Field(min_length=2)
    model: str
    model_digest: str
    recipe: dict[str, Any]
    seed: int = Field(ge=0)
    report: _Report


@dataclass(frozen=True, slots=True)
class ImportCommand:
    """A request to import.

    Attributes:
        client: client name. A new client is created.
        content: the exported file.
        publish: "never" holds the version, "always" makes it live, "auto" leaves it to the gate.
        client_created_at: see `AdaptCommand`.
    """

    client: str
    content: bytes
    publish: Literal["auto", "always", "never"] = "never"
    client_created_at: datetime | None = None


class Imports:
    """Makes versions from exported files. Thread-safe.

    Args:
        store: stores the versions.
        checkpoints: the checkpoints that clients use.
        queue: runs imports in turn with the adaptations of the client.
    """

    def __init__(self, store: VersionStore, checkpoints: LoadedCheckpoints, queue: AdaptQueue) -> None:
        self._store = store
        self._checkpoints = checkpoints
        self._queue = queue

    def submit(self, command: ImportCommand, control: JobControl) -> Future[AdaptOutcome]:
        """Queue an import. Cancelling the future withdraws it until it starts.

        Raises:
            ExportUnsupported: the packages that it needs are not installed.
            Overloaded: the service is stopping.
            The future raises ExportInvalid, ModelMismatch, InvalidName, TooManyClasses, UnknownCheckpoint,
            ClientDeleted, StoreFull, StoreUnavailable, and the error that `control` is stopped with.
        """
        formats.require("onnx")
        return self._queue.submit(command.client, partial(self.run, command, control), control)

    def run(self, command: ImportCommand, control: JobControl) -> AdaptOutcome:
        """Import on the calling thread; see `submit`."""
        control.enter("decode")
        described = formats.read_description(command.content)
        record = _record(described)
        settings = self._settings(command.client)
        checkpoint = self._checkpoints.named(settings.model)
        if record.model_digest != checkpoint.digest:
            raise ModelMismatch(
                f"the file is a version of the model {record.model!r} ({record.model_digest[:12]}…), and client "
                f"{command.client!r} uses {checkpoint.checkpoint.name!r} ({checkpoint.digest[:12]}…); import it into a "
                "client with that model (its setting `model`), of a service that offers it"
            )
        AdaptLimits().check(len(record.classes), 0)
        delta = _delta(described.weights)
        _require_predictions(checkpoint, delta, record)
        draft = _draft(command.client, record, checkpoint)
        control.enter("store")
        lineage = self._store.catalog.lineage(command.client)
        decision = decide(command.publish, draft, settings, lineage, _NOT_VALIDATED)
        digest, size_bytes = self._store.put_weights(command.client, delta, metadata_of(described.weights))
        draft = replace(
            draft,
            weights_digest=digest,
            weights_bytes=size_bytes,
            report={**draft.report, "gate": decision.to_json(), "seconds": _SECONDS},
        )
        aliases = () if decision.decision == "hold" else (LIVE,)
        try:
            with control.committing():
                published = self._store.publish(draft, aliases, origin=Origin(command.client_created_at))
        except BaseException:
            with suppress(StoreUnavailable, VersionCorrupt):  # the first error is the one to report
                self._store.discard(command.client, {digest})
            raise
        return AdaptOutcome(published.version, LIVE in aliases, published.live)

    def _settings(self, client: str) -> ClientSettings:
        try:
            return self._store.catalog.settings(client)
        except UnknownClient:
            return ClientSettings()


def _record(described: Description) -> _Record:
    try:
        record = _Record.model_validate(described.version)
        InnerLoopConfig.from_json(record.recipe)
    except (ValidationError, InvalidConfig, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ExportInvalid(f"the file does not describe a version that can be imported: {reason}") from error
    labels = [validate_label(label) for label in record.classes]
    if len(set(labels)) < len(labels):
        raise ExportInvalid(f"the file names a class twice: {', '.join(labels)}; export the version again")
    return record.model_copy(update={"classes": labels})


def _delta(content: bytes) -> dict[str, Tensor]:
    try:
        return from_bytes(content)
    except VersionCorrupt as error:
        raise ExportInvalid("the weights in the file are not tensors; export the version again") from error


def _require_predictions(checkpoint: LoadedCheckpoint, delta: Mapping[str, Tensor], record: _Record) -> None:
    """Predict a grey image, to see that the weights fit the net and the classes. Raises ExportInvalid."""
    image = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    try:
        weights = checkpoint.serving_weights(delta, record.report.temperature or 1.0)
        (predictions,) = checkpoint.predict([(weights, [image])])
    except Exception as error:  # weights of wrong names or shapes raise anything
        raise ExportInvalid(f"the weights in the file do not fit the model {record.model!r}: {error}") from error
    if predictions.probabilities.shape[1] != len(record.classes) or not predictions.probabilities.isfinite().all():
        raise ExportInvalid(
            f"the weights in the file give {predictions.probabilities.shape[1]} scores for {len(record.classes)} "
            "classes, or scores that are not finite; export the version again"
        )


def _draft(client: str, record: _Record, checkpoint: LoadedCheckpoint) -> VersionDraft:
    report = {
        **record.report.model_dump(),
        "estimated_accuracy": None,
        "interval": None,
        "loss_curve": [],
        "suspects": None,
        "alike": None,
        "confusion": None,
        "folds": 0,
    }
    return VersionDraft(
        client=client,
        parent=None,
        classes=tuple(record.classes),
        samples=(),
        meta_model=checkpoint.checkpoint.name,
        meta_model_digest=checkpoint.digest,
        recipe=record.recipe,
        seed=record.seed,
        weights_digest="",
        weights_bytes=0,
        device=checkpoint.device.type,
        batched_with=0,
        report=report,
        samples_kept=False,
    )
