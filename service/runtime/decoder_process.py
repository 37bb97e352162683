"""One decoder process, seen from the service. `decoder_child.py` is the program that it runs.

Nothing that the process sends is trusted: an exploited decoder may send anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import torch

from models.errors import AnoleError, ImageRejected
from models.images.decoding import CANONICAL_MAX_SIDE, CANONICAL_PIXELS
from models.images.depth import DEPTHS
from service.errors import RETRY_UNAVAILABLE_S, DecoderUnavailable
from service.runtime.decoder import DecodedImage
from service.runtime.decoder_child import LARGE, PIXELS, READY, REFUSED, REPLY, REQUEST, ChildLimits

PROGRAM: Final = "service.runtime.decoder_child"
"""The module that the process runs."""

_START_LIMIT_S: Final = 60.0
_EXIT_LIMIT_S: Final = 1.0
_LOOK_EVERY_S: Final = 0.1
_MESSAGE_BYTES: Final = 64 * 1024
_KINDS: Final[list[type[ImageRejected]]] = [ImageRejected, *ImageRejected.__subclasses__()]
_ERRORS: Final = {kind.__name__: kind for kind in _KINDS}


class ProcessLost(AnoleError):
    """The process died, or sent an invalid reply.

    Attributes:
        blames_image: whether the image can be the cause. A process that was killed from outside is no evidence.
    """

    def __init__(self, message: str, *, blames_image: bool = True) -> None:
        self.blames_image = blames_image
        super().__init__(message)


class DecoderTooSlow(AnoleError):
    """The process did not reply within the time limit."""


class NotWanted(AnoleError):
    """The request of the image has ended."""


class NeedsMemory(AnoleError):
    """The image takes much memory to decode, and the request did not allow that."""


class DecoderProcess:
    """A process that decodes one image after another. After an error other than `ImageRejected` and `NeedsMemory` it
    must be ended.

    Args:
        limits: resource limits of the process.
        environment: its environment variables; the path to the code is added.
        program: the module that it runs.

    Attributes:
        images: number of images sent to it.
    """

    def __init__(self, limits: ChildLimits, environment: Mapping[str, str], program: str = PROGRAM) -> None:
        self.images = 0
        self._cpu_s = limits.cpu_s
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

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def wait_until_ready(self, wanted: Callable[[], bool] = lambda: True) -> None:
        """Wait until the process has started.

        Raises:
            DecoderUnavailable: the process did not start.
            NotWanted: `wanted` returned False.
        """
        try:
            kind, *_ = self._reply(time.monotonic() + _START_LIMIT_S, wanted)
        except (ProcessLost, DecoderTooSlow) as error:
            raise _not_started(str(error)) from error
        if kind != READY:
            raise _not_started(f"its first message was of kind {kind}")

    def decode(
        self, content: bytes, limit_s: float, wanted: Callable[[], bool] = lambda: True, *, large: bool = True
    ) -> DecodedImage:
        """Decode one image.

        Args:
            content: the image file.
            limit_s: time limit in seconds.
            wanted: called several times a second; False ends the wait.
            large: whether decoding may take more memory than `models.images.decoding.SMALL_BYTES`.

        Raises:
            ImageRejected: the decoder rejected the image.
            NeedsMemory: it takes more memory than that.
            ProcessLost, DecoderTooSlow, NotWanted: the process can no longer be used.
        """
        self.images += 1
        deadline = time.monotonic() + limit_s
        unsent = memoryview(REQUEST.pack(len(content), large) + content)
        while unsent:
            unsent = unsent[self._moved(self._channel.send, unsent, deadline, wanted) :]
        kind, shape, bit_depth, payload = self._reply(deadline, wanted)
        if kind == PIXELS:
            planes = torch.frombuffer(payload, dtype=torch.uint8).reshape(shape)
            pixels, zero = (planes, None) if shape[0] % 2 else (planes[:-1], planes[-1:])
            return DecodedImage(pixels, bit_depth or None, zero)
        if kind == LARGE and not large:
            raise NeedsMemory("the image takes much memory to decode")
        raise _refusal(payload)

    def end(self) -> None:
        """Kill the process."""
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    def _reply(self, deadline: float, wanted: Callable[[], bool]) -> tuple[int, tuple[int, int, int], int, bytearray]:
        """Receive a reply: kind, shape, bit depth and payload, whose size is checked against the shape."""
        head = REPLY.unpack(self._receive(REPLY.size, deadline, wanted))
        kind, size, channels, height, width, bit_depth = head
        shape = (channels, height, width)
        bounded = height * width <= CANONICAL_PIXELS and max(height, width) <= CANONICAL_MAX_SIDE
        if kind == PIXELS:
            fits = (
                channels in (1, 2, 3, 4)
                and bounded
                and bit_depth in (0, *DEPTHS)
                and size == channels * height * width > 0
            )
        else:
            fits = kind in (READY, REFUSED, LARGE) and size <= _MESSAGE_BYTES
        if not fits:
            raise ProcessLost(f"the decoder sent kind {kind} with {size} bytes and shape {shape}")
        return kind, shape, bit_depth, self._receive(size, deadline, wanted)

    def _receive(self, size: int, deadline: float, wanted: Callable[[], bool]) -> bytearray:
        received = bytearray(size)
        view = memoryview(received)
        while view:
            count = self._moved(self._channel.recv_into, view, deadline, wanted)
            if count == 0:
                raise self._lost("the connection was closed")
            view = view[count:]
        return received

    def _moved(
        self, move: Callable[[memoryview], int], data: memoryview, deadline: float, wanted: Callable[[], bool]
    ) -> int:
        """Send or receive some bytes and return how many, looking at times whether the image is still wanted."""
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise DecoderTooSlow("the decoder did not reply in time")
            self._channel.settimeout(min(left_s, _LOOK_EVERY_S))
            try:
                return move(data)
            except TimeoutError:
                if not wanted():
                    raise NotWanted("the request of the image has ended") from None
            except OSError as error:
                raise self._lost(str(error)) from error

    def _lost(self, why: str) -> ProcessLost:
        """Describe the end of the process. Only a process that ended by itself is evidence against its image."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self._process.wait(_EXIT_LIMIT_S)
            if status == -signal.SIGXCPU:
                return ProcessLost(f"decoding took more than {self._cpu_s} s of processor time")
            why = f"{why}, exit status {status}"
            return ProcessLost(
                f"the decoder died: {why}", blames_image=status not in (-signal.SIGKILL, -signal.SIGTERM)
            )
        return ProcessLost(f"the decoder died: {why}")


def _refusal(payload: bytearray) -> ImageRejected:
    try:
        name, message = json.loads(payload)
        return _ERRORS[name](str(message))
    except (ValueError, KeyError, TypeError) as error:
        raise ProcessLost("the decoder sent an invalid error message") from error


def _not_started(why: str) -> DecoderUnavailable:
    return DecoderUnavailable(
        f"a decoder process could not be started ({why}); try again in {RETRY_UNAVAILABLE_S} s; if it persists, check "
        "the limits on memory and processes of this machine",
        retry_after_s=RETRY_UNAVAILABLE_S,
    )
