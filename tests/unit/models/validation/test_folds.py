"""Groups of samples that show one part, and folds in which every class keeps training samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.validation.folds import TRAIN_ONLY, group_samples, make_folds
from tests.unit.models.pictures import planes, scene


def picture(seed: int, side: int = 48) -> Tensor:
    return planes(scene(side, side, seed))


def grouped(pictures: list[Tensor], parts: list[str | None] | None = None, *, flips: bool = False) -> list[int]:
    return group_samples(pictures, parts or [None] * len(pictures), flips=flips).tolist()


def assign(
    labels: list[int], groups: list[int] | None = None, max_folds: int = 3, seed: int = 0
) -> tuple[list[int], int]:
    of_groups = torch.tensor(range(len(labels)) if groups is None else groups)
    folds = make_folds(torch.tensor(labels), of_groups, max_folds, torch.Generator().manual_seed(seed))
    return folds.test_fold.tolist(), folds.count


def test_a_picture_that_was_sent_twice_is_one_group() -> None:
    assert grouped([picture(1), picture(2), picture(1)]) == [0, 1, 0]


def test_a_mirror_image_is_the_same_picture_only_with_flips() -> None:
    pictures = [picture(1), picture(2), picture(1).flip(2), picture(2).flip(1, 2), picture(2).flip(1)]
    assert grouped(pictures) == [0, 1, 2, 3, 4]
    assert grouped(pictures, flips=True) == [0, 1, 0, 1, 1]


def test_pictures_that_differ_in_one_pixel_are_different() -> None:
    changed = picture(1)
    changed[1, 17, 22] ^= 1
    assert grouped([picture(1), changed], flips=True) == [0, 1]


def test_equal_pixels_in_another_shape_are_different_pictures() -> None:
    flat = [torch.full((1, *shape), 7, dtype=torch.uint8) for shape in ((32, 64), (64, 32), (32, 32), (32, 64))]
    assert grouped(flat, flips=True) == [0, 1, 2, 0]


def test_different_parts_under_a_fixed_camera_are_different_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    fixture = picture(3).float()
    parts = [
        (fixture + 2 * torch.randn(fixture.shape, generator=generator)).clamp(0, 255).to(torch.uint8) for _ in range(10)
    ]
    assert grouped(parts, flips=True) == list(range(10))


def test_pictures_of_one_part_are_a_group_whatever_they_look_like() -> None:
    pictures = [picture(seed) for seed in range(6)]
    assert grouped(pictures, ["a", None, "b", "a", None, "b"]) == [0, 1, 2, 0, 3, 2]


def test_a_last_picture_that_shows_two_parts_joins_their_groups() -> None:
    pictures = [picture(1), picture(2), picture(3), picture(4), picture(1)]
    assert grouped(pictures, ["a", "a", "b", "c", "b"]) == [0, 0, 0, 1, 0]


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


@pytest.mark.parametrize("seed", range(5))
def test_a_part_that_has_all_samples_of_a_class_is_never_held_out(seed: int) -> None:
    labels, groups = [0, 0, 1, 0, 0, 2, 2, 2], [0, 0, 0, 1, 2, 3, 4, 5]  # all of class 1 is in a part of class 0
    folds, count = assign(labels, groups, seed=seed)
    assert folds[:3] == [TRAIN_ONLY] * 3
    assert count == 3
    for fold in range(count):
        assert {label for label, tested_in in zip(labels, folds, strict=True) if tested_in != fold} == {0, 1, 2}


def test_one_sample_per_class_gives_no_folds() -> None:
    assert assign([0, 1, 2]) == ([TRAIN_ONLY] * 3, 0)


def test_copies_of_one_image_give_no_folds() -> None:
    assert assign([0, 0, 1, 1], [0, 0, 0, 0]) == ([TRAIN_ONLY] * 4, 0)


def test_the_seed_determines_the_folds() -> None:
    labels = [0] * 12 + [1] * 12
    assert assign(labels, seed=1) == assign(labels, seed=1) != assign(labels, seed=2)
