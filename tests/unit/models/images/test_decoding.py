"""Decoding: accepted content, conversion of each pixel format, and the error for everything else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from models.errors import ImageCorrupt, ImageEmpty, ImageFormatUnsupported, ImageRejected, ImageTooLarge, ImageTooSmall
from models.images.decoding import CANONICAL_MAX_SIDE, CANONICAL_PIXELS, DecodeLimits
from models.images.preprocessing import decode
from tests.unit.models.pictures import encoded, planes, png_claiming, scene, tiff_in_tiles

ORIENTATION_TAG = 0x0112


def test_a_colour_image_keeps_its_pixels() -> None:
    pixels = scene()
    assert torch.equal(decode(encoded(Image.fromarray(pixels))), planes(pixels))


def test_a_grey_image_keeps_one_channel() -> None:
    pixels = scene()[:, :, 0]
    assert torch.equal(decode(encoded(Image.fromarray(pixels))), torch.from_numpy(pixels)[None])


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "WEBP", "TIFF"])
def test_every_accepted_format_is_detected_from_its_content(file_format: str) -> None:
    smooth = Image.fromarray(scene(4, 4)).resize((40, 24), Image.Resampling.BICUBIC)
    decoded = decode(encoded(smooth, file_format))
    assert decoded.shape == (3, 24, 40)
    assert (decoded.float() - planes(np.array(smooth)).float()).abs().mean() < 6


def test_a_format_outside_the_limits_is_rejected() -> None:
    with pytest.raises(ImageFormatUnsupported, match="none of PNG"):
        decode(encoded(Image.fromarray(scene()), "JPEG"), DecodeLimits(formats=("PNG",)))


@pytest.mark.parametrize(
    "content",
    [
        b"just text in a file called picture.png",
        encoded(Image.fromarray(scene()), "GIF"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"%PDF-1.7\n",
        b"8BPS\x00\x01" + bytes(64),
        b"RIFF\x10\x00\x00\x00WAVEfmt ",
        b"\x00",
    ],
    ids=["text", "gif", "eps", "pdf", "psd", "wav", "zero"],
)
def test_other_content_is_rejected(content: bytes) -> None:
    with pytest.raises(ImageFormatUnsupported, match="JPEG, PNG"):
        decode(content)


def test_no_bytes_are_rejected_as_empty() -> None:
    with pytest.raises(ImageEmpty):
        decode(b"")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_truncated_file_is_rejected_as_corrupt(file_format: str, share: float) -> None:
    content = encoded(Image.fromarray(scene(120, 90)), file_format)
    with pytest.raises(ImageCorrupt, match="undamaged"):
        decode(content[: int(len(content) * share)])


def test_a_header_alone_is_rejected_as_corrupt() -> None:
    with pytest.raises(ImageCorrupt):
        decode(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("size", [(20_000, 20_000), (9_000, 9_000), (100_000, 8)], ids=["bomb", "large", "strip"])
def test_a_decompression_bomb_is_rejected_from_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooLarge, match=f"{size[0]} x {size[1]}"):
        decode(png_claiming(*size))


@pytest.mark.parametrize("tile", [(6_000, 6_000), (16, 100_000)])
def test_a_small_image_with_huge_tiles_is_rejected(tile: tuple[int, int]) -> None:
    with pytest.raises(ImageTooLarge, match="tiles"):
        decode(tiff_in_tiles(*tile))


def test_an_image_in_one_tile_is_decoded() -> None:
    assert decode(tiff_in_tiles(16, 16)).shape == (1, 16, 16)


def test_a_file_with_too_many_bytes_is_rejected() -> None:
    with pytest.raises(ImageTooLarge, match="at most 100 are allowed"):
        decode(bytes(101), DecodeLimits(max_bytes=100))


@pytest.mark.parametrize("size", [(1, 1), (1, 9_000), (40, 7)])
def test_an_image_with_a_very_short_side_is_rejected_as_too_small(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooSmall, match="at least 8"):
        decode(png_claiming(*size))


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_an_animation_or_multi_page_document_is_rejected(file_format: str) -> None:
    frames = [Image.fromarray(scene(seed=seed)) for seed in range(3)]
    content = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    with pytest.raises(ImageFormatUnsupported, match="3 frames or pages"):
        decode(content)


def test_the_first_image_of_a_multi_picture_jpeg_is_decoded() -> None:
    frames = [Image.fromarray(scene(seed=seed)) for seed in range(2)]
    several = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert torch.equal(decode(several), decode(encoded(frames[0], "JPEG")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_every_exif_orientation_is_decoded_upright(orientation: int, file_format: str) -> None:
    upright = Image.fromarray(scene(400, 300))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    options: dict[str, object] = {"exif": exif, "lossless": True} if file_format == "WEBP" else {"exif": exif}
    assert torch.equal(decode(encoded(stored, file_format, **options)), decode(encoded(upright)))


def test_damaged_metadata_counts_as_upright() -> None:
    image = Image.fromarray(scene())
    content = encoded(image, "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert torch.equal(decode(content), decode(encoded(image, "JPEG")))


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    wide = np.linspace(0, 65535, 16 * 16).reshape(16, 16).astype(np.uint16)
    decoded = decode(encoded(Image.fromarray(wide)))
    assert torch.equal(decoded, torch.from_numpy(np.rint(wide / 257.0).astype(np.uint8))[None])


def test_a_big_endian_16_bit_tiff_equals_the_png() -> None:
    wide = np.linspace(0, 65535, 16 * 16).reshape(16, 16).astype(np.uint16)
    big = Image.frombytes("I;16B", (16, 16), wide.astype(">u2").tobytes())
    assert torch.equal(decode(encoded(big, "TIFF")), decode(encoded(Image.fromarray(wide))))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.linspace(0, 1, 64, dtype=np.float32), np.rint(np.linspace(0, 255, 64))),
        (np.linspace(-5, 300, 64, dtype=np.float32), np.rint(np.linspace(0, 255, 64))),
        (np.full(64, 7.0, dtype=np.float32), np.full(64, 128)),
        (np.linspace(0, 65535, 64).astype(np.int32), np.rint(np.linspace(0, 65535, 64).astype(np.int32) / 257)),
        (np.linspace(0, 2**31 - 1, 64).astype(np.int32), np.rint(np.linspace(0, 255, 64))),
    ],
    ids=["float-unit", "float-wide", "float-constant", "int-16", "int-32"],
)
def test_integer_and_float_pixels_are_scaled_to_8_bits(
    values: NDArray[np.generic], expected: NDArray[np.float64]
) -> None:
    decoded = decode(encoded(Image.fromarray(values.reshape(8, 8)), "TIFF"))
    assert (decoded[0].numpy().astype(int) - expected.reshape(8, 8).astype(int)).__abs__().max() <= 1


def test_float_pixels_that_are_not_finite_are_rejected() -> None:
    values = np.full((8, 8), np.nan, dtype=np.float32)
    with pytest.raises(ImageCorrupt, match="not finite"):
        decode(encoded(Image.fromarray(values), "TIFF"))


def test_one_bit_images_become_black_and_white() -> None:
    pixels = (scene()[:, :, 0] > 128).astype(np.uint8) * 255
    assert torch.equal(decode(encoded(Image.fromarray(pixels).convert("1"))), torch.from_numpy(pixels)[None])


def test_a_palette_image_decodes_to_its_palette_colours() -> None:
    palette = Image.fromarray(scene()).quantize(16)
    assert torch.equal(decode(encoded(palette)), planes(np.array(palette.convert("RGB"))))


def test_transparent_palette_entries_become_mid_grey() -> None:
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((3, 2), 1)
    decoded = decode(encoded(palette, transparency=0))
    assert decoded[:, 0, 0].tolist() == [128, 128, 128]
    assert decoded[:, 2, 3].tolist() == [0, 0, 255]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_composited_over_mid_grey(mode: str) -> None:
    image = Image.new(mode, (8, 8), (200, 0) if mode == "LA" else (200, 200, 200, 0))
    image.putpixel((1, 1), (200, 255) if mode == "LA" else (200, 200, 200, 255))
    decoded = decode(encoded(image))
    assert decoded.shape[0] == (1 if mode == "LA" else 3)
    assert set(decoded[:, 0, 0].tolist()) == {128}
    assert set(decoded[:, 1, 1].tolist()) == {200}


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_every_row_of_a_tall_transparent_image_is_composited_over_mid_grey(mode: str) -> None:
    """Such images are converted in strips. The first ones are transparent everywhere, and not for want of alpha."""
    colours, alpha = scene(8, 300)[..., : len(mode) - 1], np.linspace(-255, 255, 300).clip(0).astype(np.uint8)
    pixels = np.concatenate([colours, alpha[:, None, None].repeat(8, axis=1)], axis=2)
    share = alpha[:, None, None] / 255
    expected = np.rint(colours * share + 128 * (1 - share)).transpose(2, 0, 1)
    assert np.abs(decode(encoded(Image.fromarray(pixels, mode))).numpy() - expected).max() <= 1


def test_a_cmyk_jpeg_decodes_to_its_rgb_colours() -> None:
    image = Image.new("RGB", (16, 16), (200, 60, 30))
    decoded = decode(encoded(image.convert("CMYK"), "JPEG", quality=95))
    assert (decoded.float().mean(dim=(1, 2)) - torch.tensor([200.0, 60.0, 30.0])).abs().max() < 6


def test_an_unsupported_pixel_format_is_rejected() -> None:
    with pytest.raises(ImageFormatUnsupported, match="LAB"):
        decode(encoded(Image.new("LAB", (8, 8)), "TIFF"))


@pytest.mark.parametrize(
    ("width", "height", "shape"),
    [
        (1024, 1024, (256, 256)),
        (1200, 600, (181, 362)),
        (500, 4000, (724, 90)),
        (4000, 500, (90, 724)),
        (12_000, 600, (51, 1024)),
        (12_000, 8, (1, 1024)),
        (2000, 20, (10, 1024)),
    ],
)
def test_large_images_are_scaled_down_to_the_canonical_bounds(width: int, height: int, shape: tuple[int, int]) -> None:
    for file_format in ("PNG", "JPEG"):
        decoded = decode(encoded(Image.new("RGB", (width, height), (10, 120, 240)), file_format))
        assert decoded.shape[1:] == shape
        assert decoded[0].numel() <= CANONICAL_PIXELS
        assert max(decoded.shape[1:]) <= CANONICAL_MAX_SIDE
        assert (decoded[:, 0, 0].int() - torch.tensor([10, 120, 240])).abs().max() <= 3


@pytest.mark.parametrize(("width", "height"), [(256, 256), (512, 128), (1024, 64), (300, 200)])
def test_an_image_within_the_canonical_bounds_keeps_its_pixels(width: int, height: int) -> None:
    pixels = scene(width, height)
    assert torch.equal(decode(encoded(Image.fromarray(pixels))), planes(pixels))


@pytest.mark.parametrize("upright", [False, True])
def test_a_thin_scratch_survives_in_a_long_narrow_picture(upright: bool) -> None:
    """Within 256 x 256 pixels, this scratch, five pixels wide, would keep a quarter of its contrast."""
    pixels = np.full((500, 4000), 180, np.uint8)
    pixels[150:350, 2000:2005] = 20
    decoded = decode(encoded(Image.fromarray(pixels.T if upright else pixels)))
    assert 180 - int(decoded.min()) > 0.7 * 160


def test_small_images_are_not_enlarged() -> None:
    assert decode(encoded(Image.fromarray(scene(9, 8)))).shape == (3, 8, 9)


def test_decoding_twice_gives_the_same_bits() -> None:
    content = encoded(Image.fromarray(scene(700, 500)), "JPEG")
    assert torch.equal(decode(content), decode(content))


SEEDS_FOR_FUZZ = [
    encoded(Image.fromarray(scene(24, 16)), file_format) for file_format in ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
] + [encoded(Image.fromarray(scene(24, 16)).quantize(8), "PNG", transparency=1)]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    content=st.sampled_from(SEEDS_FOR_FUZZ),
    changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=12),
    cut=st.one_of(st.none(), st.integers(1, 4000)),
)
def test_mutated_files_give_an_image_or_an_error(
    content: bytes, changes: list[tuple[int, int]], cut: int | None
) -> None:
    mutated = bytearray(content[:cut])
    for position, value in changes:
        mutated[position % len(mutated)] = value
    try:
        image = decode(bytes(mutated))
    except ImageRejected:
        return
    assert image.dtype == torch.uint8
    assert image.shape[0] in (1, 3)
    assert image[0].numel() <= CANONICAL_PIXELS
