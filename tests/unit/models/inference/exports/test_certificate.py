"""Certificates compare a file with what the service predicted, and files that were changed are rejected."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.errors import ExportInvalid, ParityTooLow
from models.inference.exports.certificate import (
    LIMITS,
    SIZES,
    Agreement,
    Reference,
    compare,
    generated_image,
    pixels_digest,
    to_json,
    verify,
)
from models.inference.exports.file import Description, Pixels, Prediction

WEIGHTS = b"weights"
VERSION = {"classes": ["good", "bad"], "weights_digest": hashlib.sha256(WEIGHTS).hexdigest()}
DESCRIPTION = Description(VERSION, {"precision": "float32", "references": []}, WEIGHTS)


class Fixed:
    """Predicts the same for every image."""

    def __init__(self, scores: tuple[float, float] = (0.75, 0.25), unknown_score: float = 0.5) -> None:
        self._prediction = Prediction(np.array(scores, np.float32), int(np.argmax(scores)), unknown_score, known=True)

    def predict(self, image: Pixels) -> Prediction:
        return self._prediction


def reference(number: int, **changes: Any) -> tuple[Pixels, Reference]:
    image = generated_image(number)
    return image, replace(Reference(pixels_digest(image), (0.75, 0.25), 0.5, known=True, generated=number), **changes)


def test_equal_predictions_agree_completely() -> None:
    assert compare(Fixed(), [reference(0), reference(1)]) == Agreement(2, 0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"scores": (0.5, 0.25)}, Agreement(2, 0.25, 1.0, 1.0)),
        ({"scores": (0.25, 0.75)}, Agreement(2, 0.5, 0.5, 1.0)),
        ({"unknown_score": 0.625}, Agreement(2, 0.125, 1.0, 1.0)),
        ({"known": False}, Agreement(2, 0.0, 1.0, 0.5)),
    ],
)
def test_every_kind_of_difference_counts(changes: Mapping[str, Any], expected: Agreement) -> None:
    found = compare(Fixed(), [reference(0), reference(1, **changes)])
    assert found == expected
    with pytest.raises(ParityTooLow, match="differs from the service on 2 images"):
        found.require(LIMITS["float32"])


def test_a_prediction_that_is_not_a_number_never_agrees() -> None:
    found = compare(Fixed((float("nan"), 0.25)), [reference(0)])
    assert not any(found.meets(limits) for limits in LIMITS.values())


def test_a_certificate_can_be_repeated_from_what_it_says() -> None:
    references = [reference(number)[1] for number in range(3)]
    kept = np.full((20, 30, 3), 7, np.uint8)
    references.append(Reference(pixels_digest(kept), (0.7, 0.3), None, known=True))
    certificate = to_json(Agreement(4, 0.05, 1.0, 1.0), "float32", references)
    assert verify(Fixed(), certificate) == Agreement(3, 0.0, 1.0, 1.0)
    with_kept = verify(Fixed(), certificate, [kept, np.zeros((8, 8, 3), np.uint8)])
    assert (with_kept.images, round(with_kept.largest_difference, 6)) == (4, 0.05)


def test_generated_images_are_the_same_everywhere_and_have_different_sizes() -> None:
    images = [generated_image(number) for number in range(len(SIZES))]
    assert [image.shape[:2] for image in images] == list(SIZES)
    assert pixels_digest(images[0]).startswith("b5060b4b495958fe")


def test_a_description_survives_its_texts() -> None:
    assert Description.from_texts(DESCRIPTION.to_texts()) == DESCRIPTION


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"anole.format": "other"}, "not an exported version"),
        ({"anole.version": "{"}, "damaged"),
        ({"anole.version": '{"classes": [1, 2], "weights_digest": ""}'}, "a class has no name"),
        ({"anole.weights": "!"}, "damaged"),
        ({"anole.weights": "d2VpZ2h0"}, "the weights in the exported file have the digest"),
    ],
)
def test_damaged_descriptions_are_rejected(changes: dict[str, str], said: str) -> None:
    with pytest.raises(ExportInvalid, match=said):
        Description.from_texts({**DESCRIPTION.to_texts(), **changes})


@pytest.mark.parametrize("certificate", [{}, {"precision": "float8", "references": []}, {"references": [{"a": 1}]}])
def test_damaged_certificates_are_rejected(certificate: dict[str, Any]) -> None:
    with pytest.raises(ExportInvalid, match="certificate in the exported file is damaged"):
        verify(Fixed(), certificate)
