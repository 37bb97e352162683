"""Which samples are left out together: copies of a picture, and folds that keep every class."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from models.validation.folds import NEVER, copies, likeness, make_folds
from tests.unit.models.pictures import planes, scene


def copied(picture: Tensor, how: str) -> Tensor:
    """The picture as somebody might send it again."""
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    if how == "compressed":
        held = io.BytesIO()
        image.save(held, format="JPEG", quality=60)
        image = Image.open(held)
    elif how == "smaller":
        image = image.resize((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.BILINEAR)
    elif how == "grey":
        return torch.from_numpy(np.asarray(image.convert("L")).copy())[None]
    pixels = np.asarray(image).astype(np.float64)
    if how == "darker":
        pixels = pixels * 0.7 + 10
    return planes(np.clip(pixels, 0, 255).astype(np.uint8).copy())


def coarse(seed: int) -> Tensor:
    """A picture of coarse structure, 128 pixels wide."""
    small = Image.fromarray(scene(16, 16, seed))
    return planes(np.asarray(small.resize((128, 128), Image.Resampling.BICUBIC)).copy())


def dealt(labels: list[int], groups: list[int] | None = None, most: int = 3, seed: int = 0) -> tuple[list[int], int]:
    of_groups = torch.tensor(range(len(labels)) if groups is None else groups)
    folds = make_folds(torch.tensor(labels), of_groups, most, torch.Generator().manual_seed(seed))
    return folds.of_sample.tolist(), folds.count


@pytest.mark.parametrize("how", ["same", "compressed", "smaller", "grey", "darker"])
def test_a_copy_of_a_picture_is_in_its_group(how: str) -> None:
    groups = copies([coarse(1), coarse(2), copied(coarse(1), how)]).tolist()
    assert groups[0] == groups[2] != groups[1]


def test_a_mirror_image_is_a_copy_to_a_recipe_that_learns_from_mirrors_alone() -> None:
    pictures = [coarse(1), coarse(2), coarse(1).flip(2), coarse(2).flip(1, 2)]
    assert copies(pictures).tolist() == [0, 1, 2, 3]
    assert copies(pictures, mirrors=True).tolist() == [0, 1, 0, 1]


def test_different_pictures_are_in_groups_of_their_own() -> None:
    assert len(set(copies([coarse(seed) for seed in range(12)]).tolist())) == 12


def test_noise_on_a_plain_surface_is_a_picture_of_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    surfaces = [(120 + 6 * torch.randn(1, 64, 64, generator=generator)).clamp(0, 255).to(torch.uint8) for _ in range(5)]
    assert len(set(copies(surfaces).tolist())) == 5


def test_pictures_without_content_are_one() -> None:
    flat = [torch.full((1, side, side), level, dtype=torch.uint8) for side, level in ((32, 0), (64, 200), (20, 90))]
    assert copies(flat).tolist() == [0, 0, 0]


def test_a_picture_is_wholly_like_itself() -> None:
    torch.testing.assert_close(likeness([coarse(1), coarse(2)]).diagonal(), torch.ones(2))


def test_folds_take_turns_within_a_class() -> None:
    folds, count = dealt([0] * 9 + [1] * 6)
    assert count == 3
    assert [sorted(folds[:9]).count(fold) for fold in range(3)] == [3, 3, 3]
    assert [sorted(folds[9:]).count(fold) for fold in range(3)] == [2, 2, 2]


def test_with_few_samples_each_is_left_out_alone() -> None:
    folds, count = dealt([0, 0, 1, 1], most=4)
    assert (sorted(folds), count) == ([0, 1, 2, 3], 4)


def test_the_only_sample_of_a_class_is_never_left_out() -> None:
    folds, count = dealt([0, 0, 0, 1])
    assert folds[3] == NEVER
    assert sorted(folds[:3]) == [0, 1, 2]
    assert count == 3


def test_a_group_is_never_divided() -> None:
    groups = [0, 0, 1, 1, 2, 3, 3, 4, 5, 5]
    folds, _ = dealt([0] * 5 + [1] * 5, groups)
    for group in set(groups):
        assert len({fold for fold, own in zip(folds, groups, strict=True) if own == group}) == 1


def test_what_a_fold_learns_from_holds_every_class_even_where_copies_have_two_labels() -> None:
    for seed in range(30):
        labels, groups = [0, 0, 1, 1, 1, 0], [0, 1, 0, 2, 3, 1]
        folds, count = dealt(labels, groups, seed=seed)
        for fold in range(count):
            kept = {label for label, own in zip(labels, folds, strict=True) if own != fold}
            assert kept == {0, 1}


def test_nothing_can_be_left_out_of_one_sample_a_class() -> None:
    assert dealt([0, 1, 2]) == ([NEVER] * 3, 0)


def test_nothing_can_be_left_out_of_copies_of_one_picture() -> None:
    assert dealt([0, 0, 1, 1], [0, 0, 0, 0]) == ([NEVER] * 4, 0)


def test_the_seed_decides_who_is_left_out_with_whom() -> None:
    labels = [0] * 12 + [1] * 12
    assert dealt(labels, seed=1) == dealt(labels, seed=1) != dealt(labels, seed=2)
