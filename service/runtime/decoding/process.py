"""One decoder process as seen from here: started, sent an image, waited for no longer than allowed, ended.

It knows the frames of ``decoder_child.py`` and believes nothing that comes in them: whoever broke into the decoder
may answer what it likes. Which process takes which image is decided elsewhere.
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
from service.runtime.decoding.child import PIXELS, READY, REFUSED, REPLY, REQUEST, ChildBounds

PROGRAM: Final = "service.runtime.decoding.child"
"""The module that such a process runs."""

_START_LIMIT_S: Final = 60.0
_MESSAGE_BYTES: Final = 64 * 1024
_KINDS: Final[list[type[ImageRejected]]] = [ImageRejected, *ImageRejected.__subclasses__()]
_REFUSALS: Final = {kind.__name__: kind for kind in _KINDS}


class ProcessLost(AnoleError):
    """The process died, or answered what no decoder answers."""


class DecoderTooSlow(AnoleError):
    """The time for the image was over."""


class DecoderProcess:
    """A process that decodes one image after another.

    Args:
        bounds: what it may use.
        environment: what it finds in its own, the path to its code apart.
        program: the module that it runs.

    Attributes:
        sound: False once it failed; it must not be used then.
        images: how many it was sent.
    """

    def __init__(self, bounds: ChildBounds, environment: Mapping[str, str], program: str = PROGRAM) -> None:
        self.sound = True
        self.images = 0
        self._ready = False
        self._channel, theirs = socket.socketpair()
        code = os.pathsep.join(str(Path(step).absolute()) for step in sys.path)
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    [sys.executable, "-s", "-P", "-m", program, bounds.to_text()],
                    env={**environment, "PYTHONPATH": code, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # the terminal's Ctrl-C is for the service, which then ends this one
                )
            except OSError as error:
                self._channel.close()
                raise _no_start(str(error)) from error

    @property
    def process_id(self) -> int:
        """As the system knows it."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Wait for the process to have started; nothing is held against an image for that.

        Raises:
            DecoderUnavailable: it did not start.
        """
        if self._ready:
            return
        try:
            kind, _, _ = self._answer(time.monotonic() + _START_LIMIT_S)
        except (ProcessLost, DecoderTooSlow) as error:
            raise _no_start(str(error)) from error
        if kind != READY:
            self.sound = False
            raise _no_start(f"its first word was {kind}")
        self._ready = True

    def decode(self, content: bytes, limit_s: float) -> Tensor:
        """Have one image decoded: uint8 (1 or 3, height, width).

        Raises:
            ImageRejected: by the decoder's own judgement.
            ProcessLost, DecoderTooSlow: the process is of no more use.
        """
        self.images += 1
        until = time.monotonic() + limit_s
        self._send(REQUEST.pack(len(content)) + content, until)
        kind, shape, payload = self._answer(until)
        if kind == PIXELS:
            return torch.frombuffer(payload, dtype=torch.uint8).reshape(shape)
        raise self._refusal(payload)

    def end(self) -> None:
        """End the process at once."""
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    def _send(self, message: bytes, until: float) -> None:
        try:
            self._channel.settimeout(_left_s(until))
            self._channel.sendall(message)
        except TimeoutError as error:
            self.sound = False
            raise DecoderTooSlow("the decoder did not take the image") from error
        except OSError as error:
            self.sound = False
            raise ProcessLost(f"the decoder died: {error}") from error

    def _answer(self, until: float) -> tuple[int, tuple[int, int, int], bytearray]:
        """Kind, shape and payload, the last two fitting each other."""
        kind, size, *sides = REPLY.unpack(self._exactly(REPLY.size, until))
        channels, height, width = sides
        shape = (channels, height, width)
        image = kind == PIXELS and channels in (1, 3) and 0 < max(height, width) <= CANONICAL_SIDE
        fits = size == channels * height * width > 0 if image else kind in (READY, REFUSED) and size <= _MESSAGE_BYTES
        if not fits:
            self.sound = False
            raise ProcessLost(f"the decoder answered kind {kind} with {size} bytes of {shape}")
        return kind, shape, self._exactly(size, until)

    def _exactly(self, size: int, until: float) -> bytearray:
        received = bytearray(size)
        view = memoryview(received)
        try:
            while view:
                self._channel.settimeout(_left_s(until))
                count = self._channel.recv_into(view)
                if count == 0:
                    raise ConnectionResetError("it closed its end")
                view = view[count:]
        except TimeoutError as error:
            self.sound = False
            raise DecoderTooSlow("the decoder did not answer in time") from error
        except OSError as error:
            self.sound = False
            raise ProcessLost(f"the decoder died: {error}") from error
        return received

    def _refusal(self, payload: bytearray) -> ImageRejected:
        try:
            name, message = json.loads(payload)
            return _REFUSALS[name](str(message))
        except (ValueError, KeyError, TypeError) as error:
            self.sound = False
            raise ProcessLost("the decoder refused in words that are none of a decoder's") from error


def _left_s(until: float) -> float:
    left_s = until - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _no_start(why: str) -> DecoderUnavailable:
    return DecoderUnavailable(
        f"a decoder process could not be started ({why}); try again in {RETRY_UNAVAILABLE_S} s; if it persists, check "
        "the limits on memory and processes of this machine",
        retry_after_s=RETRY_UNAVAILABLE_S,
    )
