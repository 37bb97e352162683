"""Demo images: decodable, labelled, reproducible and learnable."""

from __future__ import annotations

import torch

from models.data.synthetic.demo import demo_samples
from models.images.preprocessing import ImageConfig, decode, prepare


def test_the_demo_has_four_classes_of_ten_images_and_queries() -> None:
    demo = demo_samples()
    labels = [image.label for image in demo.support]
    assert sorted(set(labels)) == ["clean", "pit", "scratch", "stain"]
    assert all(labels.count(label) == 10 for label in set(labels))
    assert {image.label for image in demo.queries} == set(labels)


def test_every_file_is_a_grey_png_of_128_pixels_with_a_unique_name() -> None:
    demo = demo_samples(n_shot=2, n_query=1)
    images = [*demo.support, *demo.queries]
    assert all(decode(image.content).shape == (1, 128, 128) for image in images)
    assert len({image.file_name for image in images}) == len(images) == 12
    assert all(image.file_name.startswith(image.label) and image.file_name.endswith(".png") for image in images)


def test_the_seed_determines_the_files() -> None:
    assert demo_samples(3, 2, 1) == demo_samples(3, 2, 1)
    assert demo_samples(3, 2, 1) != demo_samples(4, 2, 1)


def test_no_query_is_in_the_support() -> None:
    demo = demo_samples()
    assert {image.content for image in demo.queries}.isdisjoint(image.content for image in demo.support)


def test_defective_parts_stand_out_from_clean_ones() -> None:
    demo = demo_samples()
    spec = ImageConfig(channels=1, side=64)
    strongest = {}
    for label in ("clean", "pit", "scratch", "stain"):
        images = prepare([decode(image.content) for image in demo.support if image.label == label], spec)
        middle = images.flatten(1).median(dim=1).values[:, None]
        strongest[label] = float((images.flatten(1) - middle).abs().topk(40, dim=1).values.mean())
    assert min(strongest["pit"], strongest["scratch"]) > 1.15 * strongest["clean"]
    assert torch.isfinite(torch.tensor(list(strongest.values()))).all()
