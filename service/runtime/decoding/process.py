"""Starts and ends one decoder process, and exchanges images and pixels with it.

An exploited decoder may send anything, so every reply is validated.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from models.errors import AnoleError, ImageRejected
from models.images.preprocessing import CANONICAL_SIDE
from service.errors import RETRY_UNAVAILABLE_S, DecoderUnavailable
from service.runtime.decoding.child import PIXELS, READY, REFUSED, REPLY, REQUEST, ChildLimits

PROGRAM: Final = "service.runtime.decoding.child"
"""The module that the process runs."""

_START_LIMIT_S: Final = 60.0
_MESSAGE_BYTES: Final = 64 * 1024
_KINDS: Final[list[type[ImageRejected]]] = [ImageRejected, *ImageRejected.__subclasses__()]
_ERRORS: Final = {kind.__name__: kind for kind in _KINDS}


class ProcessLost(AnoleError):
    """The process died, or sent an invalid reply."""


class DecoderTooSlow(AnoleError):
    """Decoding the image exceeded the time limit."""


class DecoderProcess:
    """A process that decodes one image after another.

    Args:
        limits: resource limits of the process.
        environment: its environment variables; the path to the code is added.
        program: the module that it runs.

    Attributes:
        healthy: False after a failure; the process must then be ended.
        images: number of images sent to it.
    """

    def __init__(self, limits: ChildLimits, environment: Mapping[str, str], program: str = PROGRAM) -> None:
        self.healthy = True
        self.images = 0
        self._ready = False
        self._channel, theirs = socket.socketpair()
        code = os.pathsep.join(str(Path(step).absolute()) for step in sys.path)
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - the running interpreter and a module of this package
                    [sys.executable, "-s", "-P", "-m", program, limits.to_text()],
                    env={**environment, "PYTHONPATH": code, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C must reach the service alone, which ends this process
                )
            except OSError as error:
                self._channel.close()
                raise _not_started(str(error)) from error

    @property
    def process_id(self) -> int:
        """Process id."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Wait until the process has started. The time does not count towards an image.

        Raises:
            DecoderUnavailable: the process did not start.
        """
        if self._ready:
            return
        try:
            kind, _, _ = self._reply(time.monotonic() + _START_LIMIT_S)
        except (ProcessLost, DecoderTooSlow) as error:
            raise _not_started(str(error)) from error
        if kind != READY:
            self.healthy = False
            raise _not_started(f"its first message was of kind {kind}")
        self._ready = True

    def decode(self, content: bytes, limit_s: float) -> Tensor:
        """Decode one image to uint8 (1 or 3, height, width).

        Raises:
            ImageRejected: the decoder rejected the image.
            ProcessLost, DecoderTooSlow: the process can no longer be used.
        """
        self.images += 1
        deadline = time.monotonic() + limit_s
        self._send(REQUEST.pack(len(content)) + content, deadline)
        kind, shape, payload = self._reply(deadline)
        if kind == PIXELS:
            return torch.frombuffer(payload, dtype=torch.uint8).reshape(shape)
        raise self._error(payload)

    def end(self) -> None:
        """Kill the process."""
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    def _send(self, message: bytes, deadline: float) -> None:
        try:
            self._channel.settimeout(_left_s(deadline))
            self._channel.sendall(message)
        except TimeoutError as error:
            self.healthy = False
            raise DecoderTooSlow("the decoder did not accept the image in time") from error
        except OSError as error:
            self.healthy = False
            raise ProcessLost(f"the decoder died: {error}") from error

    def _reply(self, deadline: float) -> tuple[int, tuple[int, int, int], bytearray]:
        """Receive a reply: kind, shape and payload, with the size of the payload checked against the shape."""
        kind, size, *sides = REPLY.unpack(self._receive(REPLY.size, deadline))
        channels, height, width = sides
        shape = (channels, height, width)
        image = kind == PIXELS and channels in (1, 3) and 0 < max(height, width) <= CANONICAL_SIDE
        fits = size == channels * height * width > 0 if image else kind in (READY, REFUSED) and size <= _MESSAGE_BYTES
        if not fits:
            self.healthy = False
            raise ProcessLost(f"the decoder sent kind {kind} with {size} bytes and shape {shape}")
        return kind, shape, self._receive(size, deadline)

    def _receive(self, size: int, deadline: float) -> bytearray:
        received = bytearray(size)
        view = memoryview(received)
        try:
            while view:
                self._channel.settimeout(_left_s(deadline))
                count = self._channel.recv_into(view)
                if count == 0:
                    raise ConnectionResetError("the connection was closed")
                view = view[count:]
        except TimeoutError as error:
            self.healthy = False
            raise DecoderTooSlow("the decoder did not answer in time") from error
        except OSError as error:
            self.healthy = False
            raise ProcessLost(f"the decoder died: {error}") from error
        return received

    def _error(self, payload: bytearray) -> ImageRejected:
        try:
            name, message = json.loads(payload)
            return _ERRORS[name](str(message))
        except (ValueError, KeyError, TypeError) as error:
            self.healthy = False
            raise ProcessLost("the decoder sent an invalid error message") from error


def _left_s(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _not_started(why: str) -> DecoderUnavailable:
    return DecoderUnavailable(
        f"a decoder process could not be started ({why}); try again in {RETRY_UNAVAILABLE_S} s; if it persists, check "
        "the limits on memory and processes of this machine",
        retry_after_s=RETRY_UNAVAILABLE_S,
    )
