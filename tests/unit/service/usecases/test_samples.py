"""Samples of a request joined with stored ones: what an image that is sent again keeps, and what it takes over."""

from __future__ import annotations

import pytest
import torch

from service.domain.version import SampleRef
from service.usecases.samples import Sample, join_samples


def sample(label: str, part: str | None = None, second: str | None = None) -> Sample:
    return Sample(SampleRef("a" * 64, label, "1.png", part, second), torch.zeros(3, 16, 16, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("again", "part", "second"),
    [
        (sample("fine"), "1", "a scratch"),
        (sample("fine", part="2"), "2", "a scratch"),
        (sample("fine", second="a dent"), "1", "a dent"),
    ],
)
def test_an_image_that_is_sent_again_keeps_its_part_and_text_unless_others_are_sent(
    again: Sample, part: str, second: str
) -> None:
    (joined,) = join_samples([sample("coarse", "1", "a scratch")], [again])
    assert joined.ref == SampleRef("a" * 64, "fine", "1.png", part, second)
