"""Heat maps of explained predictions."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from service.cli.heat_maps import heat_map
from service.http.schemas.resources import Explanation
from tests.in_process import Web
from tests.unit.service.cli.conftest import Anole

CORNER = Explanation(rows=2, columns=4, values=[[1, 0, 0, 0], [0, 0, 0, 0]])


def picture(mode: str = "RGB", size: tuple[int, int] = (64, 32)) -> bytes:
    encoded = io.BytesIO()
    Image.new(mode, size, 128 if mode == "L" else (0, 128, 0)).save(encoded, format="PNG")
    return encoded.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_map_colours_the_place_that_decided(mode: str) -> None:
    drawn = Image.open(io.BytesIO(heat_map(picture(mode), CORNER)))
    assert drawn.size == (512, 256)
    hot, cold = drawn.getpixel((20, 20)), drawn.getpixel((500, 250))
    assert isinstance(hot, tuple)
    assert isinstance(cold, tuple)
    assert hot[0] > 150
    assert (
        max(abs(channel - was) for channel, was in zip(cold, (0, 128, 0) if mode == "RGB" else [128] * 3, strict=True))
        <= 8
    )


def test_a_narrow_picture_keeps_its_aspect() -> None:
    drawn = Image.open(io.BytesIO(heat_map(picture(size=(16, 160)), CORNER)))
    assert drawn.size == (51, 512)


def test_predict_writes_a_map_for_each_picture(anole: Anole, service: Web, folder: Path) -> None:
    anole("adapt", "line", str(folder))
    for name in ("good/1.png", "bad/1.png"):
        (folder / name).write_bytes(picture())
    out = folder / "maps"
    images = [str(folder / "good" / "1.png"), str(folder / "bad" / "1.png")]
    code, printed, error = anole("predict", "line", *images, "--explain", str(out))
    assert (code, error, printed.splitlines()[-1]) == (0, "", f"2 heat maps in {out}")
    assert sorted(path.name for path in out.iterdir()) == ["1-2.png", "1.png"]
    maps = json.loads(anole("predict", "line", *images, "--explain", str(out), "--json")[1])["heat_maps"]
    assert maps == [str(out / "1.png"), str(out / "1-2.png")]
    assert "heat_maps" not in json.loads(anole("predict", "line", *images, "--json")[1])
