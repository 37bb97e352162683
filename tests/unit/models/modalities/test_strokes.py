"""Pen strokes as a vector."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.modalities.strokes import STROKES_SIZE, Floats, quarter_turned, resample, strokes_vectors


def stroke(*points: tuple[float, float]) -> Floats:
    return np.array(points, np.float32)


CORNER = [stroke((0, 0), (10, 0), (10, 10))]
CROSS = [stroke((0, 5), (10, 5)), stroke((5, 0), (5, 10))]


def vectors(*drawings: list[Floats]) -> torch.Tensor:
    return strokes_vectors(np.stack([resample(drawing) for drawing in drawings]))


def test_points_lie_evenly_along_the_strokes_in_their_order() -> None:
    points = resample(CORNER)
    assert points[:64, 1] == pytest.approx(-1, abs=1e-5)  # first to the right
    assert (np.diff(points[:64, 0]) > 0).all()
    assert (np.diff(points[64:, 1]) > 0).all()  # then upwards


def test_the_first_point_of_each_stroke_is_marked() -> None:
    assert resample(CORNER)[:, 2].nonzero()[0].tolist() == [0]
    assert resample(CROSS)[:, 2].nonzero()[0].tolist() == [0, 64]


def test_place_and_size_of_a_drawing_do_not_count() -> None:
    moved = [7 + 3 * CORNER[0]]
    assert torch.allclose(vectors(CORNER), vectors(moved), atol=1e-4)


def test_the_direction_of_a_stroke_counts() -> None:
    backwards = [CORNER[0][::-1].copy()]
    assert (vectors(CORNER) - vectors(backwards)).abs().max() > 0.5


def test_turning_a_drawing_is_turning_its_points() -> None:
    turned = [np.stack([-each[:, 1], each[:, 0]], axis=1) for each in CROSS]
    expected = quarter_turned(resample(CROSS), 1)
    assert np.allclose(resample(turned), expected, atol=1e-5)
    assert np.allclose(quarter_turned(expected, 3), resample(CROSS), atol=1e-5)


def test_a_dot_gives_finite_numbers() -> None:
    described = vectors([stroke((3, 3))], CORNER)
    assert described.shape == (2, STROKES_SIZE)
    assert bool(described.isfinite().all())
