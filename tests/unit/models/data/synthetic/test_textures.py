"""Procedural textures: reproducible, independent of order, varied and not too easy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.data.synthetic import Textures
from models.data.synthetic.canvas import Draws, Field, new_canvas
from models.data.synthetic.defects import DEFECTS
from models.data.synthetic.family import Family, Range, new_look, steady_look
from models.data.synthetic.surfaces import SURFACES
from models.data.synthetic.textures import product_line
from models.errors import DatasetUnavailable


def generators(count: int, seed: int = 0) -> Draws:
    return Draws([np.random.default_rng((seed, index)) for index in range(count)])


def ones(count: int) -> Field:
    return np.ones((count, 1, 1), dtype=np.float32)


def test_the_same_seed_gives_the_same_images() -> None:
    first, second = Textures(lines=3), Textures(lines=3)
    assert torch.equal(first.images(13), second.images(13))


def test_another_seed_gives_other_images() -> None:
    assert not torch.equal(Textures(lines=1).images(0), Textures(lines=1, seed=1).images(0))


def test_the_order_of_requests_does_not_change_images() -> None:
    forwards, backwards = Textures(lines=1), Textures(lines=1)
    first = [forwards.images(index) for index in range(8)]
    second = [backwards.images(index) for index in reversed(range(8))]
    assert all(torch.equal(one, other) for one, other in zip(first, reversed(second), strict=True))


@pytest.mark.parametrize("class_index", range(0, 40, 3))
def test_an_image_does_not_depend_on_the_others_in_its_batch(class_index: int) -> None:
    textures = Textures(lines=5)
    batch = textures.images_at(class_index, range(6))
    assert torch.equal(textures.images_at(class_index, [4, 1]), batch[[4, 1]])


def test_a_larger_dataset_starts_with_the_same_classes() -> None:
    assert torch.equal(Textures(lines=2).images(9), Textures(lines=50).images(9))


def test_images_of_a_class_differ_from_one_another() -> None:
    images = Textures(lines=1).images(0).flatten(1)
    assert len({tuple(image.tolist()) for image in images}) == 20


@pytest.mark.parametrize(("side", "channels"), [(64, 1), (64, 3), (33, 1), (128, 3)])
def test_images_have_the_requested_size(side: int, channels: int) -> None:
    textures = Textures(side=side, channels=channels, lines=1, images_per_class=3)
    images = textures.images(5)
    assert images.shape == (3, channels, side, side)
    assert images.dtype == torch.uint8
    assert textures.count(5) == 3


def test_a_product_line_has_eight_classes() -> None:
    textures = Textures(lines=4)
    assert len(textures) == 32
    assert [textures.product_line(index) for index in (0, 7, 8, 31)] == [0, 0, 1, 3]
    assert textures.class_names[9].startswith("line1/")
    assert len(set(textures.class_names)) == 32


@pytest.mark.parametrize("class_index", [-1, 8])
def test_a_class_index_out_of_range_is_rejected(class_index: int) -> None:
    with pytest.raises(DatasetUnavailable, match="has classes 0 to 7"):
        Textures(lines=1).images(class_index)


@pytest.mark.parametrize("settings", [{"side": 8}, {"channels": 2}, {"lines": 0}, {"images_per_class": 0}])
def test_invalid_settings_are_rejected(settings: dict[str, int]) -> None:
    with pytest.raises(DatasetUnavailable, match="allowed:"):
        Textures(**settings)


def test_the_number_of_classes_in_memory_is_limited() -> None:
    textures = Textures(lines=1, images_per_class=2, kept_classes=2)
    kept = textures.images(0)
    textures.images(1)
    assert textures.images(0) is kept
    textures.images(2)
    textures.images(3)
    assert textures.images(0) is not kept
    assert torch.equal(textures.images(0), kept)


def test_no_image_indices_give_an_empty_batch() -> None:
    assert Textures(lines=1).images_at(0, []).shape == (0, 1, 64, 64)


@pytest.mark.parametrize("family", [*SURFACES, *DEFECTS], ids=lambda family: family.name)
def test_every_family_draws_finite_and_varied_fields(family: Family[np.ndarray]) -> None:
    canvas = new_canvas(generators(6), 64, np.float32(0.3) * ones(6), ones(6))
    for corner in (0.0, 0.5, 1.0):
        field = steady_look(family, dict.fromkeys(family.ranges, corner)).draw(canvas)
        assert field.shape == (6, 64, 64)
        assert field.dtype == np.float32
        assert np.isfinite(field).all()
        assert np.abs(field).max() < 40
        assert (field.std(axis=(1, 2)) > 0).all()


@pytest.mark.parametrize("family", SURFACES, ids=lambda family: family.name)
def test_every_surface_has_about_zero_mean_and_unit_deviation(family: Family[np.ndarray]) -> None:
    canvas = new_canvas(generators(20), 64, ones(20), ones(20))
    field = new_look(family, np.random.default_rng(1)).draw(canvas)
    assert abs(float(field.mean())) < 0.3
    assert 0.5 < float(field.std()) < 1.5


def test_a_parameter_is_clipped_to_its_range() -> None:
    span = Range(0.1, 10, log=True)
    assert np.allclose(span.at(np.array([-1.0, 0.0, 0.5, 1.0, 2.0], dtype=np.float32)), [0.1, 0.1, 1.0, 10, 10])


def test_a_moved_look_stays_in_its_family() -> None:
    look = new_look(SURFACES[0], np.random.default_rng(0))
    moved = look.moved(np.random.default_rng(1), 0.3)
    assert moved.family is look.family
    assert moved.point.keys() == look.point.keys()
    assert all(0 <= position <= 1 for position in moved.point.values())
    assert all(moved.point[name] != look.point[name] for name in look.point)


def test_product_lines_of_all_three_kinds_are_drawn() -> None:
    lines = [product_line(np.random.default_rng(seed), 8) for seed in range(60)]
    one_surface = [line for line in lines if len({repr(part.layers) for part in line}) == 1]
    one_family = [line for line in lines if len({part.layers[0][0].family.name for part in line}) == 1]
    assert 20 < len(one_surface) < 50
    assert len(one_surface) < len(one_family) < 60
    assert all(any(part.defects for part in line) for line in one_surface)
    assert all(len(line) == 8 for line in lines)


def test_classes_are_separable_but_not_by_brightness_alone() -> None:
    """A nearest-mean classifier is inaccurate on brightness and far above chance on local statistics."""
    textures = Textures(lines=12, images_per_class=16)
    chance, by_brightness, by_statistics = 1 / 8, [], []
    for line in range(12):
        images = torch.stack([textures.images(8 * line + index) for index in range(8)]).float()  # (8, 16, 1, 64, 64)
        by_brightness.append(_accuracy(images.mean(dim=(3, 4))))
        by_statistics.append(_accuracy(_statistics(images)))
    assert float(np.mean(by_statistics)) > 3 * chance
    assert float(np.mean(by_statistics)) > float(np.mean(by_brightness)) + 0.1


def _statistics(images: torch.Tensor) -> torch.Tensor:
    """Return the logarithms of mean absolute differences at four distances in two directions: (8, 16, 8)."""
    images = images.squeeze(2)
    statistics = []
    for distance in (1, 2, 4, 8):
        statistics.append((images[..., distance:] - images[..., :-distance]).abs().mean(dim=(2, 3)))
        statistics.append((images[..., distance:, :] - images[..., :-distance, :]).abs().mean(dim=(2, 3)))
    return torch.stack(statistics, dim=-1).add(0.1).log()


def _accuracy(features: torch.Tensor) -> float:
    """Return the accuracy of a nearest-mean classifier, fitted to 8 of 16 images per class; features (8, 16, any)."""
    means, queries = features[:, :8].mean(dim=1), features[:, 8:].flatten(0, 1)
    nearest = torch.cdist(queries, means).argmin(dim=1)
    return float((nearest == torch.arange(8).repeat_interleave(8)).float().mean())


def test_colour_images_are_coloured_and_have_the_structure_of_grey_ones() -> None:
    colour, grey = Textures(channels=3, lines=4, images_per_class=2), Textures(lines=4, images_per_class=2)
    spread = []
    for index in range(0, 32, 4):
        image = colour.images(index).float()
        spread.append(float((image.amax(dim=1) - image.amin(dim=1)).mean()))
        both = torch.stack([image.mean(dim=1).flatten(), grey.images(index).float().flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.3
    assert max(spread) > 10
