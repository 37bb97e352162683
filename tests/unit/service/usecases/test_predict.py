"""The verdict of a prediction follows from its unknown score and the version's threshold."""

from __future__ import annotations

import pytest

from service.domain.prediction import ImagePrediction


def prediction(familiarity: float | None, unknown_threshold: float | None) -> ImagePrediction:
    return ImagePrediction("a.png", "dent", 0.9, {"dent": 0.9, "good": 0.1}, familiarity, unknown_threshold)


@pytest.mark.parametrize(
    ("familiarity", "unknown_score", "verdict"),
    [(0.42, 0.58, "known"), (0.419999, 0.580001, "unknown"), (1.0, 0.0, "known"), (0.0, 1.0, "unknown")],
)
def test_an_image_is_unknown_if_its_score_is_above_the_threshold(
    familiarity: float, unknown_score: float, verdict: str
) -> None:
    found = prediction(familiarity, unknown_threshold=0.58)
    assert (found.unknown_score, found.verdict) == (unknown_score, verdict)


def test_an_image_is_known_to_a_version_without_a_threshold_or_a_score() -> None:
    assert prediction(0.0, None).verdict == "known"
    assert prediction(None, None).unknown_score is None
    assert prediction(None, 0.5).verdict == "known"
