"""Decodes untrusted images in this process or in a pool of isolated processes.

Image decoders are C code. On hostile input they may hang, crash or exhaust memory. In the pool that costs one image:
each process runs under system limits (see ``child.py``), is killed when an image takes too long, and is replaced. An
image that crashed or hung a process is remembered by its digest and rejected from then on.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from torch import Tensor

from models.errors import ImageUndecodable
from models.images.preprocessing import DecodeLimits, decode
from service.errors import RETRY_BUSY_S, DecoderUnavailable
from service.runtime.decoding.child import ChildLimits
from service.runtime.decoding.process import PROGRAM, DecoderProcess, DecoderTooSlow, ProcessLost

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


class InlineDecoder(Decoder):
    """Decodes in this process. An image that crashes the decoder crashes the service."""

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits

    def decode(self, content: bytes) -> Tensor:
        """See `Decoder.decode`."""
        return decode(content, self._limits)

    def metrics(self) -> Mapping[str, float]:
        """See `Decoder.readings`."""
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
        """See `Decoder.readings`."""
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
