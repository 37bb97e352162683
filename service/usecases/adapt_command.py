"""What a request to adapt says, and what comes of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from service.domain.version import LIVE, Idempotency, Publication, Version
from service.runtime.decoder import DecodedImage, Upload
from service.usecases.corrections import Corrections


class Decoding:
    """Uploads that are being decoded.

    Attributes:
        images: the image of each upload.
        seconds: how long it took, once it has ended.
    """

    def __init__(self, images: Future[list[DecodedImage]]) -> None:
        self.images = images
        self.seconds = 0.0
        self._started_s = time.monotonic()
        images.add_done_callback(self._end)

    def _end(self, _images: Future[list[DecodedImage]]) -> None:
        self.seconds = time.monotonic() - self._started_s


@dataclass(frozen=True, slots=True)
class AdaptCommand:
    """A request to adapt.

    Attributes:
        client: client name.
        uploads: image files.
        labels: class names, one for each upload, in the same order.
        parts: names of the physical parts that the uploads show, one for each, in the same order; or none.
        mode: "extend" adds the samples to those of `Lineage.base`; "replace" starts from these samples alone; "upgrade"
            adapts the stored samples anew, from the client's current model; "correct" adapts them as corrected.
        steps: inner steps; None takes the checkpoint's value.
        learning_rate: of the inner loop; None takes the checkpoint's value.
        seed: of the random draws of the inner loop; None is 0.
        first: "prototypes" makes a preliminary version without inner steps first, within a fraction of a second; not
            if there are no inner steps anyway.
        publish: "auto" leaves it to the gate, "always" makes the version live, "never" does not.
        idempotency: recorded with the version, so that a repeated request gets the same answer.
        client_created_at: when the client was created, as of the moment when the request named it; None if it did not
            exist. If the client is deleted afterwards, the request makes no version.
        caller: who sent the request. Callers share the decoders equally.
        corrections: of the stored samples, in the mode "correct"; otherwise None.
        new_client: whether the request makes a version only if it creates the client.
        job: id of the job in the catalog that ends with the version; None if the request is no job.
    """

    client: str
    uploads: tuple[Upload, ...]
    labels: tuple[str, ...]
    parts: tuple[str, ...] = ()
    mode: Literal["extend", "replace", "upgrade", "correct"] = "extend"
    steps: int | None = None
    learning_rate: float | None = None
    seed: int | None = None
    first: Literal["prototypes"] | None = None
    publish: Literal["auto", "always", "never"] = "auto"
    idempotency: Idempotency | None = None
    client_created_at: datetime | None = None
    caller: str = ""
    corrections: Corrections | None = None
    new_client: bool = False
    job: str | None = None


@dataclass(frozen=True, slots=True)
class AcceptedRequest:
    """A request whose labels and parts have been checked, and whose images are being decoded.

    Attributes:
        command: the request.
        labels: the normalised label of each upload; none for an upgrade or a correction.
        parts: the normalised part of each upload, or None.
        decoding: the images of the uploads, when they are ready.
    """

    command: AdaptCommand
    labels: Sequence[str]
    parts: Sequence[str | None]
    decoding: Decoding


@dataclass(frozen=True, slots=True)
class AdaptOutcome:
    """Result of an adaptation.

    Attributes:
        version: the new version, with its report.
        published: whether it went live.
        live: the version that is live now, or None.
        earlier: the version that the gate compared it with; None without one, for imports and repeated requests.
    """

    version: Version
    published: bool
    live: int | None
    earlier: Version | None = None

    @classmethod
    def of(cls, earlier: Publication) -> AdaptOutcome:
        """Return the outcome of a request that was made before."""
        published = any(move.alias == LIVE for move in earlier.moves)
        return cls(version=earlier.version, published=published, live=earlier.live)
