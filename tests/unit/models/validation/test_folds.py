"""Groups of near-duplicate images, and folds in which every class keeps training samples."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from models.validation.folds import TRAIN_ONLY, group_duplicates, make_folds, thumbnail_correlation
from tests.unit.models.pictures import planes, scene


def duplicate(picture: Tensor, how: str) -> Tensor:
    """Return the image, re-encoded, resized or adjusted."""
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
    """Return an image with coarse structure, 128 pixels wide."""
    small = Image.fromarray(scene(16, 16, seed))
    return planes(np.asarray(small.resize((128, 128), Image.Resampling.BICUBIC)).copy())


def assign(
    labels: list[int], groups: list[int] | None = None, max_folds: int = 3, seed: int = 0
) -> tuple[list[int], int]:
    of_groups = torch.tensor(range(len(labels)) if groups is None else groups)
    folds = make_folds(torch.tensor(labels), of_groups, max_folds, torch.Generator().manual_seed(seed))
    return folds.test_fold.tolist(), folds.count


@pytest.mark.parametrize("how", ["same", "compressed", "smaller", "grey", "darker"])
def test_a_copy_of_an_image_is_in_its_group(how: str) -> None:
    groups = group_duplicates([coarse(1), coarse(2), duplicate(coarse(1), how)]).tolist()
    assert groups[0] == groups[2] != groups[1]


def test_a_mirror_image_is_a_duplicate_only_with_flips() -> None:
    pictures = [coarse(1), coarse(2), coarse(1).flip(2), coarse(2).flip(1, 2)]
    assert group_duplicates(pictures).tolist() == [0, 1, 2, 3]
    assert group_duplicates(pictures, flips=True).tolist() == [0, 1, 0, 1]


def test_different_images_are_in_different_groups() -> None:
    assert len(set(group_duplicates([coarse(seed) for seed in range(12)]).tolist())) == 12


def test_plain_surfaces_with_different_noise_are_in_different_groups() -> None:
    generator = torch.Generator().manual_seed(0)
    surfaces = [(120 + 6 * torch.randn(1, 64, 64, generator=generator)).clamp(0, 255).to(torch.uint8) for _ in range(5)]
    assert len(set(group_duplicates(surfaces).tolist())) == 5


def test_blank_images_are_one_group() -> None:
    flat = [torch.full((1, side, side), level, dtype=torch.uint8) for side, level in ((32, 0), (64, 200), (20, 90))]
    assert group_duplicates(flat).tolist() == [0, 0, 0]


def test_an_image_correlates_fully_with_itself() -> None:
    torch.testing.assert_close(thumbnail_correlation([coarse(1), coarse(2)]).diagonal(), torch.ones(2))


def test_folds_are_stratified_by_class() -> None:
    folds, count = assign([0] * 9 + [1] * 6)
    assert count == 3
    assert [sorted(folds[:9]).count(fold) for fold in range(3)] == [3, 3, 3]
    assert [sorted(folds[9:]).count(fold) for fold in range(3)] == [2, 2, 2]


def test_with_few_samples_each_fold_holds_out_one() -> None:
    folds, count = assign([0, 0, 1, 1], max_folds=4)
    assert (sorted(folds), count) == ([0, 1, 2, 3], 4)


def test_the_only_sample_of_a_class_is_never_held_out() -> None:
    folds, count = assign([0, 0, 0, 1])
    assert folds[3] == TRAIN_ONLY
    assert sorted(folds[:3]) == [0, 1, 2]
    assert count == 3


def test_a_group_is_never_divided() -> None:
    groups = [0, 0, 1, 1, 2, 3, 3, 4, 5, 5]
    folds, _ = assign([0] * 5 + [1] * 5, groups)
    for group in set(groups):
        assert len({fold for fold, member in zip(folds, groups, strict=True) if member == group}) == 1


def test_every_fold_trains_on_every_class_even_if_duplicates_have_two_labels() -> None:
    for seed in range(30):
        labels, groups = [0, 0, 1, 1, 1, 0], [0, 1, 0, 2, 3, 1]
        folds, count = assign(labels, groups, seed=seed)
        for fold in range(count):
            kept = {label for label, held_out_in in zip(labels, folds, strict=True) if held_out_in != fold}
            assert kept == {0, 1}


def test_one_sample_per_class_gives_no_folds() -> None:
    assert assign([0, 1, 2]) == ([TRAIN_ONLY] * 3, 0)


def test_copies_of_one_image_give_no_folds() -> None:
    assert assign([0, 0, 1, 1], [0, 0, 0, 0]) == ([TRAIN_ONLY] * 4, 0)


def test_the_seed_determines_the_folds() -> None:
    labels = [0] * 12 + [1] * 12
    assert assign(labels, seed=1) == assign(labels, seed=1) != assign(labels, seed=2)
