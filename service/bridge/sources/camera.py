"""Frames of cameras and video files, through OpenCV."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Protocol

import cv2
import numpy as np

from service.bridge.config import CameraSource
from service.bridge.sources.base import Source
from service.bridge.verdict import Picture

Frame = np.ndarray[Any, np.dtype[np.uint8]]

_SIDE = 160
_CHANGED = 25
"""How much a grey value must change, of 255, to count as motion."""


class Trigger(Protocol):
    """Decides which frames are pictures."""

    def __call__(self, frame: Frame) -> bool:
        """Return whether the frame is to be judged."""
        ...


class Interval:
    """One frame every so many seconds.

    Args:
        every_s: seconds.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._last_s = -np.inf

    def __call__(self, frame: Frame) -> bool:
        """Return whether enough time has passed."""
        now_s = time.monotonic()
        if now_s - self._last_s < self._every_s:
            return False
        self._last_s = now_s
        return True


class Motion:
    """The first frame that stands still after something moved, so that a part is judged once.

    Args:
        share: part of the frame that must change, 0 to 1.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._before: Frame | None = None
        self._moving = True

    def __call__(self, frame: Frame) -> bool:
        """Return whether a motion has just ended."""
        small = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        before, self._before = self._before, np.asarray(small, np.uint8)
        if before is None:
            return False
        moves = float((cv2.absdiff(self._before, before) > _CHANGED).mean()) >= self._share
        ended = self._moving and not moves
        self._moving = moves
        return ended


class Camera(Source):
    """An RTSP or USB camera, or a video file. All frames are read, so that a picture is never an old one.

    Args:
        config: the camera and its trigger.
    """

    connection_errors = (OSError, cv2.error)

    def __init__(self, config: CameraSource) -> None:
        super().__init__(config.name)
        self._config = config

    async def pictures(self) -> AsyncIterator[Picture]:
        """Yield the frames that the trigger selects, as PNG."""
        config = self._config
        trigger: Trigger = Interval(config.every_s) if config.trigger == "interval" else Motion(config.motion_share)
        capture = await asyncio.to_thread(lambda: cv2.VideoCapture(config.device))
        try:
            if not capture.isOpened():
                raise OSError(f"cannot open the camera {config.device}")
            number = 0
            while True:
                read, frame = await asyncio.to_thread(capture.read)
                if not read:
                    raise OSError(f"the camera {config.device} sends no more frames")
                number += 1
                if trigger(np.asarray(frame, np.uint8)):
                    yield Picture(self.name, f"frame-{number}.png", await asyncio.to_thread(encoded, frame))
        finally:
            capture.release()


def encoded(frame: Any) -> bytes:
    """Return a BGR or grey frame as a PNG file. Raises OSError."""
    written, content = cv2.imencode(".png", frame, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not written:
        raise OSError("the frame cannot be encoded as PNG")
    return bytes(content)
