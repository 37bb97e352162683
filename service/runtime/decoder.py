"""Decodes untrusted images: what a decoder is, and one that decodes in this process.

`service.runtime.decoder_pool` decodes in isolated processes.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import ImageRejected
from models.images.decoding import DecodedPixels, DecodeLimits, decode_pixels
from models.modalities.given import Given
from service.errors import RETRY_STOPPING_S, Overloaded


@dataclass(frozen=True, slots=True)
class Upload:
    """One uploaded file.

    Attributes:
        name: the sender's name for it.
        content: its bytes.
        second: the text or the numbers that came with it, or None.
        label: the class that it is taught as; empty for an image to predict.
    """

    name: str
    content: bytes
    second: Given | None = None
    label: str = ""

    def at_depth(self, image: DecodedImage, bit_depth: int | None) -> Tensor:
        """Return the pixels of this file at a bit depth; see `DecodedImage.at_depth`."""
        try:
            return image.at_depth(bit_depth)
        except ImageRejected as error:
            raise self.rejected(error) from error

    def rejected(self, error: ImageRejected) -> ImageRejected:
        """Return the error with the file's name, and its class, in front of its message."""
        named = f"{self.name} (class {self.label})" if self.label else self.name
        return type(error)(f"{named}: {error}") if self.name else error


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A canonical image.

    Attributes:
        pixels: uint8 (1 or 3, height, width).
        bit_depth: see `models.images.decoding.DecodedPixels`.
        zero: the same; uint8 (1, height, width) or None.
    """

    pixels: Tensor
    bit_depth: int | None = None
    zero: Tensor | None = None

    def at_depth(self, bit_depth: int | None) -> Tensor:
        """See `DecodedPixels.at_depth`."""
        zero = None if self.zero is None else self.zero.numpy()
        return torch.from_numpy(DecodedPixels(self.pixels.numpy(), self.bit_depth, zero).at_depth(bit_depth))


class Decoder(abc.ABC):
    """Decodes untrusted bytes into canonical images. Thread-safe."""

    @abc.abstractmethod
    def submit(
        self, uploads: Sequence[Upload], caller: str = "", limit_s: float = math.inf
    ) -> Future[list[DecodedImage]]:
        """Decode the files of one request. Cancelling the future gives up what is not decoded yet.

        Args:
            uploads: the files.
            caller: who sent them. Callers share the decoder equally.
            limit_s: time for all files together, including the time in the queue.

        Returns:
            A future of one image for each file. It may raise:
                ImageRejected: a file cannot be used; the subclass says why. It is the first such file.
                DeadlinePassed: the time limit has passed.
                DecoderUnavailable: no decoder could be reached; retry the request.
                Overloaded: the decoder was closed.
        """

    def decode(self, content: bytes) -> Tensor:
        """Decode one file to uint8 (1 or 3, height, width). Blocks; raises what the future of `submit` raises."""
        return self.submit([Upload("", content)]).result()[0].pixels

    def check(self) -> None:  # noqa: B027 - this default is for decoders that are always available
        """Raise DecoderUnavailable until images can be decoded, and while no decoder can be started."""

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

    def submit(
        self, uploads: Sequence[Upload], caller: str = "", limit_s: float = math.inf
    ) -> Future[list[DecodedImage]]:
        """See `Decoder.submit`. The time limit does not apply."""
        future: Future[list[DecodedImage]] = Future()
        if self._closed:
            raise closed()
        self._thread.submit(settle, future, lambda: self._decode_all(uploads, future))
        return future

    def close(self) -> None:
        """See `Decoder.close`."""
        self._closed = True
        self._thread.shutdown(cancel_futures=True)

    def _decode_all(self, uploads: Sequence[Upload], future: Future[list[DecodedImage]]) -> list[DecodedImage]:
        images: list[DecodedImage] = []
        for upload in uploads:
            if self._closed or future.cancelled():
                raise closed()
            try:
                decoded = decode_pixels(upload.content, self._limits)
                zero = None if decoded.zero is None else torch.from_numpy(decoded.zero)
                images.append(DecodedImage(torch.from_numpy(decoded.pixels), decoded.bit_depth, zero))
            except ImageRejected as error:
                raise upload.rejected(error) from error
        return images


def settle(future: Future[list[DecodedImage]], call: Callable[[], list[DecodedImage]]) -> None:
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
