"""Images of 8 to 16 bits per sample in files of 16 bits: the depth that they are scaled from."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from models.errors import ImageDepthMismatch
from models.images.decoding import DEFAULT_LIMITS, decode_pixels
from models.images.depth import FILE_BITS, common_depth
from service.runtime.decoder import DecodedImage, InlineDecoder, Upload
from service.runtime.decoder_child import ChildLimits
from service.runtime.decoder_process import DecoderProcess
from tests.unit.models.pictures import chunk, encoded, png_of, scene, tiff_of, tiff_page

MAX_SAMPLE_VALUE, S_MAX_SAMPLE_VALUE = 281, 341

REFERENCE = scene(40, 24)
"""An image of 8 bits per sample, of which some is black and some is white."""


def of_depth(bits: int, pixels: NDArray[np.uint8] = REFERENCE) -> NDArray[np.uint16]:
    """Return what a camera of that bit depth delivers for an image of 8 bits."""
    scaled: NDArray[np.float64] = np.rint(pixels * ((2**bits - 1) / 255))
    return scaled.astype(np.uint16)


def significant_bits(*bits: int) -> bytes:
    return chunk(b"sBIT", bytes(bits))


def distance(content: bytes, reference: NDArray[np.uint8]) -> int:
    """Return the largest difference between the decoded pixels and a reference of the same channels."""
    pixels = decode_pixels(content).pixels
    expected = reference[None] if reference.ndim == 2 else reference.transpose(2, 0, 1)
    assert pixels.shape == expected.shape
    return int(np.abs(pixels.astype(int) - expected.astype(int)).max())


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_an_undeclared_depth_is_the_smallest_that_holds_the_values(bits: int) -> None:
    grey = REFERENCE[..., 0]
    for content in (png_of(of_depth(bits, grey)), tiff_of(tiff_page(of_depth(bits, grey)))):
        assert distance(content, grey) <= 1
        assert decode_pixels(content).bit_depth == bits
    for content in (png_of(of_depth(bits)), tiff_of(tiff_page(of_depth(bits)))):
        assert distance(content, REFERENCE) <= 1
        assert decode_pixels(content).bit_depth == bits


@pytest.mark.parametrize("impossible", [0, 17, 25, 64, 255])
def test_a_declared_depth_that_no_sample_can_have_is_ignored(impossible: int) -> None:
    grey = REFERENCE[..., 0]
    content = png_of(of_depth(12, grey), significant_bits(impossible))
    assert distance(content, grey) <= 1
    assert decode_pixels(content).bit_depth == 12


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("tag", [MAX_SAMPLE_VALUE, S_MAX_SAMPLE_VALUE])
def test_a_dark_image_is_scaled_by_the_depth_that_its_file_declares(bits: int, tag: int) -> None:
    dark = REFERENCE // 20
    for pixels, channels in ((dark[..., 0], 1), (dark, 3)):
        declared = png_of(of_depth(bits, pixels), significant_bits(*[bits] * channels))
        page = tiff_page(of_depth(bits, pixels), {tag: (2**bits - 1,) * channels})
        for content in (declared, tiff_of(page)):
            assert distance(content, pixels) <= 1
            assert decode_pixels(content).bit_depth is None


def test_samples_of_12_bits_without_padding_are_scaled_from_12_bits() -> None:
    grey = REFERENCE[..., 0] // 20
    values = of_depth(12, grey).reshape(-1, 2).astype(int)
    packed = np.stack([values[:, 0] >> 4, (values[:, 0] & 15) << 4 | values[:, 1] >> 8, values[:, 1] & 255], axis=1)
    page = tiff_page(packed.astype(np.uint8).reshape(24, 60), {256: (40,), 258: (12,)})
    assert distance(tiff_of(page), grey) <= 1


def test_values_above_the_declared_depth_are_scaled_to_16_bits_as_png_asks() -> None:
    grey = REFERENCE[..., 0]
    values = of_depth(12, grey)
    content = png_of(((values << 4) | (values >> 8)).astype(np.uint16), significant_bits(12))
    assert distance(content, grey) <= 1
    assert decode_pixels(content).bit_depth is None


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 15])
def test_a_dark_png_that_was_scaled_to_16_bits_stays_dark(bits: int) -> None:
    """Its largest value is within the declared depth, and only the low bits say that it was scaled."""
    shift = FILE_BITS - bits
    steps = np.arange(40 * 24).reshape(24, 40) % 2 ** (bits - shift)
    for dark in (steps, np.stack([steps, steps // 2, 0 * steps], axis=-1)):
        content = png_of((dark << shift).astype(np.uint16), significant_bits(*[bits] * (3 if dark.ndim == 3 else 1)))
        assert distance(content, np.rint((dark << shift) / 257).astype(np.uint8)) <= 1


@pytest.mark.parametrize("largest", [255, 1023, 4000, 4095])
def test_a_largest_value_that_may_be_a_statistic_declares_no_depth(largest: int) -> None:
    values = np.linspace(0, min(largest, 1023), 40 * 24).reshape(24, 40).astype(np.uint16)
    values[0, 0] = largest
    content = tiff_of(tiff_page(values, {MAX_SAMPLE_VALUE: (largest,)}))
    assert decode_pixels(content).bit_depth == largest.bit_length()


def test_a_largest_value_that_the_image_exceeds_is_ignored() -> None:
    grey = REFERENCE[..., 0]
    for largest in (255, 1023):
        content = tiff_of(tiff_page(of_depth(12, grey), {MAX_SAMPLE_VALUE: (largest,)}))
        assert distance(content, grey) <= 1
        assert decode_pixels(content).bit_depth == 12


@pytest.mark.parametrize("channels", [2, 4])
def test_transparency_and_colours_of_16_bits_are_scaled_separately(channels: int) -> None:
    pixels = REFERENCE[..., :1].repeat(channels, axis=2)
    opaque = of_depth(12, pixels)
    opaque[..., -1] = 65535
    grey = pixels[..., 0]
    content = png_of(opaque)
    assert distance(content, grey if channels == 2 else pixels[..., :3]) <= 1
    assert decode_pixels(content).bit_depth == 12


def test_an_interlaced_png_is_scaled_like_any_other() -> None:
    assert distance(png_of(of_depth(12), interlaced=True), REFERENCE) <= 1


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_compressed_grey_of_12_bits_equals_uncompressed(compression: str, mode: str) -> None:
    grey = REFERENCE[..., 0]
    values = of_depth(12, grey)
    image = Image.frombytes(mode, (40, 24), values.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    assert distance(encoded(image, "TIFF", compression=compression), grey) <= 1


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i2", "<i4", "<u4"])
def test_the_depth_is_the_same_for_every_kind_of_integer(dtype: str) -> None:
    grey = REFERENCE[..., 0]
    page = tiff_page(of_depth(12, grey).astype(dtype))
    assert distance(tiff_of(page, order=dtype[0]), grey) <= 1


def test_colours_of_12_bits_are_read_in_both_byte_orders() -> None:
    for order in "<>":
        page = tiff_page(of_depth(12).astype(f"{order}u2"))
        assert distance(tiff_of(page, order=order), REFERENCE) <= 1


@pytest.fixture
def decoder() -> Iterator[InlineDecoder]:
    decoder = InlineDecoder(DEFAULT_LIMITS)
    yield decoder
    decoder.close()


def decoded(decoder: InlineDecoder, content: bytes) -> DecodedImage:
    return decoder.submit([Upload("a.png", content)]).result()[0]


def test_a_known_depth_replaces_the_smallest(decoder: InlineDecoder) -> None:
    dark = REFERENCE // 20
    for pixels in (dark[..., 0], dark):
        image = decoded(decoder, png_of(of_depth(12, pixels)))
        assert image.bit_depth == 8
        expected = torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1).int()
        assert (image.pixels.int() - expected).abs().max() > 100
        assert (image.at_depth(12).int() - expected).abs().max() <= 1


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("isolated", [False, True], ids=["inline", "process"])
def test_transparent_areas_stay_grey_at_a_known_depth(channels: int, isolated: bool) -> None:
    dark = (REFERENCE // 20)[..., :1].repeat(channels, axis=2)
    values = of_depth(12, dark)
    values[..., -1] = np.linspace(0, 65535, 40).astype(np.uint16)  # from transparent to opaque
    alpha = np.linspace(0, 1, 40)[None, :, None]
    expected = np.rint(dark[..., :-1] * alpha + 128 * (1 - alpha)).transpose(2, 0, 1)
    content = png_of(values)
    if isolated:
        process = DecoderProcess(ChildLimits(DEFAULT_LIMITS, 2**31, 60), dict(os.environ))
        try:
            process.wait_until_ready()
            image = process.decode(content, 60)
        finally:
            process.end()
    else:
        pixels = decode_pixels(content)
        assert pixels.zero is not None
        image = DecodedImage(torch.from_numpy(pixels.pixels), pixels.bit_depth, torch.from_numpy(pixels.zero))
    assert image.bit_depth == 8
    assert np.abs(image.at_depth(12).numpy() - expected).max() <= 2


def test_transparent_areas_of_a_turned_image_are_turned_with_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    values = of_depth(12, np.zeros((24, 40, 2), dtype=np.uint8))
    values[:, :10, 1] = 65535
    pixels = decode_pixels(png_of(values, chunk(b"eXIf", exif.tobytes()[6:])))
    assert pixels.pixels.shape == (1, 40, 24)
    assert pixels.zero is not None
    assert np.array_equal(pixels.zero, pixels.pixels)


def test_an_image_whose_lowest_value_is_white_is_scaled_from_a_known_depth(decoder: InlineDecoder) -> None:
    light = 255 - REFERENCE[..., 0] // 20
    image = decoded(decoder, tiff_of(tiff_page(of_depth(12, 255 - light), {262: (0,)})))
    assert image.bit_depth == 8
    assert np.abs(image.at_depth(12)[0].numpy().astype(int) - light).max() <= 1
    with pytest.raises(ImageDepthMismatch):
        decoded(decoder, tiff_of(tiff_page(of_depth(14, REFERENCE[..., 0]), {262: (0,)}))).at_depth(12)


@pytest.mark.parametrize("channels", [1, 3])
def test_values_above_the_known_depth_are_rejected(decoder: InlineDecoder, channels: int) -> None:
    image = decoded(decoder, png_of(of_depth(14, REFERENCE[..., :channels].squeeze())))
    assert torch.equal(image.at_depth(14), image.pixels)
    assert torch.equal(image.at_depth(None), image.pixels)
    with pytest.raises(ImageDepthMismatch, match=r"needs 14 bits.* only 12 \(values from 0 to 4095\).*sBIT"):
        image.at_depth(12)


def test_a_declared_depth_and_8_bits_are_independent_of_the_known_depth(decoder: InlineDecoder) -> None:
    grey = REFERENCE[..., 0]
    for content in (png_of(of_depth(14, grey), significant_bits(14)), encoded(Image.fromarray(grey))):
        image = decoded(decoder, content)
        assert image.bit_depth is None
        assert torch.equal(image.at_depth(12), image.pixels)
        assert np.abs(image.pixels[0].numpy().astype(int) - grey).max() <= 1


def test_a_low_value_is_white_where_the_file_says_so() -> None:
    grey = REFERENCE[..., 0]
    for bits in (8, 12, 16):
        values = 2**bits - 1 - of_depth(bits, grey)
        page = tiff_page(values.astype(np.uint8 if bits == 8 else np.uint16), {262: (0,)})
        assert distance(tiff_of(page), grey) <= 1
    page = tiff_page((1 - grey / 255).astype(np.float32), {262: (0,)})
    assert distance(tiff_of(page), grey) <= 1


def test_the_common_depth_holds_all_images() -> None:
    assert common_depth([10, None, 12, 8]) == 12
    assert common_depth([None, None]) is None
