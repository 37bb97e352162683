"""Heat maps of explained predictions."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from service.cli import connection
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


@pytest.mark.parametrize(("size", "drawn"), [((16, 160), (51, 512)), ((8, 10_000), (1, 512))])
def test_a_narrow_picture_keeps_its_aspect(size: tuple[int, int], drawn: tuple[int, int]) -> None:
    assert Image.open(io.BytesIO(heat_map(picture(size=size), CORNER))).size == drawn


def test_predict_writes_a_map_for_each_picture(anole: Anole, service: Web, folder: Path) -> None:
    anole("adapt", "line", str(folder))
    for name in ("good/1.png", "bad/1.png"):
        (folder / name).write_bytes(picture())
    out = folder / "maps"
    images = [str(folder / "good" / "1.png"), str(folder / "bad" / "1.png")]
    code, printed, error = anole("predict", "line", *images, "--explain", str(out))
    assert (code, error, printed.splitlines()[-1]) == (0, "", f"2 heat maps in {out}")
    assert sorted(path.name for path in out.iterdir()) == ["1-explained-2.png", "1-explained.png"]
    out = folder / "more" / "maps"
    maps = json.loads(anole("predict", "line", *images, "--explain", str(out), "--json")[1])["heat_maps"]
    assert maps == [str(out / "1-explained.png"), str(out / "1-explained-2.png")]
    assert "heat_maps" not in json.loads(anole("predict", "line", *images, "--json")[1])


def test_no_map_overwrites_a_picture_or_another_map(anole: Anole, service: Web, folder: Path) -> None:
    anole("adapt", "line", str(folder))
    names = ("1.png", "1-2.png", "1-explained.png", "a/1.png", "b/1-explained.png", "a/1-explained-2.png")
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(picture())
    images = [str(folder / name) for name in names]
    for turn in (1, 2):
        listed = json.loads(anole("predict", "line", *images, "--explain", str(folder), "--json")[1])["heat_maps"]
        assert len(set(listed)) == len(names), turn
        assert all(Path(path).read_bytes() != picture() for path in listed)
        assert all((folder / name).read_bytes() == picture() for name in names)
    assert len(list(folder.glob("*.png"))) == 3 + 2 * len(names)


def test_a_map_of_a_picture_with_a_long_name_has_a_shorter_one(anole: Anole, service: Web, folder: Path) -> None:
    anole("adapt", "line", str(folder))
    image = folder / f"{'é' * 125}.png"
    image.write_bytes(picture())
    out = folder / "maps"
    assert anole("predict", "line", str(image), str(image), "--explain", str(out))[0] == 0
    assert sorted(path.name.lstrip("é") for path in out.iterdir()) == ["-explained-2.png", "-explained.png"]


def test_a_folder_that_cannot_be_made_is_an_error_before_anything_is_sent(
    anole: Anole, service: Web, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "connect", lambda url, key: pytest.fail("a request was made"))
    image = str(folder / "good" / "1.png")
    code, _, error = anole("predict", "line", image, "--explain", image)
    assert (code, error.startswith(f"error: cannot write {image}")) == (1, True)
