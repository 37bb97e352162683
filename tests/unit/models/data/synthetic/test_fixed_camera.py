"""Pictures of a product under a fixed camera: reproducible, one fixture, defects of the stated size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.data.synthetic.fixed_camera import (
    DEFECT_KINDS,
    LARGEST_DEFECT,
    MAX_SHIFT,
    MIN_PLAY,
    SIDE,
    SMALLEST_DEFECT,
    Fixture,
    part_pictures,
    photographs,
)
from models.errors import DatasetUnavailable


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def fixture() -> Fixture:
    return Fixture(generator(0))


def best_aligned(picture: np.ndarray, reference: np.ndarray, play: int) -> np.ndarray:
    """Mean difference per pixel, (side, side), at the whole shift where the pictures agree best."""
    reach = 2 * play
    inner = reference[:, reach:-reach, reach:-reach].astype(float)
    candidates = [
        np.abs(picture[:, y : y + inner.shape[1], x : x + inner.shape[2]].astype(float) - inner).mean(0)
        for y in range(2 * reach + 1)
        for x in range(2 * reach + 1)
    ]
    return min(candidates, key=lambda difference: float(difference.mean()))


def test_the_generators_determine_the_pictures() -> None:
    first, again, other = (part_pictures(Fixture(generator(seed)), generator(5), "dent", 1) for seed in (1, 1, 2))
    assert np.array_equal(first[0].pixels, again[0].pixels)
    assert not np.array_equal(first[0].pixels, other[0].pixels)


def test_pictures_are_in_colour_and_name_their_label_and_part(fixture: Fixture) -> None:
    pictures = part_pictures(fixture, generator(1), "burr", parts=2, pictures_per_part=2)
    assert [(picture.label, picture.part) for picture in pictures] == [
        ("burr", 0),
        ("burr", 0),
        ("burr", 1),
        ("burr", 1),
    ]
    assert all(picture.pixels.shape == (3, SIDE, SIDE) for picture in pictures)
    assert part_pictures(fixture, generator(1), None, 1)[0].label == "good"


@pytest.mark.parametrize("kind", DEFECT_KINDS)
def test_a_defect_changes_half_a_percent_to_two_percent_of_the_picture(fixture: Fixture, kind: str) -> None:
    areas = [fixture.defect_area(fixture.part(generator(seed), kind).scene) for seed in range(4)]
    assert all(SMALLEST_DEFECT <= area <= LARGEST_DEFECT for area in areas), areas


def test_good_parts_show_the_same_fixture_up_to_a_shift_noise_and_exposure(fixture: Fixture) -> None:
    pictures = photographs(fixture.part(generator(0)), generator(2), 4)
    assert fixture.defect_area(fixture.part(generator(3)).scene) == 0
    differences = [best_aligned(picture, pictures[0], fixture.play) for picture in pictures[1:]]
    assert all(0 < difference.mean() < 0.05 * 255 for difference in differences)
    assert any(not np.array_equal(picture, pictures[0]) for picture in pictures[1:])


def test_two_pictures_of_a_part_show_the_same_defect_and_differ_in_noise(fixture: Fixture) -> None:
    first, second, other = part_pictures(fixture, generator(4), "stain", parts=2, pictures_per_part=2)[:3]
    assert not np.array_equal(first.pixels, second.pixels)
    same, different = (best_aligned(picture.pixels, first.pixels, fixture.play) for picture in (second, other))
    strong = 0.12 * 255
    assert (same > strong).mean() < 0.2 * (different > strong).mean()


def test_parts_of_a_fixture_are_shifted_by_its_play_at_most() -> None:
    assert {Fixture(generator(seed)).play for seed in range(40)} == set(range(MIN_PLAY, MAX_SHIFT + 1))
    still = Fixture(generator(0)).part(generator(0))
    firm, loose = (
        photographs(replace(still, play=play), generator(1), 6).astype(float).mean(1) for play in (0, MAX_SHIFT)
    )
    assert np.abs(np.diff(loose, axis=0)).mean() > 2 * np.abs(np.diff(firm, axis=0)).mean()


def test_fixtures_differ() -> None:
    first, second = (photographs(Fixture(generator(seed)).part(generator(0)), generator(0), 1)[0] for seed in (6, 7))
    assert best_aligned(first, second, MIN_PLAY).mean() > 0.05 * 255


def test_an_unknown_kind_of_defect_is_named_with_the_allowed_ones(fixture: Fixture) -> None:
    with pytest.raises(DatasetUnavailable, match=r"no defect 'rust'; allowed: scratch, dent"):
        fixture.part(generator(0), "rust")
