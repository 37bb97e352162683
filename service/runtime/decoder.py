"""Decodes untrusted images in this process or in a pool of isolated processes.

Image decoders are C code. On hostile input they may hang, crash or exhaust memory. In the pool that costs one image:
each process runs under system limits (see ``decoder_child.py``), is killed when an image takes too long, and is
replaced. An image that crashed or hung a process is remembered by its digest and rejected from then on. An exploited
decoder may send anything, so every reply is validated.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import torch
from torch import Tensor

from models.errors import AnoleError, ImageRejected, ImageUndecodable
from models.images.decoding import CANONICAL_MAX_SIDE, CANONICAL_PIXELS, DecodeLimits
from models.images.preprocessing import decode
from service.errors import RETRY_BUSY_S, RETRY_UNAVAILABLE_S, DecoderUnavailable
from service.runtime.decoder_child import PIXELS, READY, REFUSED, REPLY, REQUEST, ChildLimits

PROGRAM: Final = "service.runtime.decoder_child"
"""The module that the process runs."""

_START_LIMIT_S: Final = 60.0
_MESSAGE_BYTES: Final = 64 * 1024
_KINDS: Final[list[type[ImageRejected]]] = [ImageRejected, *ImageRejected.__subclasses__()]
_ERRORS: Final = {kind.__name__: kind for kind in _KINDS}
_MAX_REJECTED: Final = 1024


class Decoder(Protocol):
    """Decodes untrusted bytes into canonical images."""

    def decode(self, content: bytes) -> Tensor:
        """Decode one file to uint8 (1 or 3, height, width). Blocks.

        Raises:
            ImageRejected: the image cannot be used; the subclass says why.
            DecoderUnavailable: no decoder could be reached; retry the image.
        """
        ...

    def metrics(self) -> Mapping[str, float]:
        """Return counters and gauges by name."""
        ...

    def close(self) -> None:
        """Stop the decoder and release its processes."""
        ...


@dataclass(frozen=True, slots=True)
class Upload:
    """One uploaded file: the sender's name for it, and its bytes."""

    name: str
    content: bytes

    def decode(self, decoder: Decoder) -> Tensor:
        """Decode the file to its canonical image. Errors begin with the file's name.

        Raises:
            ImageRejected, DecoderUnavailable.
        """
        try:
            return decoder.decode(self.content)
        except ImageRejected as error:
            raise type(error)(f"{self.name}: {error}") from error


class InlineDecoder(Decoder):
    """Decodes in this process. An image that crashes the decoder crashes the service."""

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits

    def decode(self, content: bytes) -> Tensor:
        """See `Decoder.decode`."""
        return decode(content, self._limits)

    def metrics(self) -> Mapping[str, float]:
        """See `Decoder.metrics`."""
        return {}

    def close(self) -> None:
        """See `Decoder.close`."""


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """Size and limits of a decoder pool.

    Attributes:
        processes: number of processes.
        image_s: wall-clock seconds per image, after which its process is killed.
        memory_bytes: address space of one process.
        images_each: images after which a process is replaced, so that leaks do not accumulate.
    """

    processes: int = 2
    image_s: float = 5.0
    memory_bytes: int = 1024 * 1024 * 1024
    images_each: int = 5000


class DecoderPool(Decoder):
    """A pool of decoder processes, each decoding one image at a time. Thread-safe.

    Args:
        limits: of an image.
        config: size and limits of the pool.
        environment: environment variables of the processes; it must not contain secrets.
        program: the module that the processes run.
    """

    def __init__(
        self, limits: DecodeLimits, config: PoolConfig, environment: Mapping[str, str], program: str = PROGRAM
    ) -> None:
        self._config = config
        self._child = ChildLimits(limits, config.memory_bytes, int(config.image_s) + 1)
        self._environment = environment
        self._program = program
        self._free = threading.Condition()
        self._idle: deque[DecoderProcess] = deque()
        self._closed = False
        self._rejected: OrderedDict[bytes, None] = OrderedDict()
        self._lost = 0
        self._missing = 0
        try:
            for _ in range(config.processes):
                self._idle.append(self._start())
        except BaseException:
            self.close()
            raise

    def decode(self, content: bytes) -> Tensor:
        """See `Decoder.decode`. After a crash the image is retried once; after a timeout it is not."""
        self._check_not_rejected(content)
        try:
            try:
                return self._once(content)
            except ProcessLost:
                return self._once(content)
        except ProcessLost as error:
            self._remember(content)
            raise ImageUndecodable(
                "the image crashed the decoder twice and will not be tried again; convert it to another format"
            ) from error
        except DecoderTooSlow as error:
            self._remember(content)
            raise ImageUndecodable(
                f"decoding the image took more than {self._config.image_s:g} s; it will not be tried again: send a "
                "smaller image, or convert it to another format"
            ) from error

    def metrics(self) -> Mapping[str, float]:
        """See `Decoder.metrics`."""
        return {"decoder_processes_lost_total": self._lost, "decoder_images_quarantined": len(self._rejected)}

    def process_ids(self) -> list[int]:
        """Return the ids of the idle processes."""
        with self._free:
            return [process.process_id for process in self._idle]

    def close(self) -> None:
        """See `Decoder.close`. A busy process ends after its image."""
        with self._free:
            self._closed = True
            idle = list(self._idle)
            self._idle.clear()
        for process in idle:
            process.end()

    def _once(self, content: bytes) -> Tensor:
        process = self._acquire()
        try:
            process.wait_until_ready()
            return process.decode(content, self._config.image_s)
        finally:
            self._release(process)

    def _acquire(self) -> DecoderProcess:
        deadline = time.monotonic() + self._config.image_s
        with self._free:
            while not self._idle and not self._missing:
                left_s = deadline - time.monotonic()
                if self._closed or left_s <= 0 or not self._free.wait(left_s):
                    raise DecoderUnavailable(
                        f"no decoder was free for {self._config.image_s:g} s; try again in {RETRY_BUSY_S} s",
                        retry_after_s=RETRY_BUSY_S,
                    )
            if self._idle:
                return self._idle.pop()
            self._missing -= 1
        return self._start()

    def _release(self, process: DecoderProcess) -> None:
        """Return the process to the top of the stack, or put a new one at the bottom, where it has time to start."""
        if process.healthy and process.images < self._config.images_each:
            with self._free:
                if not self._closed:
                    self._idle.append(process)
                    self._free.notify()
                    return
        process.end()
        self._lost += not process.healthy
        if self._closed:
            return
        fresh = self._start()
        with self._free:
            self._idle.appendleft(fresh)
            self._free.notify()

    def _start(self) -> DecoderProcess:
        """Start a process. If that fails, the next caller that needs one tries again."""
        try:
            return DecoderProcess(self._child, self._environment, self._program)
        except BaseException:
            with self._free:
                self._missing += 1
                self._free.notify()
            raise

    def _check_not_rejected(self, content: bytes) -> None:
        if self._rejected and hashlib.sha256(content).digest() in self._rejected:
            raise ImageUndecodable("this image made a decoder hang or crash before; convert it to another format")

    def _remember(self, content: bytes) -> None:
        with self._free:
            self._rejected[hashlib.sha256(content).digest()] = None
            while len(self._rejected) > _MAX_REJECTED:
                self._rejected.popitem(last=False)


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
        bounded = height * width <= CANONICAL_PIXELS and max(height, width) <= CANONICAL_MAX_SIDE
        image = kind == PIXELS and channels in (1, 3) and bounded
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
