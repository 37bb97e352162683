"""Images of 16 bits per sample that do not declare their bit depth: one depth for each client."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.generated import encoded, striped
from tests.in_process import Web

PERIODS = {"fine": 6, "coarse": 20}


def pixels_of(content: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(content)))


def wide(pixels: NDArray[np.uint8], bits: int) -> bytes:
    """Return what a camera of that bit depth delivers, in a PNG of 16 bits per sample."""
    return encoded(Image.fromarray((pixels * ((2**bits - 1) / 255)).astype(np.uint16)))


def levels(count: int, lowest: int, highest: int) -> list[NDArray[np.uint8]]:
    """Return noise between two levels of 0 to 255."""
    generator = np.random.default_rng((lowest, highest))
    return [generator.integers(lowest, highest, (40, 40), dtype=np.uint8) for _ in range(count)]


def adapt(web: Web, images: dict[str, list[bytes]], **fields: str) -> Any:
    files = [
        ("samples", (f"{label}-{index}.png", image)) for label in images for index, image in enumerate(images[label])
    ]
    labels = [label for label in images for _ in images[label]]
    return web("POST", "/adapt", data={"client": "line", "labels": labels, **fields}, files=files)


def predict(web: Web, images: list[bytes]) -> Any:
    return web("POST", "/predict", data={"client": "line"}, files=[("images", ("a.png", image)) for image in images])


def predicted(web: Web, images: list[bytes]) -> list[str]:
    return [image["label"] for image in predict(web, images).json()["predictions"]]


def test_a_client_that_was_taught_in_8_bits_gets_the_same_predictions_in_12_bits(web: Web) -> None:
    assert adapt(web, {label: striped(4, period) for label, period in PERIODS.items()}).status_code == 201
    asked = [content for period in PERIODS.values() for content in striped(3, period, seed=9)]
    assert predicted(web, asked) == ["fine"] * 3 + ["coarse"] * 3
    assert predicted(web, [wide(pixels_of(content), 12) for content in asked]) == ["fine"] * 3 + ["coarse"] * 3


def test_dark_and_bright_images_of_a_client_keep_their_difference(web: Web) -> None:
    """By itself, each dark image would be scaled to full brightness."""
    dark, bright = ([wide(image, 12) for image in levels(8, low, low + 30)] for low in (20, 220))
    adapted = adapt(web, {"dark": dark[:4], "bright": bright[:4]})
    assert adapted.json()["report"]["bit_depth"] == 12
    assert predicted(web, [*dark[4:], *bright[4:]]) == ["dark"] * 4 + ["bright"] * 4
    extended = adapt(web, {"dark": dark[4:5]})
    assert (extended.json()["parent"], extended.json()["report"]["bit_depth"]) == (1, 12)


def test_images_of_more_bits_than_those_of_the_version_are_rejected_by_name(web: Web) -> None:
    samples = {
        label: [wide(image, 12) for image in levels(3, low, low + 30)] for label, low in (("dark", 20), ("bright", 220))
    }
    adapt(web, samples, publish="always")
    brighter = wide(levels(1, 100, 200)[0], 14)
    answers = {".png: ": predict(web, [brighter]), ".png (class bright): ": adapt(web, {"bright": [brighter]})}
    for named, response in answers.items():
        assert (response.status_code, response.json()["code"]) == (422, "image_depth_mismatch")
        assert "needs 14 bits" in response.json()["detail"]
        assert named in response.json()["detail"]
    replaced = adapt(web, {**samples, "bright": [*samples["bright"], brighter]}, mode="replace")
    assert replaced.json()["report"]["bit_depth"] == 14


def test_a_rejected_depth_says_what_to_do_and_that_helps(web: Web) -> None:
    """As with a folder in several requests whose brightest image is not in the first one."""
    dark = {label: [wide(image, 12) for image in levels(3, low, low + 4)] for label, low in (("a", 2), ("b", 9))}
    bright = {"a": [wide(levels(1, 100, 200)[0], 12)]}
    adapt(web, dark, publish="never")
    detail = adapt(web, bright).json()["detail"]
    assert "set the client's bit_depth to 12 (PATCH /clients/CLIENT/settings)" in detail
    assert "mode=replace" in detail
    web("PATCH", "/clients/line/settings", json={"bit_depth": 12})
    assert "mode=replace" in adapt(web, bright).json()["detail"]
    replaced = adapt(web, dark, mode="replace", publish="never").json()
    assert (replaced["version"], replaced["report"]["bit_depth"]) == (2, 12)
    assert adapt(web, bright).status_code == 201
    assert "delete the client first and set bit_depth with PUT" in detail
    web("DELETE", "/clients/line")
    web("PUT", "/clients/line/settings", json={"bit_depth": 12})
    assert [adapt(web, images).status_code for images in (dark, bright)] == [201, 201]


def test_the_setting_of_a_client_decides_and_holds_for_the_versions_made_under_it(web: Web) -> None:
    web("PUT", "/clients/line/settings", json={"bit_depth": 12})
    dark, darker = ([wide(image, 12) for image in levels(6, low, low + 30)] for low in (30, 0))
    adapted = adapt(web, {"dark": dark[:4], "darker": darker[:4]}, publish="always")
    assert adapted.json()["report"]["bit_depth"] == 12
    assert predict(web, [wide(image, 12) for image in levels(1, 220, 250)]).status_code == 200
    web("PUT", "/clients/line/settings", json={"bit_depth": 16})
    response = adapt(web, {"dark": dark[4:]})
    assert (response.status_code, response.json()["code"]) == (422, "image_depth_mismatch")
    assert "mode=replace" in response.json()["detail"]


def test_a_changed_setting_does_not_matter_for_images_of_8_bits(web: Web) -> None:
    web("PUT", "/clients/line/settings", json={"bit_depth": 12})
    samples = {label: striped(4, period) for label, period in PERIODS.items()}
    adapt(web, {label: images[:3] for label, images in samples.items()}, publish="always")
    web("PUT", "/clients/line/settings", json={"bit_depth": 14})
    extended = adapt(web, {label: images[3:] for label, images in samples.items()})
    assert extended.status_code == 201
    assert extended.json()["report"]["bit_depth"] == 12


def test_a_version_without_such_images_has_no_bit_depth(web: Web) -> None:
    adapted = adapt(web, {label: striped(3, period) for label, period in PERIODS.items()})
    assert adapted.json()["report"]["bit_depth"] is None
