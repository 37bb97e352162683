"""Sources: a folder, a camera, a GenICam camera and posted pictures."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from service.bridge.config import CameraSource, FolderSource, GenicamSource, HttpSource
from service.bridge.counters import Counters
from service.bridge.sources.base import Source
from service.bridge.sources.camera import Camera, Motion
from service.bridge.sources.folder import AHEAD, Folder
from service.bridge.sources.genicam import Genicam
from service.bridge.sources.http import Http
from service.bridge.verdict import Picture
from service.client import InvalidInput
from tests.free_port import free_port
from tests.unit.service.bridge.conftest import PNG, Recorded, always_good, run, running

EVERY_S = 0.01


async def first(source: Source, count: int) -> list[Picture]:
    pictures: list[Picture] = []
    async for picture in source.pictures():
        pictures.append(picture)
        if len(pictures) == count:
            break
    return pictures


def folder_source(tmp_path: Path) -> Folder:
    (tmp_path / "in").mkdir(exist_ok=True)
    return Folder(FolderSource(type="folder", path=tmp_path / "in", state=tmp_path / "done.txt", every_s=EVERY_S))


def put(tmp_path: Path, name: str, at_s: float) -> None:
    path = tmp_path / "in" / name
    path.write_bytes(PNG)
    os.utime(path, (at_s, at_s))


def test_a_picture_in_a_folder_comes_again_after_a_restart_until_its_verdict_is_delivered(tmp_path: Path) -> None:
    async def main() -> None:
        source = folder_source(tmp_path)
        put(tmp_path, "1.png", 1_700_000_000)
        put(tmp_path, "2.png", 1_700_000_001)
        one, two = await first(source, 2)
        assert (one.name, two.name, one.content) == ("1.png", "2.png", PNG)
        source.delivered(one)
        (again,) = await first(folder_source(tmp_path), 1)
        assert (again.name, again.id) == ("2.png", two.id)
        assert again.taken_at.timestamp() == 1_700_000_001
        put(tmp_path, "1.png", 1_700_000_009)  # written anew
        assert [each.name for each in await first(folder_source(tmp_path), 2)] == ["2.png", "1.png"]

    run(main())


def test_a_picture_with_line_breaks_in_its_name_comes_once(tmp_path: Path) -> None:
    async def main() -> None:
        source = folder_source(tmp_path)
        put(tmp_path, "1\n\u2028.png", 1_700_000_000)
        (one,) = await first(source, 1)
        source.delivered(one)
        put(tmp_path, "2.png", 1_700_000_001)
        assert [each.name for each in await first(folder_source(tmp_path), 1)] == ["2.png"]

    run(main())


def test_the_state_file_forgets_pictures_that_have_left_the_folder_when_it_is_long(tmp_path: Path) -> None:
    config = FolderSource(type="folder", path=tmp_path / "in", state=tmp_path / "done.txt", every_s=EVERY_S)
    (tmp_path / "in").mkdir()

    async def deliver(name: str, at_s: float, max_state_lines: int = 9) -> list[str]:
        """Deliver one more picture, and return the names in the state file."""
        source = Folder(config, max_state_lines)
        put(tmp_path, name, at_s)
        (picture,) = await first(source, 1)
        assert picture.name == name
        source.delivered(picture)
        return [line.partition(" ")[2] for line in config.state.read_text(encoding="utf-8").splitlines()]

    async def main() -> None:
        for number in range(4):
            assert len(await deliver(f"{number}.png", 1_700_000_000 + number)) == number + 1
            (tmp_path / "in" / f"{number}.png").unlink()
        assert len(await deliver("kept.png", 1_700_000_009)) == 5
        assert await deliver("next.png", 1_700_000_010, max_state_lines=4) == ["kept.png", "next.png"]
        assert len(await deliver("last.png", 1_700_000_011, max_state_lines=4)) == 3

    run(main())


def test_a_full_disk_leaves_no_half_a_line_in_the_state_file(tmp_path: Path) -> None:
    async def main() -> None:
        source, state = folder_source(tmp_path), tmp_path / "done.txt"
        for number in range(3):
            put(tmp_path, f"{number}.png", 1_700_000_000 + number)
        pictures = await first(source, 3)
        source.delivered(pictures[0])
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (state.stat().st_size + 10, limits[1]))
        try:
            source.delivered(pictures[1])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        source.delivered(pictures[2])
        assert [each.name for each in await first(folder_source(tmp_path), 1)] == ["1.png"]
        assert len(state.read_text(encoding="utf-8").splitlines()) == 2

    run(main())


def test_pictures_of_a_folder_are_judged_once(tmp_path: Path) -> None:
    async def main() -> None:
        source, sink = folder_source(tmp_path), Recorded()
        put(tmp_path, "1.png", 1_700_000_000)
        async with running([source], [(sink, 9)]) as bridge:
            assert await sink.names(1) == ["1.png"]
            put(tmp_path, "2.png", 1_700_000_001)
            assert await sink.names(1) == ["2.png"]
        assert bridge.counters.pictures == 2

    run(main())
    assert len((tmp_path / "done.txt").read_text(encoding="utf-8").splitlines()) == 2


def test_pictures_of_a_folder_wait_there_while_anole_is_away(tmp_path: Path) -> None:
    async def main() -> None:
        source, sink, away = folder_source(tmp_path), Recorded(), asyncio.Event()
        for number in range(2 * AHEAD):
            put(tmp_path, f"{number:02}.png", 1_700_000_000 + number)

        async def predict(content: bytes) -> Any:
            await away.wait()
            return await always_good(content)

        async with running([source], [(sink, 99)], predict, queue=AHEAD) as bridge:
            while bridge.counters.pictures < AHEAD:
                await asyncio.sleep(0)
            away.set()
            assert await sink.names(2 * AHEAD) == [f"{number:02}.png" for number in range(2 * AHEAD)]
        assert bridge.counters.dropped == 0

    run(main())


def test_a_picture_of_a_folder_that_is_dropped_comes_again(tmp_path: Path) -> None:
    async def main() -> None:
        source = folder_source(tmp_path)
        put(tmp_path, "1.png", 1_700_000_000)
        pictures = source.pictures()
        picture = await anext(pictures)
        source.dropped(picture)
        assert (await anext(pictures)).id == picture.id

    run(main())


def test_a_state_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    config = FolderSource(type="folder", path=tmp_path, state=tmp_path / "none" / "done.txt")
    with pytest.raises(InvalidInput, match=r"state file .*done\.txt"):
        Folder(config)


def frame(shift: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a dark frame with a bright part."""
    image = np.zeros((64, 96, 3), np.uint8)
    image[16:48, 8 + shift : 40 + shift] = 220
    return image


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a video file in which a part moves twice, and stands still after each motion."""
    path = tmp_path_factory.mktemp("video") / "line.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    assert writer.isOpened()
    for shift in (0, 0, 0, 10, 20, 20, 20, 30, 40, 40, 40):
        writer.write(frame(shift))
    writer.release()
    return path


def test_a_camera_takes_one_picture_after_each_motion(video: Path) -> None:
    async def main() -> list[Picture]:
        config = CameraSource(type="camera", device=str(video), trigger="motion", motion_share=0.01)
        with pytest.raises(OSError, match="sends no more frames"):
            await first(Camera(config), 99)
        return await first(Camera(config), 3)

    pictures = run(main())
    assert [each.name for each in pictures] == ["frame-2.png", "frame-6.png", "frame-10.png"]
    decoded = cv2.imdecode(np.frombuffer(pictures[1].content, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert np.abs(decoded.astype(int) - frame(20)).mean() < 10


def test_a_camera_takes_pictures_in_an_interval(video: Path) -> None:
    pictures = run(first(Camera(CameraSource(type="camera", device=str(video), every_s=1e-9)), 5))
    assert [each.name for each in pictures] == [f"frame-{number}.png" for number in range(1, 6)]


def test_a_camera_that_is_not_there_is_named() -> None:
    with pytest.raises(OSError, match=r"cannot open the camera /none\.avi"):
        run(first(Camera(CameraSource(type="camera", device="/none.avi")), 1))


def test_noise_is_no_motion() -> None:
    trigger, generator = Motion(0.01), np.random.default_rng(0)
    noisy = [np.clip(frame() + generator.normal(0, 4, (64, 96, 3)), 0, 255).astype(np.uint8) for _ in range(9)]
    assert [trigger(each) for each in noisy] == [False, True] + [False] * 7


class FakeCamera:
    """A camera as Harvester shows it."""

    def __init__(self, pixel_format: str, data: np.ndarray[Any, Any]) -> None:
        height, width = data.shape[:2]
        self.component = SimpleNamespace(data=data.ravel(), data_format=pixel_format, height=height, width=width)
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")

    def destroy(self) -> None:
        self.calls.append("destroy")

    @contextmanager
    def fetch(self, timeout: float) -> Iterator[Any]:
        yield SimpleNamespace(payload=SimpleNamespace(components=[self.component]))


class FakeHarvester:
    """A harvester that finds a camera, or none."""

    def __init__(self, camera: FakeCamera | None) -> None:
        self.device_info_list = [] if camera is None else ["a camera"]
        self.camera = camera
        self.calls: list[Any] = []

    def add_file(self, path: str) -> None:
        self.calls.append(Path(path).name)

    def update(self) -> None:
        self.calls.append("update")

    def create(self, which: Any) -> Any:
        self.calls.append(which)
        return self.camera

    def reset(self) -> None:
        self.calls.append("reset")


def genicam(tmp_path: Path, camera: FakeCamera | None) -> tuple[Genicam, FakeHarvester]:
    producer = tmp_path / "maker.cti"
    producer.touch()
    harvester = FakeHarvester(camera)
    config = GenicamSource(type="genicam", producer=producer, serial="A7", every_s=EVERY_S)
    return Genicam(config, lambda: harvester), harvester


@pytest.mark.parametrize(
    ("pixel_format", "data", "bgr"),
    [
        ("Mono8", np.full((4, 6), 7, np.uint8), [7, 7, 7]),
        ("RGB8", np.full((4, 6, 3), [1, 2, 3], np.uint8), [3, 2, 1]),
        ("BGR8", np.full((4, 6, 3), [1, 2, 3], np.uint8), [1, 2, 3]),
        ("BayerRG8", np.full((4, 6), 9, np.uint8), [9, 9, 9]),
    ],
)
def test_a_genicam_camera_sends_pictures_in_colour(
    tmp_path: Path, pixel_format: str, data: np.ndarray[Any, Any], bgr: list[int]
) -> None:
    camera = FakeCamera(pixel_format, data)
    source, harvester = genicam(tmp_path, camera)

    async def main() -> Picture:
        pictures = source.pictures()
        picture = await anext(pictures)
        await pictures.aclose()  # type: ignore[attr-defined]
        return picture

    picture = run(main())
    decoded = cv2.imdecode(np.frombuffer(picture.content, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert decoded[1, 1].tolist() == bgr
    assert harvester.calls == ["maker.cti", "update", {"serial_number": "A7"}, "reset"]
    assert camera.calls == ["start", "stop", "destroy"]


def test_a_pixel_format_that_is_not_supported_is_named(tmp_path: Path) -> None:
    source, _ = genicam(tmp_path, FakeCamera("Mono12Packed", np.zeros((4, 6), np.uint8)))
    with pytest.raises(OSError, match="the camera sends Mono12Packed; set its PixelFormat"):
        run(first(source, 1))


def test_a_producer_without_a_camera_is_named(tmp_path: Path) -> None:
    source, harvester = genicam(tmp_path, None)
    with pytest.raises(OSError, match=r"maker\.cti finds no camera"):
        run(first(source, 1))
    assert harvester.calls[-1] == "reset"


async def post(http: httpx.AsyncClient, **options: Any) -> httpx.Response:
    """Post a picture, once the server listens."""
    while True:
        try:
            return await http.post("/pictures", **options)
        except httpx.ConnectError:
            await asyncio.sleep(0)


def test_a_posted_picture_is_answered_with_its_verdict(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("let-me-in\n", encoding="utf-8")

    async def main() -> None:
        port, counters = free_port(), Counters()
        source = Http(HttpSource(type="http", port=port, token_file=token, max_bytes=1024), counters.to_json)
        sink = Recorded()
        headers = {"Authorization": "Bearer let-me-in"}
        async with running([source], [(sink, 9)]), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            response = await post(http, content=PNG, headers=headers, params={"name": "part-7"})
            assert (response.status_code, response.json()["result"], response.json()["name"]) == (200, "pass", "part-7")
            assert await sink.names(1) == ["part-7"]
            assert (await post(http, content=PNG)).status_code == 401
            assert (await post(http, content=b"", headers=headers)).status_code == 422
            assert (await post(http, content=bytes(2000), headers=headers)).status_code == 413
            assert (await http.get("/status")).status_code == 401
            assert (await http.get("/status", headers=headers)).json()["pictures"] == 0

    run(main())


def test_a_posted_picture_that_is_dropped_is_answered_with_503() -> None:
    async def main() -> None:
        port, asked, stuck = free_port(), asyncio.Event(), asyncio.Event()

        async def predict(content: bytes) -> Any:
            asked.set()
            await stuck.wait()
            return await always_good(content)

        source = Http(HttpSource(type="http", port=port), Counters().to_json)
        async with (
            running([source], [(Recorded(), 9)], predict, queue=1),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
        ):
            posted = [asyncio.create_task(post(http, content=PNG))]
            await asked.wait()
            posted += [asyncio.create_task(post(http, content=PNG)) for _ in range(2)]
            await asyncio.wait(posted, return_when=asyncio.FIRST_COMPLETED)
            (dropped,) = (each.result() for each in posted if each.done())
            assert (dropped.status_code, "dropped" in dropped.json()["detail"]) == (503, True)
            stuck.set()
            assert sorted(each.status_code for each in await asyncio.gather(*posted)) == [200, 200, 503]

    run(main())


def test_a_port_that_is_in_use_is_named() -> None:
    async def main() -> None:
        port = free_port()
        one, two = (Http(HttpSource(type="http", port=port), Counters().to_json) for _ in range(2))
        async with running([one], []), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            assert (await post(http, content=PNG)).status_code == 200
            with pytest.raises(OSError, match="is the port in use"):
                await first(two, 1)

    run(main())
