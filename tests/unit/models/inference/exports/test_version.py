"""A graph of a whole version predicts what the service predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from torch import Tensor

from models.checkpoint import Checkpoint, load_checkpoint
from models.errors import ExportUnsupported
from models.images.encoding import encode_png
from models.images.preprocessing import decode
from models.inference.exports.file import Pixels
from models.inference.exports.version import build_graph, exported_net
from models.inference.predict import Predictions
from models.nets import heads, patch_memory
from models.nets.head_posterior import GRAM
from service.runtime.loaded_checkpoint import LoadedCheckpoint
from tests.unit.models.pictures import planes

THRESHOLD = 0.5
AGREEMENT = 1e-3


def stripes(period: float, seed: int, *, size: tuple[int, int] = (96, 80)) -> Pixels:
    """Return noisy coloured stripes; the period defines the class."""
    generator = np.random.default_rng((seed, int(10 * period)))
    height, width = size
    wave = np.sin((np.arange(width) + generator.uniform(0, 9)) * 2 * np.pi / period) * 70 + 128
    noise = generator.normal(0, 30, (height, width, 3))
    pixels: Pixels = np.clip(wave[None, :, None] + noise + [0, 10, -10], 0, 255).astype(np.uint8)
    return pixels


SUPPORT = [stripes(period, seed) for period in (5, 13) for seed in range(5)]
LABELS = [0] * 5 + [1] * 5
QUERIES = [
    stripes(5, 9),
    stripes(13, 9),
    stripes(8.5, 9),
    stripes(30, 9, size=(60, 200)),
    stripes(9, 9, size=(300, 280)),
]


def canonical(image: Pixels) -> Tensor:
    """Return what the service makes of a file with this image."""
    return decode(encode_png(planes(image)))


@dataclass
class Taught:
    """A version in memory."""

    loaded: LoadedCheckpoint
    delta: dict[str, Tensor]

    def predictions(self, images: Sequence[Pixels]) -> Predictions:
        weights = self.loaded.serving_weights(self.delta, 1.5)
        return self.loaded.predict([(weights, [canonical(image) for image in images])])[0]

    def session(self, *, batch: bool = False, calibration: Sequence[Tensor] | None = None) -> Any:
        net = self.loaded.exported_net(self.delta, 1.5, THRESHOLD, calibration)
        return onnxruntime.InferenceSession(build_graph(net, batch=batch).SerializeToString())


def taught(loaded: LoadedCheckpoint, **changes: Any) -> Taught:
    support = loaded.support([planes(image) for image in SUPPORT], LABELS, 2, keys=range(len(SUPPORT)))
    recipe = loaded.checkpoint.recipe
    recipe = replace(recipe, steps=min(2, recipe.steps), **changes)
    return Taught(loaded, loaded.delta(loaded.adapt(support, recipe, seed=0)))


@pytest.fixture(scope="module")
def backbone() -> LoadedCheckpoint:
    return LoadedCheckpoint(load_checkpoint("efficientnet-lite0"), torch.device("cpu"))


def assert_agrees(version: Taught) -> None:
    session, expected = version.session(), version.predictions(QUERIES)
    assert expected.in_distribution is not None
    for index, image in enumerate(QUERIES):
        scores, label, unknown_score, known = session.run(None, {"image": image})
        unknown = 1 - float(expected.in_distribution[index])
        np.testing.assert_allclose(scores, expected.probabilities[index].numpy(), atol=AGREEMENT)
        assert label == int(expected.probabilities[index].argmax())
        assert abs(float(unknown_score) - unknown) < AGREEMENT
        assert bool(known) == (float(unknown_score) <= THRESHOLD)


def test_a_version_of_a_backbone_with_a_second_look_agrees(backbone: LoadedCheckpoint) -> None:
    delta = taught(backbone).delta
    delta[heads.SECOND_LOOK] = torch.full_like(delta[heads.SECOND_LOOK], 20.0)  # every image is in doubt
    version = Taught(backbone, delta)
    looked_twice = version.predictions(QUERIES).probabilities
    without = Taught(backbone, {name: own for name, own in delta.items() if name != heads.SECOND_LOOK})
    assert not torch.allclose(looked_twice, without.predictions(QUERIES).probabilities, atol=AGREEMENT)
    assert_agrees(version)


def test_a_version_with_a_patch_memory_agrees(backbone: LoadedCheckpoint) -> None:
    version = taught(backbone, patch_memory=True)
    assert patch_memory.BASIS in version.delta
    assert_agrees(version)


def test_a_version_of_an_earlier_release_with_stored_images_agrees(backbone: LoadedCheckpoint) -> None:
    delta = taught(backbone, patch_memory=True).delta
    del delta[patch_memory.BASIS]
    delta[patch_memory.PATCHES] = torch.cat([delta[patch_memory.PATCHES], delta[patch_memory.PATCHES].flip(0)], dim=1)
    assert_agrees(Taught(backbone, delta))


def test_a_version_with_averaged_probabilities_agrees(backbone: LoadedCheckpoint) -> None:
    version = taught(backbone, uncertainty="bayes")
    assert GRAM in version.delta
    assert_agrees(version)


@pytest.mark.parametrize("name", ["surfaces", "omniglot"])
def test_a_version_with_weights_of_its_own_agrees(name: str) -> None:
    assert_agrees(taught(LoadedCheckpoint(load_checkpoint(name), torch.device("cpu"))))


def test_a_batch_has_the_outputs_of_its_images(backbone: LoadedCheckpoint) -> None:
    version, images = taught(backbone), QUERIES[:3]
    single = version.session()
    alone = [single.run(None, {"image": image}) for image in images]
    together = version.session(batch=True).run(None, {"image": np.stack(images)})
    for index, outputs in enumerate(alone):
        for one, all_of_them in zip(outputs, together, strict=True):
            np.testing.assert_allclose(all_of_them[index], one, atol=1e-5)


def test_a_version_without_novelty_has_no_unknown_score_and_every_verdict_is_known() -> None:
    version = taught(LoadedCheckpoint(load_checkpoint("omniglot"), torch.device("cpu")))
    without = Taught(version.loaded, {name: own for name, own in version.delta.items() if name != heads.MEANS})
    _, _, unknown_score, known = without.session().run(None, {"image": QUERIES[0]})
    assert np.isnan(unknown_score)
    assert known


def test_int8_keeps_the_labels_of_the_support(backbone: LoadedCheckpoint) -> None:
    version = taught(backbone)
    session = version.session(calibration=[planes(image) for image in SUPPORT[::5]])
    assert [int(session.run(None, {"image": image})[1]) for image in SUPPORT] == LABELS


@pytest.mark.parametrize(
    ("name", "calibration", "said"),
    [("surface-notes", None, "takes a text with each image"), ("omniglot", [], "has no frozen backbone")],
)
def test_what_cannot_be_exported_is_rejected(name: str, calibration: list[Tensor] | None, said: str) -> None:
    checkpoint: Checkpoint = load_checkpoint(name)
    with pytest.raises(ExportUnsupported, match=said):
        exported_net(checkpoint, {}, None, calibration)
