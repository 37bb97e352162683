"""Classes whose images nearly repeat each other."""

from __future__ import annotations

import torch
from torch import Tensor

from models.validation.similarity import alike_classes

LABELS = torch.arange(2).repeat_interleave(12)
EACH = torch.arange(24)


def pictures(parts: int, spread: float, width: int = 40) -> Tensor:
    """Features of 12 pictures of each of two classes. Pictures of one part differ by `spread`."""
    generator = torch.Generator().manual_seed(0)
    of_parts = torch.randn(2, parts, width, generator=generator).repeat(1, 12 // parts, 1).flatten(0, 1)
    return of_parts + spread * torch.randn(24, width, generator=generator)


def test_several_pictures_of_each_part_are_alike() -> None:
    assert alike_classes(pictures(parts=4, spread=0.2), LABELS, EACH) == (0, 1)
    assert alike_classes(pictures(parts=1, spread=0.2), LABELS, EACH) == (0, 1)


def test_different_parts_are_not_alike() -> None:
    assert alike_classes(pictures(parts=12, spread=0.2), LABELS, EACH) == ()


def test_pictures_that_are_known_to_show_one_part_do_not_count() -> None:
    parts = torch.arange(8).view(2, 1, 4).repeat(1, 3, 1).flatten()
    assert alike_classes(pictures(parts=4, spread=0.2), LABELS, parts) == ()


def test_one_picture_of_another_part_does_not_hide_that_the_others_repeat_each_other() -> None:
    features = pictures(parts=4, spread=0.2)
    features[0], features[12] = 3.0, -3.0
    assert alike_classes(features, LABELS, EACH) == (0, 1)


def test_only_the_class_that_repeats_itself_is_named() -> None:
    features = pictures(parts=12, spread=0.2)
    features[12:] = pictures(parts=3, spread=0.1)[12:]
    assert alike_classes(features, LABELS, EACH) == (1,)


def test_two_parts_of_a_class_are_too_few_to_tell() -> None:
    features, labels = pictures(parts=1, spread=0.1), torch.cat([torch.zeros(2), torch.ones(22)]).long()
    assert alike_classes(features, labels, EACH) == (1,)


def test_many_features_are_sampled_evenly() -> None:
    assert alike_classes(pictures(parts=4, spread=0.2, width=3000), LABELS, EACH) == (0, 1)
    assert alike_classes(pictures(parts=12, spread=0.2, width=3000), LABELS, EACH) == ()


def test_identical_images_are_alike() -> None:
    assert alike_classes(torch.zeros(24, 5), LABELS, EACH) == (0, 1)
