"""GET /clients/{client}/versions/{version}/export: turns a version into one file that predicts as the service does.

The conversion runs in the queue of the adaptations, so that it takes their place and not that of predictions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Literal

from torch import Tensor

from models.errors import ExportUnsupported
from models.images.encoding import encode_png
from models.images.preprocessing import PREPROCESSING_VERSION, decode
from models.inference.exports import formats
from models.inference.exports.certificate import LIMITS, SIZES, Reference, compare, generated_image, pixels_digest
from models.inference.exports.certificate import to_json as certificate_json
from models.inference.exports.file import Description, Pixels
from models.inference.exports.graph import OPSET
from models.inference.exports.version import build_graph
from service.domain.client import validate_client_name
from service.domain.version import SCORE_DIGITS, ServedVersion, Version, unknown_score
from service.runtime.adapt_queue import AdaptQueue, JobControl
from service.runtime.checkpoints import LoadedCheckpoints
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from service.store.tensor_bytes import from_bytes
from service.store.version_store import VersionStore

Precision = Literal["float32", "int8"]

MOST_COMPARED: Final = 60
"""Kept samples that a file is compared on."""

REPORT_FIELDS: Final = (
    "support_accuracy",
    "estimated_accuracy",
    "interval",
    "temperature",
    "unknown_threshold",
    "bit_depth",
)
"""What a file has of the report of its version."""


@dataclass(frozen=True, slots=True)
class ExportCommand:
    """A request to export.

    Attributes:
        client: client name.
        version: its number.
        format: of the file.
        precision: numbers that the net computes in.
        batch: the file takes several images of one size at once.
    """

    client: str
    version: int
    format: formats.Format = "onnx"
    precision: Precision = "float32"
    batch: bool = False


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported version.

    Attributes:
        content: the file.
        certificate: how closely it agrees with the service, as JSON data.
    """

    content: bytes
    certificate: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Source:
    """A version with what it needs to predict."""

    version: Version
    served: ServedVersion
    checkpoint: LoadedCheckpoint
    weights: bytes

    @property
    def temperature(self) -> float:
        return 1.0 if self.served.temperature is None else self.served.temperature


class Exports:
    """Exports versions. Thread-safe.

    Args:
        store: stores the versions.
        checkpoints: the checkpoints that versions were adapted from.
        queue: runs the conversions.
    """

    def __init__(self, store: VersionStore, checkpoints: LoadedCheckpoints, queue: AdaptQueue) -> None:
        self._store = store
        self._checkpoints = checkpoints
        self._queue = queue

    def submit(self, command: ExportCommand, control: JobControl) -> Future[Exported]:
        """Queue an export. Cancelling the future withdraws it until it starts.

        Raises:
            ExportUnsupported: the packages that it needs are not installed; also as an error of the future, if the
                version cannot be exported as the command wants it.
            Overloaded: the service is stopping.
            The future raises UnknownClient, UnknownVersion, UnknownCheckpoint, VersionCorrupt, StoreUnavailable,
            ParityTooLow, and the error that `control` is stopped with.
        """
        formats.require(command.format)
        if command.precision != "float32" and command.format != "onnx":
            raise ExportUnsupported(
                f"the format {command.format} has no {command.precision}; allowed: float32, or the format onnx"
            )
        validate_client_name(command.client)
        return self._queue.submit(command.client, partial(self.run, command, control), control)

    def run(self, command: ExportCommand, control: JobControl) -> Exported:
        """Export on the calling thread; see `submit`."""
        source = self._source(command)
        kept = self._kept_images(source.version)
        generated = [decode(encode_png(_tensor(generated_image(number)))) for number in range(len(SIZES))]
        control.check()
        built = self._built(source, command, kept or generated, control)
        control.check()
        images = [_pixels(image) for image in kept] + [generated_image(number) for number in range(len(SIZES))]
        references = self._references(source, [*kept, *generated], images, first_generated=len(kept))
        control.check()
        described = Description(self._described(source, command), {}, source.weights)
        exported = formats.open_file(formats.write_file(command.format, built, described))
        agreement = compare(exported, zip(images, references, strict=True))
        agreement.require(LIMITS[command.precision])
        certificate = {
            **certificate_json(agreement, command.precision, references),
            "runtime": exported.runtime,
            "opset": OPSET,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "weights_digest": source.served.weights_digest,
            "model_digest": source.served.meta_model_digest,
        }
        certified = replace(described, certificate=certificate)
        return Exported(formats.write_file(command.format, built, certified), certificate)

    def _built(
        self, source: _Source, command: ExportCommand, calibration: Sequence[Tensor], control: JobControl
    ) -> Any:
        """Return what `formats.write_file` writes."""
        delta, threshold = from_bytes(source.weights), source.served.unknown_threshold
        if command.format == "torch":
            return source.checkpoint.exported_program(
                delta, source.temperature, threshold, batch=command.batch, check=control.check
            )
        ranges = calibration if command.precision == "int8" else None
        return build_graph(
            source.checkpoint.exported_net(delta, source.temperature, threshold, ranges), batch=command.batch
        )

    def _source(self, command: ExportCommand) -> _Source:
        version, weights = self._store.weights_content(command.client, command.version)
        served = self._store.catalog.served(command.client, command.version)
        checkpoint = self._checkpoints.get(served.meta_model_digest, served.meta_model)
        return _Source(version, served, checkpoint, weights)

    def _kept_images(self, version: Version) -> list[Tensor]:
        """Return some of the version's samples, evenly from all of them; none if it keeps none."""
        draft = version.draft
        if not draft.samples_kept:
            return []
        step = max(1, math.ceil(len(draft.samples) / MOST_COMPARED))
        return [self._store.sample(draft.client, sample.digest) for sample in draft.samples[::step]]

    def _references(
        self, source: _Source, decoded: Sequence[Tensor], images: Sequence[Pixels], first_generated: int
    ) -> list[Reference]:
        """Predict decoded images as POST /predict does."""
        checkpoint, threshold = source.checkpoint, source.served.unknown_threshold
        weights = checkpoint.serving_weights(from_bytes(source.weights), source.temperature)
        (predictions,) = checkpoint.predict([(weights, decoded)])
        familiarity = predictions.in_distribution
        measured = [None] * len(images) if familiarity is None else familiarity.tolist()
        return [
            Reference(
                pixels_digest=pixels_digest(image),
                scores=[round(score, SCORE_DIGITS) for score in scores],
                unknown_score=(score := unknown_score(each)),
                known=score is None or threshold is None or score <= threshold,
                generated=index - first_generated if index >= first_generated else None,
            )
            for index, (image, scores, each) in enumerate(
                zip(images, predictions.probabilities.tolist(), measured, strict=True)
            )
        ]

    def _described(self, source: _Source, command: ExportCommand) -> dict[str, Any]:
        version, served, draft = source.version, source.served, source.version.draft
        return {
            "client": served.client,
            "version": served.number,
            "created_at": version.created_at.isoformat(),
            "classes": list(served.classes),
            "unknown_threshold": served.unknown_threshold,
            "temperature": served.temperature,
            "bit_depth": served.bit_depth,
            "report": {name: draft.report.get(name) for name in REPORT_FIELDS},
            "recipe": dict(draft.recipe),
            "seed": draft.seed,
            "model": served.meta_model,
            "model_digest": served.meta_model_digest,
            "weights_digest": served.weights_digest,
            "licence": source.checkpoint.checkpoint.training.get("licence"),
            "preprocessing": PREPROCESSING_VERSION,
            "format": command.format,
            "precision": command.precision,
            "batch": command.batch,
            "opset": OPSET,
        }


def _pixels(image: Tensor) -> Pixels:
    """Turn a canonical image, uint8 (1 or 3, height, width), into (height, width, 3)."""
    pixels: Pixels = image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    return pixels


def _tensor(pixels: Pixels) -> Tensor:
    import torch

    return torch.from_numpy(pixels).permute(2, 0, 1)
