"""The service adapts with the checkpoint's precision, recomputation and multipliers, and records them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.checkpoint import load_checkpoint, save_checkpoint
from models.config import InnerLoopConfig
from models.errors import InvalidConfig
from service import bootstrap
from service.http.app import create_app
from service.settings import Settings
from tests.generated import striped
from tests.in_process import started
from tests.repeated import repeats_bit_by_bit


def adapt_with(
    recipe: InnerLoopConfig, settings: Settings, folder: Path
) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """Return the response, the version's record, and whether adapting again from the record gives the same bits."""
    path, name = folder / f"{recipe.precision}-{recipe.recompute}-{len(recipe.lr_multipliers)}.safetensors", "line"
    save_checkpoint(replace(load_checkpoint(settings.model[0]), recipe=recipe), path)
    changed = settings.model_copy(update={"model": (str(path),), "data": folder / path.stem})
    services = bootstrap.build(changed)
    files = [
        ("samples", (f"{period}-{n}.png", image)) for period in (6, 20) for n, image in enumerate(striped(3, period))
    ]
    with started(create_app(changed, lambda _: services), services) as web:
        form = {"client": name, "labels": ["left", "right"] * 3}  # labels that the loss does not fit at once
        response = web("POST", "/adapt", data=form, files=files)
        assert response.status_code == 201, response.text
        record = web("GET", f"/clients/{name}/versions/1").json()
        return response.json(), record, repeats_bit_by_bit(changed, name, 1)


def test_precision_and_multipliers_change_the_adaptation_and_recomputation_does_not(
    settings: Settings, tmp_path: Path
) -> None:
    recipe = load_checkpoint(settings.model[0]).recipe
    frozen = replace(recipe, lr_multipliers=(("block[123].*", 0.0),))
    recipes = (recipe, replace(recipe, recompute=True), replace(recipe, precision="bfloat16"), frozen)
    responses = [adapt_with(recipe, settings, tmp_path) for recipe in recipes]
    for expected, (_, record, identical) in zip(recipes, responses, strict=True):
        assert InnerLoopConfig.from_json(record["recipe"]) == expected
        assert identical
    losses = [response["report"]["loss_curve"] for response, _, _ in responses]
    assert losses[0] == losses[1]
    assert len({tuple(curve) for curve in losses}) == 3
    sizes_bytes = [response["weights"]["bytes"] for response, _, _ in responses]
    assert sizes_bytes[3] < 0.7 * sizes_bytes[0]


def test_a_precision_that_the_device_lacks_is_rejected_at_start(settings: Settings, tmp_path: Path) -> None:
    checkpoint, path = load_checkpoint(settings.model[0]), tmp_path / "float16.safetensors"
    save_checkpoint(replace(checkpoint, recipe=replace(checkpoint.recipe, precision="float16")), path)
    with pytest.raises(InvalidConfig, match="allowed there: float32, bfloat16"):
        bootstrap.build(settings.model_copy(update={"model": (str(path),)}))
