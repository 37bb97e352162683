"""Loading a checkpoint has no side effects outside this machine; a backbone runs once for a sample."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.checkpoint import load_checkpoint
from models.inference.predict import predict_images
from models.meta.bayesian_reptile import bayesian_start
from models.nets import heads
from models.nets.head_posterior import LOG_SD
from service.runtime.adapt_queue import JobControl
from service.runtime.loaded_checkpoint import LoadedCheckpoint


def test_onnxruntime_is_imported_after_its_telemetry_is_disabled(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from service import bootstrap
from service.settings import Settings
assert "onnxruntime" not in sys.modules
bootstrap.build(Settings(data=Path(sys.argv[1]), decoder_processes=0)).close()
assert "onnxruntime" in sys.modules
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
"""
    home = tmp_path / "home"
    home.mkdir()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_", "ANOLE_"))}
    environment = {**inherited, "HOME": str(home)}
    command = [sys.executable, "-c", code, str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert list(home.iterdir()) == []  # its telemetry writes an id of the device there


class CountingControl(JobControl):
    """Counts how often it is asked whether to stop, which is before every batch of a backbone."""

    checks = 0

    def check(self) -> None:
        self.checks += 1
        super().check()


def test_a_frozen_backbone_runs_once_for_an_image_with_the_same_key() -> None:
    checkpoint = LoadedCheckpoint(load_checkpoint("efficientnet-lite0"), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=generator) for _ in range(3)]
    controls = [CountingControl() for _ in range(4)]
    checkpoint.support(images[:2], [0, 1], 2, controls[0], ["a", "b"])
    kept = checkpoint.support(images[:2], [0, 1], 2, controls[1], ["a", "b"])
    extended = checkpoint.support(images, [0, 1, 1], 2, controls[2], ["a", "b", "c"])
    fresh = checkpoint.support(images, [0, 1, 1], 2, controls[3])
    assert [control.checks for control in controls] == [4, 0, 4, 4]
    assert torch.equal(extended.inputs, fresh.inputs)
    assert torch.equal(extended.labels, fresh.labels)
    assert torch.equal(kept.inputs, fresh.inputs.view(4, 3, -1)[:, :2].flatten(0, 1))
    checkpoint.close()


@pytest.fixture(scope="module")
def backbone() -> Iterator[LoadedCheckpoint]:
    loaded = LoadedCheckpoint(load_checkpoint("efficientnet-lite0"), torch.device("cpu"))
    yield loaded
    loaded.close()


def noise(seed: int, count: int, contrast: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(128 - contrast, 128 + contrast, (3, 64, 64), dtype=torch.uint8, generator=generator)
        for _ in range(count)
    ]


def test_a_prediction_in_doubt_counts_the_turned_image(backbone: LoadedCheckpoint) -> None:
    recipe = backbone.checkpoint.recipe
    support = backbone.support([*noise(0, 3, 40), *noise(1, 3, 60)], [0, 0, 0, 1, 1, 1], 2)
    delta = backbone.delta(backbone.adapt(support, recipe, 0))
    assert heads.SECOND_LOOK in delta
    delta[heads.SECOND_LOOK] = torch.tensor(100.0)  # every image is in doubt
    between = noise(2, 6, 49)
    net, folded = backbone.checkpoint.build_net(), backbone.fold(delta)
    images = torch.from_numpy(backbone.preprocess(between))
    turned = torch.from_numpy(backbone.preprocess([image.flip(1, 2) for image in between]))
    expected = predict_images(net, folded, images, turned)
    (found,) = backbone.predict([(backbone.serving_weights(delta), between)])
    assert torch.allclose(found.probabilities, expected.probabilities, atol=5e-3)
    assert not torch.allclose(expected.probabilities, predict_images(net, folded, images).probabilities, atol=5e-2)
    without = {name: tensor for name, tensor in delta.items() if name != heads.SECOND_LOOK}  # of an earlier release
    (as_before,) = backbone.predict([(backbone.serving_weights(without), between)])
    assert torch.allclose(as_before.probabilities, predict_images(net, folded, images).probabilities, atol=5e-3)


def test_every_request_gets_the_predictions_of_its_own_images(backbone: LoadedCheckpoint) -> None:
    support = backbone.support([*noise(0, 3, 20), *noise(1, 3, 90)], [0, 0, 0, 1, 1, 1], 2)
    weights = backbone.serving_weights(backbone.delta(backbone.adapt(support, backbone.checkpoint.recipe, 0)))
    requests = [(weights, noise(5, 1, 20)), (weights, [*noise(6, 2, 90), *noise(7, 1, 20)])]
    predicted = [found.probabilities.argmax(-1).tolist() for found in backbone.predict(requests)]
    assert predicted == [[0], [1, 1, 0]]


def test_a_start_of_bayesian_reptile_serves_averaged_predictions_alike_in_onnxruntime_and_in_torch() -> None:
    shipped = load_checkpoint("omniglot")
    recipe = replace(shipped.recipe, steps=1, uncertainty="bayes")
    start = replace(shipped, recipe=recipe, weights={**bayesian_start(shipped.weights), LOG_SD: torch.tensor(-1.4)})
    assert start.onnx_graph is not None
    images = [torch.full((1, 28, 28), shade, dtype=torch.uint8) for shade in (0, 40, 80, 200, 230, 255)]
    found = []
    for checkpoint in (start, replace(start, onnx_graph=None)):
        loaded = LoadedCheckpoint(checkpoint, torch.device("cpu"))
        adapted = loaded.adapt(loaded.support(images, [0, 0, 0, 1, 1, 1], 2), recipe, 3)
        delta = loaded.delta(adapted)
        assert LOG_SD not in delta  # it is the start's
        (predictions,) = loaded.predict([(loaded.serving_weights(delta), images)])
        found.append(predictions)
        loaded.close()
    onnx, plain = found
    assert onnx.uncertainty is not None
    assert plain.uncertainty is not None
    torch.testing.assert_close(onnx.probabilities, plain.probabilities, atol=1e-5, rtol=0)
    torch.testing.assert_close(onnx.uncertainty.epistemic, plain.uncertainty.epistemic, atol=1e-5, rtol=0)
