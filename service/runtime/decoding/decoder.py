"""Where images are decoded: in this process, or in small ones that may be lost.

A decoder is C code fed with hostile bytes. What it can do wrong beyond raising, hanging, dying, eating memory, must
cost the image that caused it and nothing else, so a pool of processes does it: each is confined by the system
(``decoder_child.py``), killed when an image takes too long, and replaced. An image that cost a process its life is
known by its digest and refused from then on. It knows no file name, no client and no format.
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
from service.runtime.decoding.child import ChildBounds
from service.runtime.decoding.process import PROGRAM, DecoderProcess, DecoderTooSlow, ProcessLost

_REMEMBERED: Final = 1024


class Decoder(Protocol):
    """Turns untrusted bytes into canonical images."""

    def decode(self, content: bytes) -> Tensor:
        """Decode one file: uint8 (1 or 3, height, width). Blocks.

        Raises:
            ImageRejected: one of its subclasses says why.
            DecoderUnavailable: nothing was found out about the image; it can be sent again.
        """
        ...

    def metrics(self) -> Mapping[str, float]:
        """Figures of the moment, by name."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class InlineDecoder(Decoder):
    """Decodes in this process: nothing to start, and an image that kills the decoder kills the service."""

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
class PoolBounds:
    """How many processes decode, and what each may use.

    Attributes:
        processes: of the pool.
        image_s: wall-clock seconds for one image; past them its process is killed.
        memory_bytes: address space of one process.
        images_each: after so many a process is replaced, so that what leaks in it does not add up.
    """

    processes: int = 2
    image_s: float = 5.0
    memory_bytes: int = 1024 * 1024 * 1024
    images_each: int = 5000


class DecoderPool(Decoder):
    """Processes that decode, one image at a time each; safe from any number of threads.

    Args:
        limits: what an image may claim.
        bounds: of the pool.
        environment: what the processes find in theirs; no secrets.
        program: the module that they run.
    """

    def __init__(
        self, limits: DecodeLimits, bounds: PoolBounds, environment: Mapping[str, str], program: str = PROGRAM
    ) -> None:
        self._bounds = bounds
        self._child = ChildBounds(limits, bounds.memory_bytes, int(bounds.image_s) + 1)
        self._environment = environment
        self._program = program
        self._free = threading.Condition()
        self._idle: deque[DecoderProcess] = deque()
        self._closed = False
        self._deadly: OrderedDict[bytes, None] = OrderedDict()
        self._lost = 0
        self._missing = 0
        try:
            for _ in range(bounds.processes):
                self._idle.append(self._started())
        except BaseException:
            self.close()
            raise

    def decode(self, content: bytes) -> Tensor:
        """See `Decoder.decode`; an image whose process dies is tried once more, one that hangs is not."""
        self._refuse_deadly(content)
        try:
            try:
                return self._once(content)
            except ProcessLost:
                return self._once(content)
        except ProcessLost as error:
            self._remember(content)
            raise ImageUndecodable(
                "the decoder did not survive the image twice; it will not be tried again: convert it to another format"
            ) from error
        except DecoderTooSlow as error:
            self._remember(content)
            raise ImageUndecodable(
                f"decoding the image took more than {self._bounds.image_s:g} s and was ended; it will not be tried "
                "again: send a smaller one, or convert it to another format"
            ) from error

    def metrics(self) -> Mapping[str, float]:
        """See `Decoder.readings`."""
        return {"decoder_processes_lost_total": self._lost, "decoder_images_quarantined": len(self._deadly)}

    def process_ids(self) -> list[int]:
        """Of the processes that wait for an image."""
        with self._free:
            return [process.process_id for process in self._idle]

    def close(self) -> None:
        """See `Decoder.close`; a process that is at work ends when its image is done."""
        with self._free:
            self._closed = True
            idle = list(self._idle)
            self._idle.clear()
        for process in idle:
            process.end()

    def _once(self, content: bytes) -> Tensor:
        process = self._taken()
        try:
            process.wait_until_ready()
            return process.decode(content, self._bounds.image_s)
        finally:
            self._give_back(process)

    def _taken(self) -> DecoderProcess:
        until = time.monotonic() + self._bounds.image_s
        with self._free:
            while not self._idle and not self._missing:
                left_s = until - time.monotonic()
                if self._closed or left_s <= 0 or not self._free.wait(left_s):
                    raise DecoderUnavailable(
                        f"no decoder was free for {self._bounds.image_s:g} s; try again in {RETRY_BUSY_S} s",
                        retry_after_s=RETRY_BUSY_S,
                    )
            if self._idle:
                return self._idle.pop()
            self._missing -= 1
        return self._started()

    def _give_back(self, process: DecoderProcess) -> None:
        """Put the process back on top, or a fresh one below the others, so that it has started when its turn comes."""
        if process.sound and process.images < self._bounds.images_each:
            with self._free:
                if not self._closed:
                    self._idle.append(process)
                    self._free.notify()
                    return
        process.end()
        self._lost += not process.sound
        if self._closed:
            return
        fresh = self._started()
        with self._free:
            self._idle.appendleft(fresh)
            self._free.notify()

    def _started(self) -> DecoderProcess:
        """A fresh process; where none can be had, somebody who needs one will try again."""
        try:
            return DecoderProcess(self._child, self._environment, self._program)
        except BaseException:
            with self._free:
                self._missing += 1
                self._free.notify()
            raise

    def _refuse_deadly(self, content: bytes) -> None:
        if self._deadly and hashlib.sha256(content).digest() in self._deadly:
            raise ImageUndecodable("a decoder hung or died on this image before; convert it to another format")

    def _remember(self, content: bytes) -> None:
        with self._free:
            self._deadly[hashlib.sha256(content).digest()] = None
            while len(self._deadly) > _REMEMBERED:
                self._deadly.popitem(last=False)
