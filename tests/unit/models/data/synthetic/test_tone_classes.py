"""Classes that differ in colour only or in brightness only."""

from __future__ import annotations

import numpy as np

from models.data.synthetic.tone_classes import brightness_classes, colour_classes


def channel_means(pictures: np.ndarray) -> np.ndarray:
    """Mean colour of each picture: (n_way, count, 3)."""
    return np.asarray(pictures.mean(axis=(3, 4)))


def luma(pictures: np.ndarray) -> np.ndarray:
    """Mean luma of each picture: (n_way, count)."""
    return np.asarray(channel_means(pictures) @ np.array([0.299, 0.587, 0.114]))


def hues(pictures: np.ndarray) -> np.ndarray:
    """Share of red and of green in the colour of each picture: (n_way, count, 2)."""
    means = channel_means(pictures)
    return np.asarray(means[..., :2] / means.sum(axis=2, keepdims=True))


def test_the_generator_determines_the_pictures() -> None:
    for draw in (colour_classes, brightness_classes):
        first, again, other = (draw(np.random.default_rng(seed), 2, 2, side=32) for seed in (0, 0, 1))
        assert first.shape == (2, 2, 3, 32, 32)
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


def test_classes_of_different_colour_have_the_same_luma() -> None:
    pictures = colour_classes(np.random.default_rng(3), 5, 6, side=64)
    brightness, colour = luma(pictures), hues(pictures)
    between = np.ptp(brightness.mean(axis=1))
    assert between < 2 * brightness.std(axis=1).max()  # no more than pictures of one class differ
    distance = np.abs(colour.mean(axis=1)[:, None] - colour.mean(axis=1)).max(axis=2)
    assert distance[~np.eye(5, dtype=bool)].min() > 4 * colour.std(axis=1).max()


def test_classes_of_different_brightness_have_the_same_colour() -> None:
    pictures = brightness_classes(np.random.default_rng(4), 5, 6, side=64)
    brightness, colour = luma(pictures), hues(pictures)
    assert (np.diff(brightness.mean(axis=1)) > 4 * brightness.std(axis=1).max()).all()
    assert np.ptp(colour.mean(axis=1), axis=0).max() < 0.01
