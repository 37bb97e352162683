"""Decodes untrusted images: what a decoder is, and one that decodes in this process.

`service.runtime.decoder_pool` decodes in isolated processes.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from models.errors import ImageRejected
from models.images.decoding import DecodeLimits
from models.images.preprocessing import decode
from service.errors import RETRY_STOPPING_S, Overloaded


@dataclass(frozen=True, slots=True)
class Upload:
    """One uploaded file: the sender's name for it, and its bytes."""

    name: str
    content: bytes

    def rejected(self, error: ImageRejected) -> ImageRejected:
        """Return the error with the file's name in front of its message."""
        return type(error)(f"{self.name}: {error}") if self.name else error


class Decoder(abc.ABC):
    """Decodes untrusted bytes into canonical images. Thread-safe."""

    @abc.abstractmethod
    def submit(self, uploads: Sequence[Upload], caller: str = "", limit_s: float = math.inf) -> Future[list[Tensor]]:
        """Decode the files of one request. Cancelling the future gives up what is not decoded yet.

        Args:
            uploads: the files.
            caller: who sent them. Callers share the decoder equally.
            limit_s: time for all files together, including the time in the queue.

        Returns:
            A future of one uint8 image (1 or 3, height, width) for each file. It may raise:
                ImageRejected: a file cannot be used; the subclass says why. It is the first such file.
                DeadlinePassed: the time limit has passed.
                DecoderUnavailable: no decoder could be reached; retry the request.
                Overloaded: the decoder was closed.
        """

    def decode(self, content: bytes) -> Tensor:
        """Decode one file. Blocks; raises what the future of `submit` raises."""
        return self.submit([Upload("", content)]).result()[0]

    def metrics(self) -> Mapping[str, float]:
        """Return counters and gauges by name."""
        return {}

    @abc.abstractmethod
    def close(self) -> None:
        """Give up all work and release all processes and threads."""


class InlineDecoder(Decoder):
    """Decodes in this process, one image at a time. An image that crashes the decoder crashes the service."""

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits
        self._thread = ThreadPoolExecutor(1, "decode")
        self._closed = False

    def submit(self, uploads: Sequence[Upload], caller: str = "", limit_s: float = math.inf) -> Future[list[Tensor]]:
        """See `Decoder.submit`. The time limit does not apply."""
        future: Future[list[Tensor]] = Future()
        if self._closed:
            raise closed()
        self._thread.submit(settle, future, lambda: self._decode_all(uploads, future))
        return future

    def close(self) -> None:
        """See `Decoder.close`."""
        self._closed = True
        self._thread.shutdown(cancel_futures=True)

    def _decode_all(self, uploads: Sequence[Upload], future: Future[list[Tensor]]) -> list[Tensor]:
        images: list[Tensor] = []
        for upload in uploads:
            if self._closed or future.cancelled():
                raise closed()
            try:
                images.append(decode(upload.content, self._limits))
            except ImageRejected as error:
                raise upload.rejected(error) from error
        return images


def settle(future: Future[list[Tensor]], call: Callable[[], list[Tensor]]) -> None:
    """Make the result or the error of `call` that of `future`, unless it was cancelled."""
    try:
        images = call()
    except Exception as error:  # noqa: BLE001 - it becomes the error of the future
        if future.set_running_or_notify_cancel():
            future.set_exception(error)
    else:
        if future.set_running_or_notify_cancel():
            future.set_result(images)


def closed() -> Overloaded:
    """The error of work that was given up because the service stops."""
    return Overloaded(f"the service is stopping; try again in {RETRY_STOPPING_S} s", retry_after_s=RETRY_STOPPING_S)
