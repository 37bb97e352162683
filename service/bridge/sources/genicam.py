"""Frames of GenICam cameras, through Harvester and the GenTL producer of the camera's maker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import cv2
import numpy as np

from service.bridge.config import GenicamSource
from service.bridge.sources.base import Source
from service.bridge.sources.camera import encoded
from service.bridge.verdict import Picture
from service.client import InvalidInput

FETCH_S: Final = 10.0
_TO_BGR: Final = {
    "Mono8": None,
    "BGR8": None,
    "RGB8": cv2.COLOR_RGB2BGR,
    "BayerRG8": cv2.COLOR_BayerRGGB2BGR,
    "BayerGR8": cv2.COLOR_BayerGRBG2BGR,
    "BayerGB8": cv2.COLOR_BayerGBRG2BGR,
    "BayerBG8": cv2.COLOR_BayerBGGR2BGR,
}
"""Pixel format -> conversion of OpenCV."""


class Genicam(Source):
    """A camera that a GenTL producer (.cti) finds.

    Args:
        config: producer, serial number and interval.
        harvester: returns an object like `harvesters.core.Harvester`; default: that one.
    """

    connection_errors = (OSError, RuntimeError, TimeoutError)

    def __init__(self, config: GenicamSource, harvester: Callable[[], Any] | None = None) -> None:
        super().__init__(config.name)
        self._config = config
        self._harvester = harvester or _installed_harvester()

    async def pictures(self) -> AsyncIterator[Picture]:
        """Yield a frame every `every_s` seconds, as PNG."""
        harvester = self._harvester()
        try:
            camera = await asyncio.to_thread(self._open, harvester)
            try:
                number = 0
                while True:
                    number += 1
                    content = await asyncio.to_thread(_fetch, camera)
                    yield Picture(self.name, f"frame-{number}.png", content)
                    await asyncio.sleep(self._config.every_s)
            finally:
                camera.stop()
                camera.destroy()
        finally:
            harvester.reset()

    def _open(self, harvester: Any) -> Any:
        harvester.add_file(str(self._config.producer))
        harvester.update()
        if not harvester.device_info_list:
            raise OSError(f"{self._config.producer.name} finds no camera")
        serial = self._config.serial
        camera = harvester.create(0 if serial is None else {"serial_number": serial})
        camera.start()
        return camera


def _fetch(camera: Any) -> bytes:
    with camera.fetch(timeout=FETCH_S) as buffer:
        component = buffer.payload.components[0]
        pixel_format = component.data_format
        if pixel_format not in _TO_BGR:
            raise OSError(
                f"the camera sends {pixel_format}; set its PixelFormat to one of {', '.join(sorted(_TO_BGR))}"
            )
        channels = 3 if pixel_format in {"RGB8", "BGR8"} else 1
        frame = np.asarray(component.data).reshape(component.height, component.width, channels)
        conversion = _TO_BGR[pixel_format]
        return encoded(frame if conversion is None else cv2.cvtColor(frame, conversion))


def _installed_harvester() -> Callable[[], Any]:
    try:
        from harvesters.core import Harvester
    except ImportError as error:
        raise InvalidInput(
            "a source of the type genicam needs the package harvesters: pip install '.[genicam]' in a checkout of Anole"
        ) from error
    return Harvester  # type: ignore[no-any-return]
