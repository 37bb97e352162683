"""Preprocessing: images are independent of each other, and training and serving give the same input."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.config import EFFICIENTNET_LITE0
from models.errors import ImageCorrupt, InvalidConfig
from models.images.preprocessing import (
    DecodeLimits,
    ImageConfig,
    fit_to_side,
    normalise,
    prepare,
    prepare_batch,
)
from tests.unit.models.pictures import planes, scene

GREY = ImageConfig(channels=1, side=32)
COLOUR = ImageConfig(channels=3, side=32)
LOCAL = ImageConfig(channels=1, side=32, contrast="local")
REGIONAL = ImageConfig(channels=1, side=32, contrast="regional")
AREA = EFFICIENTNET_LITE0.image


@pytest.mark.parametrize("config", [GREY, COLOUR, LOCAL, REGIONAL, ImageConfig(3, 17, "local")])
def test_images_are_prepared_independently(config: ImageConfig) -> None:
    images = [planes(scene(30 + 11 * seed, 50 - 3 * seed, seed)) for seed in range(5)]
    batch = prepare(images, config)
    for image, prepared in zip(images, batch, strict=True):
        assert torch.equal(prepare([image], config)[0], prepared)
    assert torch.equal(prepare(images[::-1], config).flip(0), batch)


@pytest.mark.parametrize("config", [GREY, COLOUR, LOCAL, REGIONAL])
def test_normalising_resized_images_equals_preparing_them(config: ImageConfig) -> None:
    images = [planes(scene(seed=seed)) for seed in range(4)]
    resized = torch.stack([fit_to_side(image, config) for image in images])
    assert resized.dtype == torch.uint8
    torch.testing.assert_close(normalise(resized, config), prepare(images, config), rtol=0, atol=1e-5)


def test_no_images_give_an_empty_batch() -> None:
    assert prepare([], COLOUR).shape == (0, 3, 32, 32)


def test_values_without_contrast_normalisation_are_in_0_to_1() -> None:
    image = torch.tensor([0, 255], dtype=torch.uint8).repeat(32, 16)[None]
    prepared = prepare([image], GREY)
    assert (float(prepared.min()), float(prepared.max())) == (0.0, 1.0)


def test_colour_is_converted_to_grey_by_rec_601_luma() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None].expand(3, 40, 40)
    assert int(fit_to_side(red, GREY)[0, 5, 5]) == round(0.299 * 255)


def test_grey_is_converted_to_colour_by_repetition() -> None:
    fitted = fit_to_side(planes(scene())[:1], COLOUR)
    assert torch.equal(fitted[0], fitted[1])
    assert torch.equal(fitted[0], fitted[2])


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("bright", range(4))
def test_downsizing_averages_all_pixels(axis: int, bright: int) -> None:
    """A plain bilinear filter reads two pixels of four, so it sees lines too bright or not at all."""
    lines = (torch.arange(128) % 4 == bright).mul(200).to(torch.uint8)
    image = lines[None, :, None].expand(1, 128, 128) if axis == 1 else lines[None, None, :].expand(1, 128, 128)
    fitted = fit_to_side(image, GREY).float()
    assert (fitted[:, 2:-2, 2:-2] - 50).abs().max() <= 15
    assert (fitted.mean() - 50).abs() < 1


def test_local_contrast_removes_illumination_and_gain() -> None:
    pattern = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(1))
    slope = torch.linspace(60, 120, 64)[None, None, :]
    plain = (90 + 40 * (pattern - 0.5)).round().to(torch.uint8)
    lit = (slope + 80 * (pattern - 0.5)).round().to(torch.uint8)
    config = ImageConfig(1, 64, "local")
    first, second = prepare([plain], config), prepare([lit], config)
    assert torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1] > 0.98
    assert (first.std() / second.std() - 1).abs() < 0.1


@pytest.mark.parametrize("config", [LOCAL, REGIONAL])
def test_contrast_normalisation_keeps_a_flat_image_flat(config: ImageConfig) -> None:
    flat = torch.full((1, 40, 40), 77, dtype=torch.uint8)
    assert prepare([flat], config).abs().max() < 1e-3


def test_regional_contrast_preserves_more_of_a_patterns_strength() -> None:
    pattern = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(1)) - 0.5
    weak, strong = ((128 + gain * pattern).round().to(torch.uint8) for gain in (10, 40))
    ratio = {
        config.contrast: prepare([strong], config).std() / prepare([weak], config).std() for config in (LOCAL, REGIONAL)
    }
    assert 1.0 <= ratio["local"] < 1.3
    assert 1.5 < ratio["regional"] < 4.0


def test_local_contrast_is_clipped() -> None:
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
        lambda: ImageConfig(channels=1, side=64, contrast="torchvision"),
        lambda: DecodeLimits(formats=("GIF",)),
        lambda: DecodeLimits(formats=()),
    ],
)
def test_invalid_settings_are_rejected(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidConfig, match="allowed"):
        make()


def test_images_of_another_type_or_size_are_rejected() -> None:
    with pytest.raises(ImageCorrupt, match="decode it first"):
        fit_to_side(torch.zeros(3, 20, 20), GREY)
    with pytest.raises(ImageCorrupt, match="fit_to_side"):
        normalise(torch.zeros(2, 1, 20, 20, dtype=torch.uint8), GREY)


@pytest.mark.parametrize("config", [GREY, COLOUR, LOCAL, REGIONAL, ImageConfig(3, 17, "local")])
def test_prepare_batch_agrees_with_prepare(config: ImageConfig) -> None:
    sizes = [(30, 50), (64, 64), (config.side, config.side), (30, 50)] * 6
    images = [planes(scene(*size, seed)) for seed, size in enumerate(sizes)]
    images[5] = images[5].float().mean(0, keepdim=True).to(torch.uint8)
    batch = prepare_batch(images, config)
    torch.testing.assert_close(batch, prepare(images, config), rtol=0, atol=1e-5)
    assert prepare_batch([], config).shape == (0, config.channels, config.side, config.side)


@pytest.mark.parametrize("upright", [False, True])
def test_an_image_of_up_to_8_to_1_is_never_squeezed_by_more_than_a_third(upright: bool) -> None:
    """Relative to the same scale for both axes, at the same area."""
    for aspect in torch.linspace(1, 8, 141).tolist():
        height, width = (round(100 * aspect), 100) if upright else (100, round(100 * aspect))
        shape = AREA.shape_for(height, width)
        assert abs(math.log(shape[1] / shape[0] * height / width)) / 2 < math.log(1.35)
        assert 0.9 * AREA.side**2 < shape[0] * shape[1] < 1.1 * AREA.side**2


def test_the_documentation_names_the_shapes_that_the_default_model_sees() -> None:
    page = (Path(__file__).parents[4] / "docs/images.md").read_text(encoding="utf-8").replace("\n", " ")
    lying = [f"{width} x {height}" for height, width in AREA.shapes if width >= height]
    assert f"{', '.join(lying[:-1])} or {lying[-1]}" in page


def test_torchvision_contrast_is_imagenets_mean_and_deviation_per_channel() -> None:
    pixel = torch.tensor([0, 128, 255], dtype=torch.uint8)[:, None, None].expand(3, 16, 16)
    prepared = prepare([pixel], ImageConfig(3, 16, "torchvision"))
    expected = torch.tensor([(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    assert torch.allclose(prepared[0, :, 8, 8], expected, atol=1e-6)
