"""The parity certificate: how closely an exported file agrees with the service, and the images that it was tried on.

It lists each image by the digest of its pixels, with what the service predicted. Anyone who has the file and an image
can therefore repeat the comparison without the service. Some images are generated from their number and need no file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

import numpy as np

from models.errors import ExportInvalid, ParityTooLow
from models.inference.exports.file import Pixels, Prediction

SIZES: Final = ((192, 192), (64, 48), (120, 360), (240, 320), (700, 500), (901, 1203))
"""Heights and widths of the generated images: among them larger ones, which the service scales down first."""


@dataclass(frozen=True)
class Limits:
    """The least agreement of a file with the service.

    Attributes:
        difference: largest difference of a probability or an unknown score.
        labels: share of images with the same most probable class.
        verdicts: share of images with the same verdict.
    """

    difference: float
    labels: float
    verdicts: float


LIMITS: Final[Mapping[str, Limits]] = {
    "float32": Limits(difference=0.005, labels=0.99, verdicts=0.99),
    "int8": Limits(difference=0.3, labels=0.95, verdicts=0.95),
}
"""By the type of number that the net computes in. Those of int8: the largest difference on samples of five versions was
0.23; a file that mislabels more than one of 20 samples that the version was adapted to is of no use."""


@dataclass(frozen=True)
class Reference:
    """An image, and what the service predicts for it.

    Attributes:
        pixels_digest: see `pixels_digest`.
        scores: probability of each class.
        unknown_score: None for versions without.
        known: whether the verdict is "known".
        generated: number of a generated image, or None.
    """

    pixels_digest: str
    scores: Sequence[float]
    unknown_score: float | None
    known: bool
    generated: int | None = None


@dataclass(frozen=True)
class Agreement:
    """How closely predictions agree with references.

    Attributes:
        images: how many were compared.
        largest_difference: of a probability or an unknown score.
        equal_labels: share of images with the same most probable class.
        equal_verdicts: share of images with the same verdict.
    """

    images: int
    largest_difference: float
    equal_labels: float
    equal_verdicts: float

    def meets(self, limits: Limits) -> bool:
        """Whether the agreement is good enough."""
        return (
            self.largest_difference <= limits.difference
            and self.equal_labels >= limits.labels
            and self.equal_verdicts >= limits.verdicts
        )

    def require(self, limits: Limits) -> None:
        """Raises ParityTooLow if the agreement is not good enough."""
        if not self.meets(limits):
            raise ParityTooLow(
                f"the exported file differs from the service on {self.images} images: the largest difference of a "
                f"probability is {self.largest_difference:.4f} (allowed: {limits.difference:g}), "
                f"{self.equal_labels:.1%} of the labels are equal (at least {limits.labels:.0%}) and "
                f"{self.equal_verdicts:.1%} of the verdicts (at least {limits.verdicts:.0%}); nothing was exported: "
                "try another format or precision"
            )


class Predictor(Protocol):
    """Predicts one image."""

    def predict(self, image: Pixels) -> Prediction:
        """Return the prediction for uint8 (height, width, 3)."""


def pixels_digest(image: Pixels) -> str:
    """SHA-256 (hex) of an image's size and pixels."""
    return hashlib.sha256(f"{image.shape[0]} {image.shape[1]} ".encode() + image.tobytes()).hexdigest()


def generated_image(number: int) -> Pixels:
    """Generate an image of coloured blocks and noise, in whole numbers, so that it is the same everywhere."""
    height, width = SIZES[number % len(SIZES)]
    generator = np.random.Generator(np.random.PCG64(number))
    block = int(generator.integers(4, 40))
    colours = generator.integers(0, 256, (-(-height // block), -(-width // block), 3))
    blocks = colours.repeat(block, 0).repeat(block, 1)[:height, :width]
    noise = generator.integers(-30, 31, (height, width, 3))
    pixels: Pixels = np.clip(blocks + noise, 0, 255).astype(np.uint8)
    return pixels


def compare(predictor: Predictor, images: Iterable[tuple[Pixels, Reference]]) -> Agreement:
    """Predict images and compare the results with their references."""
    differences, labels, verdicts = [0.0], [], []
    for pixels, reference in images:
        found = predictor.predict(pixels)
        differences.append(float(np.abs(found.scores - np.asarray(reference.scores)).max()))
        if reference.unknown_score is not None:
            differences.append(abs(found.unknown_score - reference.unknown_score))
        labels.append(found.label == int(np.argmax(reference.scores)))
        verdicts.append(found.known == reference.known)
    largest = max(differences, key=lambda each: np.inf if np.isnan(each) else each)
    return Agreement(len(labels), largest, float(np.mean(labels)), float(np.mean(verdicts)))


def to_json(agreement: Agreement, precision: str, references: Sequence[Reference]) -> dict[str, Any]:
    """The part of a certificate that is about parity, as JSON data."""
    return {
        **asdict(agreement),
        "limits": asdict(LIMITS[precision]),
        "precision": precision,
        "references": [asdict(reference) for reference in references],
    }


def references_of(certificate: Mapping[str, Any]) -> list[Reference]:
    """Read the references of a certificate. Raises ExportInvalid if it is damaged."""
    try:
        found = [Reference(**each) for each in certificate["references"]]
        LIMITS[certificate["precision"]]
    except (KeyError, TypeError) as error:
        raise ExportInvalid(f"the certificate in the exported file is damaged ({error}); export it again") from error
    return found


def verify(predictor: Predictor, certificate: Mapping[str, Any], images: Iterable[Pixels] = ()) -> Agreement:
    """Repeat the comparison of a certificate with its generated images, and with those of `images` that it lists.

    Raises:
        ExportInvalid: the certificate is damaged.
    """
    references = references_of(certificate)
    by_digest = {reference.pixels_digest: reference for reference in references}
    known = [(generated_image(each.generated), each) for each in references if each.generated is not None]
    known += [(pixels, by_digest[found]) for pixels in images if (found := pixels_digest(pixels)) in by_digest]
    return compare(predictor, known)
