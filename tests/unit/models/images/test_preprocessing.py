"""From canonical images to a net's input: every image stands for itself, and training sees what serving sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from models.errors import ImageCorrupt, ImageFormatUnsupported, InvalidConfig
from models.images.preprocessing import (
    DecodeLimits,
    ImageConfig,
    fit_to_side,
    load,
    normalise,
    prepare,
    prepare_together,
)
from tests.unit.models.pictures import encoded, planes, scene

GREY = ImageConfig(channels=1, side=32)
COLOUR = ImageConfig(channels=3, side=32)
LOCAL = ImageConfig(channels=1, side=32, contrast="local")
REGIONAL = ImageConfig(channels=1, side=32, contrast="regional")


def test_load_names_the_file_it_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "part.png"
    path.write_bytes(b"no picture")
    with pytest.raises(ImageFormatUnsupported, match=r"part\.png"):
        load(path)
    path.write_bytes(encoded(Image.fromarray(scene())))
    assert torch.equal(load(path), planes(scene()))


@pytest.mark.parametrize("spec", [GREY, COLOUR, LOCAL, REGIONAL, ImageConfig(3, 17, "local")])
def test_an_image_does_not_depend_on_its_neighbours(spec: ImageConfig) -> None:
    images = [planes(scene(30 + 11 * seed, 50 - 3 * seed, seed)) for seed in range(5)]
    together = prepare(images, spec)
    for image, prepared in zip(images, together, strict=True):
        assert torch.equal(prepare([image], spec)[0], prepared)
    assert torch.equal(prepare(images[::-1], spec).flip(0), together)


@pytest.mark.parametrize("spec", [GREY, COLOUR, LOCAL, REGIONAL])
def test_training_on_kept_bytes_sees_what_serving_sees(spec: ImageConfig) -> None:
    images = [planes(scene(seed=seed)) for seed in range(4)]
    kept = torch.stack([fit_to_side(image, spec) for image in images])
    assert kept.dtype == torch.uint8
    torch.testing.assert_close(normalise(kept, spec), prepare(images, spec), rtol=0, atol=1e-5)


def test_no_images_give_an_empty_batch() -> None:
    assert prepare([], COLOUR).shape == (0, 3, 32, 32)


def test_plain_values_lie_between_zero_and_one() -> None:
    image = torch.tensor([0, 255], dtype=torch.uint8).repeat(32, 16)[None]
    prepared = prepare([image], GREY)
    assert (float(prepared.min()), float(prepared.max())) == (0.0, 1.0)


def test_colour_becomes_grey_by_the_luma_of_rec_601() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None].expand(3, 40, 40)
    assert int(fit_to_side(red, GREY)[0, 5, 5]) == round(0.299 * 255)


def test_grey_becomes_colour_by_repetition() -> None:
    fitted = fit_to_side(planes(scene())[:1], COLOUR)
    assert torch.equal(fitted[0], fitted[1])
    assert torch.equal(fitted[0], fitted[2])


def test_shrinking_averages_and_does_not_skip_pixels() -> None:
    checks = (torch.arange(128)[:, None] + torch.arange(128)).remainder(2).mul(255).to(torch.uint8)[None]
    fitted = fit_to_side(checks, GREY).float()
    assert (fitted[:, 2:-2, 2:-2] - 127.5).abs().max() < 3


def test_local_contrast_forgets_light_and_gain() -> None:
    pattern = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(1))
    slope = torch.linspace(60, 120, 64)[None, None, :]
    plain = (90 + 40 * (pattern - 0.5)).round().to(torch.uint8)
    lit = (slope + 80 * (pattern - 0.5)).round().to(torch.uint8)
    spec = ImageConfig(1, 64, "local")
    first, second = prepare([plain], spec), prepare([lit], spec)
    assert torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1] > 0.98
    assert (first.std() / second.std() - 1).abs() < 0.1


@pytest.mark.parametrize("spec", [LOCAL, REGIONAL])
def test_even_contrast_leaves_a_flat_image_flat(spec: ImageConfig) -> None:
    flat = torch.full((1, 40, 40), 77, dtype=torch.uint8)
    assert prepare([flat], spec).abs().max() < 1e-3


def test_regional_contrast_keeps_more_of_how_strong_a_pattern_is() -> None:
    pattern = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(1)) - 0.5
    weak, strong = ((128 + gain * pattern).round().to(torch.uint8) for gain in (10, 40))
    ratio = {spec.contrast: prepare([strong], spec).std() / prepare([weak], spec).std() for spec in (LOCAL, REGIONAL)}
    assert 1.0 <= ratio["local"] < 1.3
    assert 1.5 < ratio["regional"] < 4.0


def test_local_contrast_is_bounded() -> None:
    spike = torch.zeros(1, 32, 32, dtype=torch.uint8)
    spike[0, 16, 16] = 255
    assert prepare([spike], LOCAL).abs().max() <= 5


@pytest.mark.parametrize(
    "make",
    [
        lambda: ImageConfig(channels=2, side=64),
        lambda: ImageConfig(channels=1, side=8),
        lambda: ImageConfig(channels=1, side=512),
        lambda: ImageConfig(channels=1, side=64, contrast="global"),  # type: ignore[arg-type]
        lambda: DecodeLimits(formats=("GIF",)),
        lambda: DecodeLimits(formats=()),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidConfig, match="allowed"):
        make()


def test_images_of_another_type_or_size_are_refused() -> None:
    with pytest.raises(ImageCorrupt, match="decode it first"):
        fit_to_side(torch.zeros(3, 20, 20), GREY)
    with pytest.raises(ImageCorrupt, match="fit_to_side"):
        normalise(torch.zeros(2, 1, 20, 20, dtype=torch.uint8), GREY)


@pytest.mark.parametrize("spec", [GREY, COLOUR, LOCAL, REGIONAL, ImageConfig(3, 17, "local")])
def test_images_prepared_side_by_side_are_what_each_is_alone(spec: ImageConfig) -> None:
    sizes = [(30, 50), (64, 64), (spec.side, spec.side), (30, 50)] * 6
    images = [planes(scene(*size, seed)) for seed, size in enumerate(sizes)]
    images[5] = images[5].float().mean(0, keepdim=True).to(torch.uint8)
    together = prepare_together(images, spec)
    torch.testing.assert_close(together, prepare(images, spec), rtol=0, atol=1e-5)
    assert prepare_together([], spec).shape == (0, spec.channels, spec.side, spec.side)
